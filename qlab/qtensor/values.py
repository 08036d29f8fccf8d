"""Kernels that answer by what codes stand for: order, clamping, averages, functions."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Any

from torch import Tensor
from torch._ops import OpOverload

from qlab import ops
from qlab.errors import UnsupportedError
from qlab.ops.codes import as_reals, linear_map
from qlab.qparams import QParams, quantize_round_first
from qlab.qtensor.operands import Args, Kwargs, operator_name, per_tensor, real_value
from qlab.qtensor.tensor import Kernel, QTensor


def ordered(func: OpOverload, args: Args, kwargs: Kwargs) -> Any:
    """Codes order like real numbers (scales are positive): values stay quantized."""
    q = per_tensor(func, args[0])
    result = func(as_reals(q.codes), *args[1:], **kwargs)
    if isinstance(result, Tensor):
        return QTensor(result.to(q.codes.dtype), q.qparams)
    values, indices = result
    return QTensor(values.to(q.codes.dtype), q.qparams), indices


def position(func: OpOverload, args: Args, kwargs: Kwargs) -> Tensor:
    """Where the codes would stand in order: positions, no quantized tensor."""
    q = per_tensor(func, args[0])
    return func(as_reals(q.codes), *args[1:], **kwargs)


def on_real_numbers(func: OpOverload, args: Args, kwargs: Kwargs) -> Any:
    """Comparisons and reading out: the answer is no quantized tensor."""
    return func(*map(real_value, args), **kwargs)


def linear(func: OpOverload, args: Args, kwargs: Kwargs) -> QTensor:
    """Averages and interpolation: in exact steps, rounded once, with the input's parameters."""
    q = per_tensor(func, args[0])
    codes = linear_map(lambda steps: func(steps, *args[1:], **kwargs), q.codes, q.qparams, None)
    return QTensor(codes, q.qparams)


def clamped(bounds: Callable[..., tuple[float | None, float | None]]) -> Kernel:
    """``relu``, ``clamp`` and kin: codes clamped at the codes of the bounds."""

    def kernel(func: OpOverload, args: Args, kwargs: Kwargs) -> QTensor:
        q = per_tensor(func, args[0])
        low, high = bounds(*args[1:], **kwargs)
        if isinstance(low, Tensor) or isinstance(high, Tensor):
            raise UnsupportedError(
                f"{operator_name(func)} of a quantized tensor takes numbers as bounds",
                fix="Call .dequantize() first.",
            )
        low, high = -inf if low is None else float(low), inf if high is None else float(high)
        return QTensor(ops.hardtanh(q.codes, q.qparams, low, high), q.qparams)

    return kernel


def on_values(output: Callable[[QParams], QParams]) -> Kernel:
    """Element-wise functions: ``quantize(f(dequantize(q)))`` with the output's parameters."""

    def kernel(func: OpOverload, args: Args, kwargs: Kwargs) -> QTensor:
        q = per_tensor(func, args[0])
        qparams = output(q.qparams)
        real = func(q.dequantize(), *map(real_value, args[1:]), **kwargs)
        return QTensor(quantize_round_first(real, qparams), qparams)

    return kernel


def from_zero(qparams: QParams) -> QParams:
    """Codes spread over 0 to 1, the output of a sigmoid: scale 1/256, zero point 0 for quint8."""
    return _spread(qparams, 1.0, 0)


def around_zero(qparams: QParams) -> QParams:
    """Codes spread over -1 to 1, the output of tanh: scale 2/256, zero point 128 for quint8."""
    return _spread(qparams, 2.0, qparams.dtype.levels // 2)


def _spread(qparams: QParams, width: float, above_least: int) -> QParams:
    dtype = qparams.dtype
    if dtype.is_float:
        raise UnsupportedError(
            "The range of the result has no fixed scale in float8",
            received=dtype.name,
            fix="Call .dequantize() first.",
        )
    zero_point = dtype.quant_min + above_least
    return QParams.per_tensor(width / dtype.levels, zero_point, dtype, qparams.scale.device)
