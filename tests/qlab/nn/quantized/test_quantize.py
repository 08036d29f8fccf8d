"""The way into codes and out of them."""

import pytest
import torch

from qlab.dtypes import qint8
from qlab.errors import ArgumentError, DTypeError
from qlab.nn.quantized import DeQuantize, Quantize
from qlab.qparams import QParams, quantize
from qlab.qtensor import QTensor

X = torch.randn(4, 5)
Q = QParams.per_tensor(0.1, -3, qint8)


def test_there_and_back():
    q = Quantize(0.1, -3, qint8)(X)
    assert isinstance(q, QTensor) and q.qparams.same_as(Q)
    assert torch.equal(q.int_repr(), quantize(X, Q))
    assert torch.equal(DeQuantize()(q), q.dequantize())


def test_tensors_as_arguments():
    module = Quantize(torch.tensor([0.1]), torch.tensor([-3]), torch.int8)
    assert module.output_qparams.same_as(Q)


def test_in_a_graph():
    codes = Quantize(0.1, -3, "qint8").bind_inputs()(X)
    assert type(codes) is torch.Tensor and torch.equal(codes, quantize(X, Q))
    assert torch.equal(DeQuantize().bind_inputs(Q)(codes), QTensor(codes, Q).dequantize())


def test_real_numbers_pass_dequantize_in_eager_models():
    assert DeQuantize()(X) is X


def test_bad_input():
    with pytest.raises(DTypeError, match=r"quantized already.*Remove this Quantize"):
        Quantize(0.1, -3, qint8)(QTensor(quantize(X, Q), Q))
    with pytest.raises(DTypeError, match="quantize takes real numbers"):
        Quantize(0.1, -3, qint8)(torch.zeros(3, dtype=torch.int8))
    with pytest.raises(ArgumentError, match="zero point must be a code of qint8"):
        Quantize(0.1, 300, qint8)
