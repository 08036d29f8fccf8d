"""The mean of codes is the mean of what they stand for, rounded once."""

import pytest
import torch

from qlab import ops
from qlab.dtypes import as_qdtype, quint8
from qlab.errors import ArgumentError, DTypeError
from qlab.qparams import QParams, dequantize, quantize_round_first

Q = QParams.per_tensor(0.1, 100, quint8)
X = torch.randint(0, 256, (2, 3, 5, 7), dtype=torch.uint8)


@pytest.mark.parametrize("dim", [None, 1, -1, (2, 3), (0, 1, 2, 3)])
@pytest.mark.parametrize("keepdim", [False, True])
def test_exact_in_the_inputs_scale(dim, keepdim: bool):
    steps = X.to(torch.float64) - 100
    expected = (steps.mean(dim, keepdim).round() + 100).clamp(0, 255).to(torch.uint8)
    assert torch.equal(ops.mean(X, Q, dim, keepdim), expected)


def test_in_a_scale_of_its_own():
    output = QParams.per_tensor(0.01, 5, as_qdtype("qint16"))
    result = ops.mean(X, Q, (2, 3), y_qparams=output)
    expected = quantize_round_first(dequantize(X, Q).double().mean((2, 3)), output)
    assert result.dtype == torch.int16
    assert int((result.int() - expected.int()).abs().max()) <= 1


@pytest.mark.parametrize("keepdim", [False, True])
def test_of_no_images(keepdim: bool):
    found = ops.mean(X[:0], Q, (2, 3), keepdim)
    assert found.dtype == torch.uint8
    assert found.shape == torch.zeros(0, 3, 5, 7).mean((2, 3), keepdim).shape


def test_bad_input():
    with pytest.raises(ArgumentError, match=r"mean: the arguments do not fit.*range"):
        ops.mean(X, Q, 4)
    for dim in (None, 0, (), (0, 1)):
        with pytest.raises(ArgumentError, match=r"mean: .*an axis of length 0 has no mean"):
            ops.mean(X[:0], Q, dim)
    with pytest.raises(DTypeError, match="mean: the input does not hold codes of quint8"):
        ops.mean(X.float(), Q)
