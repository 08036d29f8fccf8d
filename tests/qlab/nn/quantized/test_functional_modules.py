"""Arithmetic as modules, float and quantized."""

import copy
import pickle

import pytest
import torch

from qlab.dtypes import quint8
from qlab.errors import DTypeError, UnsupportedError
from qlab.nn.quantized import FloatFunctional, FXFloatFunctional, QFunctional
from qlab.observers import MinMaxObserver
from qlab.qparams import QParams, quantize
from qlab.qtensor import QTensor

X, Y = torch.linspace(-4, 4, 24).reshape(2, 4, 3).transpose(1, 2)
CALLS = {
    "add": ((X, Y), X + Y),
    "add_relu": ((X, Y), torch.relu(X + Y)),
    "mul": ((X, Y), X * Y),
    "matmul": ((X, Y.T), X @ Y.T),
    "cat": (([X, Y], 1), torch.cat([X, Y], 1)),
    "add_scalar": ((X, 0.7), X + 0.7),
    "mul_scalar": ((X, -0.7), X * -0.7),
}
OBSERVED = [name for name in CALLS if "scalar" not in name]
each_call = pytest.mark.parametrize("name", CALLS)


def codes(x: torch.Tensor) -> QTensor:
    qparams = QParams.per_tensor(0.06, 128, quint8)
    return QTensor(quantize(x, qparams), qparams)


def quantized_arguments(name: str) -> tuple:
    first, second = CALLS[name][0]
    if isinstance(first, list):
        return [codes(x) for x in first], second
    return codes(first), codes(second) if isinstance(second, torch.Tensor) else second


@each_call
@pytest.mark.parametrize("cls", [FloatFunctional, FXFloatFunctional])
def test_float_operations(name: str, cls: type):
    arguments, expected = CALLS[name]
    assert torch.equal(getattr(cls(), name)(*arguments), expected)


@each_call
def test_only_results_with_a_scale_of_their_own_are_observed(name: str):
    module = FloatFunctional()
    module.activation_post_process = MinMaxObserver()
    getattr(module, name)(*CALLS[name][0])
    seen = bool(torch.isfinite(module.activation_post_process.min_val))
    assert seen == (name in OBSERVED)


@each_call
def test_quantized_operations(name: str):
    expected = CALLS[name][1]
    module = FloatFunctional()
    module.activation_post_process = MinMaxObserver()
    module.activation_post_process(expected)
    converted = QFunctional.from_float(module)
    assert converted.output_qparams.same_as(module.activation_post_process.qparams())
    result = getattr(converted, name)(*quantized_arguments(name))
    assert isinstance(result, QTensor)
    if name in OBSERVED:
        assert result.qparams.same_as(converted.output_qparams)
    # Half a step of 0.06 in each input, times 4 numbers of up to 4, and half a step of the output.
    bound = 0.03 * 4 * 2 * 4 if name == "matmul" else 0.03 * 4 * 2
    bound += result.q_scale() / 2
    assert (result.dequantize() - expected).abs().max() < bound
    assert (result.dequantize() - expected).abs().mean() < bound / 4


@each_call
def test_quantized_operations_refuse_real_numbers(name: str):
    with pytest.raises(DTypeError, match=r"QFunctional: expected quantized input.*QuantStub"):
        getattr(QFunctional(), name)(*CALLS[name][0])


@pytest.mark.parametrize("cls", [FloatFunctional, FXFloatFunctional, QFunctional])
def test_they_are_not_called_themselves(cls: type):
    with pytest.raises(UnsupportedError, match=rf"{cls.__name__} is not called itself.*\.add"):
        cls()(X)


def test_state_and_copies():
    module = QFunctional()
    module.scale, module.zero_point = 0.25, 3
    fresh = QFunctional()
    fresh.load_state_dict(module.state_dict())
    back = QFunctional.from_config(module.config())
    back.load_state_dict(module.state_dict())
    for twin in (fresh, back, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert twin.output_qparams.same_as(module.output_qparams)
        assert "scale=0.25, zero_point=3" in repr(twin)
