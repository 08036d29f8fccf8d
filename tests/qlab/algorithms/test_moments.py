import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from qlab.algorithms import moments as subject
from qlab.algorithms.moments import Moments, columns_of, linear_map
from qlab.errors import ArgumentError, ShapeError, UnsupportedError
from qlab.nn.intrinsic import ConvReLU2d, LinearReLU

LAYERS = {
    "linear": (lambda: nn.Linear(6, 5), (3, 6)),
    "linear of tokens": (lambda: nn.Linear(6, 5), (2, 3, 6)),
    "conv1d dilated": (lambda: nn.Conv1d(4, 6, 3, dilation=2), (3, 4, 9)),
    "conv2d strided": (
        lambda: nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 0)),
        (3, 4, 7, 6),
    ),
    "conv2d grouped": (lambda: nn.Conv2d(4, 6, 3, groups=2, padding=1), (3, 4, 5, 5)),
    "depthwise": (lambda: nn.Conv2d(4, 4, 3, groups=4, padding="same"), (3, 4, 5, 5)),
    "reflected": (lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"), (3, 4, 5, 5)),
    "conv3d": (lambda: nn.Conv3d(2, 3, 2, stride=2), (2, 2, 4, 4, 4)),
    "one image": (lambda: nn.Conv2d(4, 6, 3), (4, 5, 5)),
    "fused": (lambda: ConvReLU2d(nn.Conv2d(4, 6, 3), nn.ReLU()), (3, 4, 5, 5)),
    "fused linear": (lambda: LinearReLU(nn.Linear(6, 5), nn.ReLU()), (3, 6)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_the_moments_give_the_exact_error_of_the_output(name):
    build, shape = LAYERS[name]
    layer = build()
    inner, batches = linear_map(layer), [torch.randn(shape), torch.randn(shape)]
    found = Moments.of(layer, batches)
    change = torch.randn_like(inner.weight)
    channel_axis = (
        -1 if isinstance(inner, nn.Linear) else batches[0].ndim - len(inner.kernel_size) - 1
    )
    expected = torch.zeros(change.shape[0], dtype=torch.float64)
    before = inner.weight.detach().clone()
    for batch in batches:
        with torch.no_grad():
            y = inner(batch)
            inner.weight += change
            moved = inner(batch)
            inner.weight.copy_(before)
        rows = (moved - y).double().movedim(channel_axis, 0).flatten(1)
        expected += rows.square().sum(1)
    torch.testing.assert_close(found.errors(change), expected, rtol=1e-4, atol=1e-8)


def test_a_batch_may_be_taken_apart(monkeypatch):
    layer, x = nn.Conv2d(3, 4, 3), torch.randn(5, 3, 6, 6)
    whole = Moments.of(layer, [x])
    monkeypatch.setattr(subject, "_COLUMN_ELEMENTS", 1)
    parts = Moments.of(layer, [x])
    assert whole.columns == parts.columns == 5 * 16
    torch.testing.assert_close(whole.sums, parts.sums)


@given(st.integers(0, 2**31))
def test_scaled_moments_are_those_of_scaled_inputs(seed):
    generator = torch.Generator().manual_seed(seed)
    layer, x = nn.Linear(5, 3), torch.randn(7, 5, generator=generator)
    factors = torch.rand(5, generator=generator) + 0.1
    expected = Moments.of(layer, [x * factors])
    torch.testing.assert_close(
        Moments.of(layer, [x]).scaled(factors).sums, expected.sums, rtol=1e-5, atol=1e-6
    )


def test_columns_are_what_the_weight_meets():
    layer, x = nn.Conv2d(4, 6, 3, groups=2, bias=False), torch.randn(2, 4, 5, 5)
    columns = columns_of(layer, x)
    rows = layer.weight.reshape(2, 3, -1)
    y = (rows @ columns.transpose(1, 2)).reshape(6, 2, 3, 3).transpose(0, 1)
    torch.testing.assert_close(y, layer(x))


def test_other_layers_are_refused():
    with pytest.raises(UnsupportedError, match=r"a linear layer or a convolution.*LayerNorm"):
        Moments.of(nn.LayerNorm(4), [torch.ones(2, 4)])
    with pytest.raises(UnsupportedError, match="ConvTranspose2d"):
        linear_map(nn.ConvTranspose2d(2, 2, 3))


def test_no_inputs_are_an_error():
    with pytest.raises(ArgumentError, match="at least one batch"):
        Moments.of(nn.Linear(2, 2), [])


def test_a_weight_of_another_layer_is_an_error():
    found = Moments.of(nn.Linear(4, 2), [torch.ones(3, 4)])
    with pytest.raises(ShapeError, match=r"with 4 weights each.*\(2, 5\)"):
        found.errors(torch.ones(2, 5))
