"""Whole sequences of recurrent units: what steps one after the other give, bit by bit."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.rnn import pack_sequence

from qlab import ops
from qlab.errors import NonFiniteError
from qlab.nn.quantized import dynamic
from qlab.nn.quantized.dynamic import layers
from qlab.ops import compiled
from qlab.ops.dynamic import Bound
from qlab.ops.recurrent import scannable
from qlab.qconfig import default_dynamic_qconfig

pytestmark = pytest.mark.skipif(
    compiled.unavailable() is not None or ops.onednn.unavailable() is not None,
    reason="needs Numba and a CPU with VNNI",
)
KINDS = ("LSTM", "GRU")


def quantized(kind: str, size: int = 32, **options):
    source = getattr(nn, kind)(5, size, **options).eval()
    source.qconfig = default_dynamic_qconfig
    return getattr(dynamic, kind).from_float(source)


@pytest.fixture
def scans(monkeypatch) -> list[str]:
    """The units that ran as whole sequences."""
    found: list[str] = []
    scan = Bound.scan

    def noted(self, unit, *args, **kwargs):
        found.append(unit)
        return scan(self, unit, *args, **kwargs)

    monkeypatch.setattr(Bound, "scan", noted)
    return found


def everything(result) -> torch.Tensor:
    y, state = result
    return torch.cat([y.flatten(), *(part.flatten() for part in state)])


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 5), st.integers(1, 4), st.sampled_from([32, 96]), st.booleans(), st.booleans(),
    st.sampled_from([1e-6, 1.0, 30.0]),
)  # fmt: skip
def test_sequences_equal_their_steps(kind, length, batch, size, bias, both, loud):
    layer = quantized(kind, size, bias=bias, bidirectional=both, num_layers=2)
    x = loud * torch.randn(length, batch, 5)
    whole = layer(x)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layers, "scannable", lambda *shape: False)
        steps = layer(x)
        assert torch.equal(everything(whole), everything(steps))
        steps = layer(x, steps[1])
    assert torch.equal(everything(layer(x, whole[1])), everything(steps))


@pytest.mark.parametrize("kind", KINDS)
def test_which_sequences_run_whole(kind, scans):
    layer, x = quantized(kind), torch.randn(4, 2, 5)
    layer(x)
    assert scans == [kind.lower()]
    quantized(kind, 33)(x)  # PyTorch's sigmoid treats the 33rd feature otherwise
    layer(pack_sequence([x[:, 0], x[:2, 1]]))  # of two lengths
    with ops.use("reference"):
        layer(x)
    hx = torch.zeros(1, 2, 32, requires_grad=True)
    layer(x, hx if kind == "GRU" else (hx.detach(), hx))
    assert len(scans) == 1
    layer(pack_sequence([x[:, 0], x[:, 1]]))
    assert len(scans) == 2


def test_runs_are_counted():
    layer = quantized("LSTM")
    ops.reset_counts()
    layer(torch.randn(7, 2, 5))
    assert ops.counts()["linear", "onednn"] == 8  # the input once, the state seven times


@pytest.mark.parametrize("kind", KINDS)
def test_initial_states_stay_as_they_are(kind):
    layer, h = quantized(kind), torch.ones(1, 2, 32)
    state = h if kind == "GRU" else (h, h.clone())
    layer(torch.randn(4, 2, 5), state)
    assert all(bool((part == 1).all()) for part in (state if kind == "LSTM" else [state]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_states_must_be_finite(kind, bad, scans):
    layer, h = quantized(kind), torch.zeros(1, 2, 32)
    h[0, 1, 3] = bad
    with pytest.raises(NonFiniteError, match="the input must be finite"):
        layer(torch.randn(4, 2, 5), h if kind == "GRU" else (h, torch.zeros(1, 2, 32)))
    assert scans


def test_what_is_scannable():
    assert scannable(8, 256) and scannable(1, 32)
    assert not scannable(8, 40)
    assert not scannable(64, 256)  # PyTorch would cut the gates into parts per thread
