"""Activation functions on codes against their definition in float64."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from qlab import ops
from qlab.dtypes import QDType, all_dtypes, as_qdtype, qint8, quint8
from qlab.errors import ArgumentError, DTypeError, ShapeError, UnknownNameError
from qlab.granularity import PerAxis
from qlab.qparams import QParams, dequantize, quantize, quantize_round_first

SMOOTH: dict[str, tuple[Callable[[Tensor], Tensor], dict[str, Any]]] = {
    "sigmoid": (torch.sigmoid, {}),
    "tanh": (torch.tanh, {}),
    "hardsigmoid": (F.hardsigmoid, {}),
    "hardswish": (F.hardswish, {}),
    "gelu": (F.gelu, {}),
    "elu": (F.elu, {}),
    "leaky_relu": (F.leaky_relu, {}),
    "softmax": (lambda x: x.softmax(-1), {}),
}
OPTIONS: dict[str, tuple[str, Callable[[Tensor], Tensor], dict[str, Any]]] = {
    "gelu by tanh": ("gelu", lambda x: F.gelu(x, approximate="tanh"), {"approximate": "tanh"}),
    "steep elu": ("elu", lambda x: F.elu(x, 2.5), {"alpha": 2.5}),
    "leaky": ("leaky_relu", lambda x: F.leaky_relu(x, -0.3), {"negative_slope": -0.3}),
    "softmax over rows": ("softmax", lambda x: x.softmax(0), {"dim": 0}),
    **{name: (name, function, kwargs) for name, (function, kwargs) in SMOOTH.items()},
}
CLAMPS: dict[str, tuple[Callable[..., Tensor], float, float]] = {
    "relu": (ops.relu, 0.0, torch.inf),
    "relu6": (ops.relu6, 0.0, 6.0),
    "hardtanh": (ops.hardtanh, -1.0, 1.0),
}
TYPES = [dtype for dtype in all_dtypes() if dtype.bits <= 16]


def every_code(dtype: QDType) -> Tensor:
    if dtype.is_float:
        return torch.linspace(-400, 400, 64).to(dtype.storage).reshape(8, 8)
    low, high = max(dtype.quant_min, -300), min(dtype.quant_max, 299)
    return torch.arange(low, high + 1).to(dtype.storage).reshape(4, -1)


def parameters(dtype: QDType, zero_point: int, scale: float = 0.04) -> QParams:
    zero_point = 0 if dtype.is_float else min(max(zero_point, dtype.quant_min), dtype.quant_max)
    return QParams.per_tensor(scale, zero_point, dtype)


@pytest.mark.parametrize("dtype", TYPES, ids=lambda dtype: dtype.name)
@pytest.mark.parametrize("name", OPTIONS)
def test_every_code_of_every_type(name: str, dtype: QDType) -> None:
    op, function, kwargs = OPTIONS[name]
    x = every_code(dtype)
    x_qparams, y_qparams = parameters(dtype, 60), parameters(quint8, 120, 1 / 64)
    y = getattr(ops, op)(x, x_qparams, y_qparams, **kwargs)
    real = function(dequantize(x, x_qparams).double())
    wanted = quantize_round_first(real.float(), y_qparams)
    assert y.dtype == torch.uint8 and y.shape == x.shape
    assert (y.int() - wanted.int()).abs().max() <= 1
    assert (y != wanted).double().mean() < 0.02


@given(st.sampled_from(sorted(CLAMPS)), st.integers(-128, 127), st.floats(1e-3, 3.0))
def test_clamps_are_the_clamp_of_real_numbers(name: str, zero_point: int, scale: float) -> None:
    function, low, high = CLAMPS[name]
    x, qparams = every_code(qint8), QParams.per_tensor(scale, zero_point, qint8)
    y = function(x, qparams)
    bounds = quantize_round_first(torch.tensor([low, high]), qparams).tolist()
    assert y.dtype == torch.int8
    assert torch.equal(y, x.clamp(*bounds))
    clamped = dequantize(x, qparams).clamp(low, high)
    assert (dequantize(y, qparams) - clamped).abs().max() <= scale * 0.5001


@pytest.mark.parametrize("name", CLAMPS)
def test_clamps_of_float8(name: str) -> None:
    function, low, high = CLAMPS[name]
    dtype = as_qdtype("float8_e4m3fn")
    qparams = QParams.per_tensor(0.02, 0, dtype)
    x = quantize(torch.linspace(-9, 9, 50), qparams)
    wanted = quantize(dequantize(x, qparams).clamp(low, high), qparams)
    assert torch.equal(function(x, qparams).float(), wanted.float())


def test_hardtanh_takes_its_bounds_in_real_units() -> None:
    qparams = QParams.per_tensor(0.5, 10, quint8)
    x = torch.arange(0, 21, dtype=torch.uint8)
    assert torch.equal(ops.hardtanh(x, qparams, -2.0, 3.0), x.clamp(6, 16))
    with pytest.raises(ArgumentError, match=r"hardtanh: the smallest.*min_val=3.0, max_val=-2.0"):
        ops.hardtanh(x, qparams, 3.0, -2.0)


@pytest.mark.parametrize("op", [*SMOOTH, *CLAMPS])
def test_bad_input_is_named(op: str) -> None:
    function = getattr(ops, op)
    qparams = QParams.per_tensor(0.5, 10, quint8)
    rest = () if op in CLAMPS else (qparams,)
    with pytest.raises(DTypeError, match=f"{op}: the input does not hold codes.*Call ops.quantize"):
        function(torch.zeros(3), qparams, *rest)
    with pytest.raises(DTypeError, match=f"{op}: the input is not a tensor"):
        function([1, 2, 3], qparams, *rest)


@pytest.mark.parametrize("op", CLAMPS)
def test_clamps_need_one_scale(op: str) -> None:
    rows = QParams(torch.ones(3), torch.zeros(3, dtype=torch.int32), quint8, PerAxis(0))
    with pytest.raises(ShapeError, match=f"{op}: the input needs one scale"):
        getattr(ops, op)(torch.zeros(3, dtype=torch.uint8), rows)


def test_unknown_options_are_named() -> None:
    qparams, x = QParams.per_tensor(0.5, 10, quint8), torch.zeros(2, 3, dtype=torch.uint8)
    with pytest.raises(UnknownNameError, match=r"gelu approximation 'erf'.*none, tanh"):
        ops.gelu(x, qparams, qparams, approximate="erf")
    with pytest.raises(ShapeError, match=r"softmax: the tensor has no axis 2.*from -2 to 1"):
        ops.softmax(x, qparams, qparams, dim=2)


@pytest.mark.parametrize("op", [*SMOOTH, *CLAMPS])
def test_an_empty_batch_gives_an_empty_output(op: str) -> None:
    qparams, x = QParams.per_tensor(0.5, 10, quint8), torch.zeros(0, 3, dtype=torch.uint8)
    rest = () if op in CLAMPS else (qparams,)
    assert getattr(ops, op)(x, qparams, *rest).shape == (0, 3)
