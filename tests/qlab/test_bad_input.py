"""Arguments of the wrong Python type, at every floor that takes numbers and tensors."""

import pytest
import torch
from torch import nn

import qlab
import qlab.quantization
from qlab import PerAxis, PerGroup, QParams, QTensor, TensorSpec, ops, quint8
from qlab.errors import ArgumentError, DTypeError, NonFiniteError, QlabError
from qlab.nn import quantized as nnq
from qlab.qparams import choose_qparams, dequantize, fake_quantize, quantize

X = torch.randn(4, 6)
Q = QParams.per_tensor(0.1, 3, quint8)
CODES = ops.quantize(X, Q)
HUGE = torch.tensor(1e300, dtype=torch.float64)

CALLS = {
    "a scale that is text": lambda: QParams.per_tensor("a", 0, quint8),
    "no scale": lambda: QParams.per_tensor(None, 0, quint8),
    "a fractional zero point": lambda: QParams.per_tensor(1.0, 1.5, quint8),
    "a zero point that is NaN": lambda: QParams.per_tensor(1.0, torch.nan, quint8),
    "a zero point of 40 bits": lambda: QParams.per_tensor(1.0, 2**40, quint8),
    "an unknown data type": lambda: QParams.per_tensor(1.0, 0, "quint9"),
    "numbers for tensors": lambda: QParams(1.0, 0, quint8),
    "a range of numbers": lambda: choose_qparams(-1.0, 1.0, quint8),
    "a complex range": lambda: choose_qparams(torch.tensor(1j), torch.tensor(1j), quint8),
    "fractional codes": lambda: choose_qparams(X[0], X[0], quint8, quant_min=0.5, quant_max=9),
    "nothing to quantize": lambda: quantize(None, Q),
    "a list to fake quantize": lambda: fake_quantize([1.0], Q),
    "nothing to dequantize": lambda: dequantize(None, Q),
    "an axis that is text": lambda: TensorSpec("qint8", granularity=PerAxis("0")).qparams_of(X),
    "a fractional axis": lambda: TensorSpec("qint8", granularity=PerAxis(0.5)).qparams_of(X),
    "a group size that is text": lambda: PerGroup("4"),
    "codes without parameters": lambda: ops.relu(CODES, None),
    "no parameters for the output": lambda: ops.sigmoid(CODES, Q, None),
    "a softmax without an axis": lambda: ops.softmax(CODES, Q, Q, dim=None),
    "fractional padding": lambda: ops.conv1d(
        CODES[:, None], Q, CODES[:, None].to(torch.int8), Q, None, Q, padding=1.5
    ),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_the_error_is_one_of_qlab(call):
    with pytest.raises(QlabError):
        call()


def test_a_range_beyond_float32_has_no_scale():
    with pytest.raises(NonFiniteError, match="must be finite"):
        choose_qparams(-HUGE, HUGE, quint8)


def test_a_data_type_may_be_given_by_name():
    assert QParams.per_tensor(1.0, 0, "quint8").dtype is quint8


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_weight_that_is_not_finite_is_not_quantized(value):
    layer = nn.Linear(6, 4)
    layer.weight.data[0, 0] = value
    scales = QParams(torch.ones(4), torch.zeros(4, dtype=torch.int32), qlab.qint8, PerAxis(0))
    with pytest.raises(NonFiniteError, match="the weight must be finite"):
        nnq.Linear.from_qparams(layer, weight=scales, output=Q)


def test_a_quantized_tensor_is_viewed_in_any_memory_layout():
    images = torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)
    quantized = QTensor(ops.quantize(images, Q), Q)
    assert torch.equal(quantized.view(2, -1).codes, quantized.codes.reshape(2, -1))


def test_arguments_are_named_in_the_message():
    with pytest.raises(DTypeError, match=r"QParams: the zero point is not a tensor"):
        QParams(torch.ones(()), 0, quint8)
    with pytest.raises(ArgumentError, match=r"an axis is a whole number\. Received '0'"):
        PerAxis("0").scale_shape((4,))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ops.kernel_for([]), QlabError, "Unknown operator"),
        (lambda: nnq.Conv2d(3, 4, 1, padding_mode="zz"), QlabError, "padding mode 'zz'"),
        (lambda: nnq.Conv2d(3, 4, 1, groups="a"), QlabError, "groups='a'"),
        (lambda: nnq.Quantize("a"), QlabError, "scale and zero point are numbers"),
        (lambda: nnq.DeQuantize()(None), QlabError, "expected quantized input"),
        (lambda: nnq.Linear(3, 2)(*[_quantized()] * 2), QlabError, "number of inputs.*1.*2"),
        (lambda: nnq.QFunctional().cat([]), QlabError, "nothing to join"),
        (lambda: qlab.quantization.MinMaxObserver()(None), QlabError, "MinMaxObserver.*NoneType"),
        (lambda: qlab.quantization.default_fake_quant()(3), QlabError, "FakeQuantize.*int"),
        (lambda: _quantized().numpy(), QlabError, r"int_repr\(\)\.numpy\(\)"),
        (
            lambda: qlab.quantization.quantize_dynamic(torch.nn.Sequential(), {"": 3}),
            QlabError,
            "no qconfig.*Received 3",
        ),
    ],
)
def test_silly_arguments_are_answered_in_words(call, error, message):
    with pytest.raises(error, match=message):
        call()


def _quantized() -> "qlab.QTensor":
    return qlab.quantize_per_tensor(torch.zeros(2, 3), 0.1, 0, qlab.quint8)
