"""Activation functions of quantized tensors."""

from __future__ import annotations

from torch import Tensor

from qlab import ops
from qlab.errors import ArgumentError, DTypeError
from qlab.nn.quantized.functional.operands import keeping, parts, scaled, written
from qlab.qtensor import QTensor


def celu(input: Tensor, scale: float, zero_point: int, alpha: float = 1.0) -> QTensor:
    """``x`` if positive, else ``alpha · (exp(x / alpha) - 1)``. Arguments as in `elu`."""
    return scaled(ops.celu, input, scale, zero_point, alpha=alpha)


def elu(input: Tensor, scale: float, zero_point: int, alpha: float = 1.0) -> QTensor:
    """``x`` if positive, else ``alpha · (exp(x) - 1)``.

    Args:
        input: `QTensor`, any shape.
        scale: Scale of the output, real units per code.
        zero_point: Zero point of the output.
        alpha: As in the formula.

    Raises:
        DTypeError: Not quantized.
    """
    return scaled(ops.elu, input, scale, zero_point, alpha=alpha)


def hardswish(input: Tensor, scale: float, zero_point: int) -> QTensor:
    """``x · min(max(x + 3, 0), 6) / 6``. Arguments as in `elu`."""
    return scaled(ops.hardswish, input, scale, zero_point)


def leaky_relu(
    input: Tensor,
    negative_slope: float = 0.01,
    inplace: bool = False,
    scale: float | None = None,
    zero_point: int | None = None,
) -> QTensor:
    """``x`` if positive, else ``negative_slope · x``.

    Args:
        input: `QTensor`, any shape, per tensor.
        negative_slope: As in the formula.
        inplace: Write the result over the input.
        scale: Scale of the output, real units per code. The input's, unless both are given.
        zero_point: Zero point of the output.

    Raises:
        ArgumentError: ``inplace`` with a scale and zero point.
        DTypeError: Not quantized.
    """
    _, qparams = parts("leaky_relu", "input", input)
    if scale is None or zero_point is None:
        scale, zero_point = qparams.scale_value, qparams.zero_point_value
    elif inplace:
        raise ArgumentError(
            "leaky_relu: in place the input's scale is kept",
            received=f"inplace=True, scale={scale}, zero_point={zero_point}",
            fix="Leave out inplace=True.",
        )
    result = scaled(ops.leaky_relu, input, scale, zero_point, negative_slope=negative_slope)
    return written(input, result, inplace)


def hardtanh(
    input: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False
) -> QTensor:
    """``min(max(x, min_val), max_val)``; ``inplace`` writes the result over the input."""
    return written(input, keeping(ops.hardtanh, input, min_val, max_val), inplace)


def hardsigmoid(input: Tensor, inplace: bool = False) -> QTensor:
    """``min(max(x + 3, 0), 6) / 6``, with scale 1 / 256 and the smallest code for 0.0.

    Args:
        input: `QTensor`, any shape.
        inplace: Write the result, scale and zero point included, over the input.

    Raises:
        DTypeError: Not quantized, or float8.
        UnsupportedError: ``inplace`` on a view.
    """
    _, qparams = parts("hardsigmoid", "input", input)
    low, levels = qparams.dtype.quant_min, qparams.dtype.levels
    if qparams.dtype.is_float:
        raise DTypeError("hardsigmoid takes integer codes", received=qparams.dtype.name)
    return written(input, scaled(ops.hardsigmoid, input, 1 / levels, low), inplace)


def threshold(input: Tensor, threshold: float, value: float) -> QTensor:
    """``x`` if above ``threshold``, else ``value``; both in real units."""
    for name, given in (("threshold", threshold), ("value", value)):
        if given is None:
            raise ArgumentError(f"threshold: {name} is missing", received="None")
    return keeping(ops.threshold, input, threshold, value)


def clamp(input: Tensor, min_: float, max_: float) -> QTensor:
    """``min(max(x, min_), max_)``; both in real units."""
    return keeping(ops.hardtanh, input, min_, max_)
