"""Folding batch norm leaves the function as it was."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import qlab.nn.intrinsic as nni
from qlab.errors import ShapeError, UnsupportedError
from qlab.nn.intrinsic.fold import core, fold_batch_norm


def trained(batch_norm: nn.Module) -> nn.Module:
    """A batch norm with statistics and weights that are not those of a fresh one."""
    batch_norm.running_mean.uniform_(-2, 2)
    batch_norm.running_var.uniform_(0.1, 4)
    if batch_norm.affine:
        nn.init.uniform_(batch_norm.weight, -2, 2)
        nn.init.uniform_(batch_norm.bias, -1, 1)
    return batch_norm.eval()


CASES = {
    "linear": (nn.Linear(6, 4), nn.BatchNorm1d(4), (5, 6)),
    "conv1d": (nn.Conv1d(2, 4, 3), nn.BatchNorm1d(4), (2, 2, 9)),
    "conv2d": (nn.Conv2d(4, 8, 3, groups=2, padding=1), nn.BatchNorm2d(8), (2, 4, 7, 7)),
    "conv2d without bias": (nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4), (2, 2, 7, 7)),
    "conv2d, plain norm": (nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4, affine=False), (2, 2, 7, 7)),
    "conv3d": (nn.Conv3d(2, 4, 2), nn.BatchNorm3d(4, eps=1e-2), (1, 2, 4, 4, 4)),
}


@pytest.mark.parametrize("name", CASES)
def test_the_folded_layer_computes_the_same(name: str):
    layer, batch_norm, shape = CASES[name]
    layer, batch_norm = layer.eval(), trained(batch_norm)
    before = layer.weight.clone()
    x = torch.randn(shape)
    folded = fold_batch_norm(layer, batch_norm)
    torch.testing.assert_close(folded(x), batch_norm(layer(x)), rtol=1e-5, atol=1e-5)
    assert torch.equal(layer.weight, before)


@given(st.floats(-4, 4), st.floats(-4, 4), st.floats(1e-3, 9), st.floats(-3, 3), st.floats(-3, 3))
def test_the_formula(w: float, mean: float, var: float, gamma: float, beta: float):
    layer, batch_norm = nn.Linear(1, 1).double(), nn.BatchNorm1d(1, eps=1e-3).double()
    for tensor, value in (
        (layer.weight, w),
        (layer.bias, 0.5),
        (batch_norm.running_mean, mean),
        (batch_norm.running_var, var),
        (batch_norm.weight, gamma),
        (batch_norm.bias, beta),
    ):
        tensor.data.fill_(value)
    folded = fold_batch_norm(layer, batch_norm)
    root = (var + 1e-3) ** 0.5
    assert folded.weight.item() == pytest.approx(w * gamma / root, rel=1e-12)
    assert folded.bias.item() == pytest.approx((0.5 - mean) * gamma / root + beta, abs=1e-12)


def test_core_of_fused_modules():
    conv, batch_norm, relu = nn.Conv2d(2, 4, 3), trained(nn.BatchNorm2d(4)), nn.ReLU()
    folded = fold_batch_norm(conv, batch_norm)
    for fused in (nni.ConvBn2d(conv, batch_norm), nni.ConvBnReLU2d(conv, batch_norm, relu)):
        assert torch.equal(core(fused).weight, folded.weight)
    assert core(nni.ConvReLU2d(conv, relu)) is conv
    assert core(nni.BNReLU2d(batch_norm, relu)) is batch_norm
    assert core(conv) is conv


def test_a_norm_without_statistics_is_refused():
    with pytest.raises(UnsupportedError, match="without running statistics"):
        fold_batch_norm(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4, track_running_stats=False))


def test_other_channels_are_refused():
    with pytest.raises(ShapeError, match=r"Expected 4 channels\. Received 5 channels"):
        fold_batch_norm(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(5))


def test_other_layers_are_refused():
    with pytest.raises(UnsupportedError, match="Received ReLU"):
        fold_batch_norm(nn.ReLU(), nn.BatchNorm2d(5))
