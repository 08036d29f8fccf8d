"""Addition and multiplication of a quantized tensor and a number."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from qlab.errors import DTypeError, NonFiniteError, UnsupportedError
from qlab.ops import checks
from qlab.ops.activations import relu as clamp_at_zero
from qlab.ops.kernels import defined
from qlab.qparams import QParams, dequantize, quantize_round_first

#: Steps beyond which int64 might not hold a sum of theirs and a code.
_WIDEST = 2**62


def _check(op: str, qparams: QParams, scalar: float) -> None:
    checks.parameters(op, "input", qparams)
    checks.per_tensor(op, "input", qparams)
    if not isinstance(scalar, int | float):
        raise DTypeError(f"{op}: the scalar is not a number", received=type(scalar).__name__)
    if not abs(scalar) <= torch.finfo(torch.float32).max:
        raise NonFiniteError(f"{op}: the scalar must be finite in float32", received=scalar)


def _shift(qparams: QParams, scalar: float) -> int:
    return round(scalar / qparams.scale_value)


def add_scalar_qparams(x_qparams: QParams, scalar: float) -> QParams:
    """Parameters with which the codes of ``x`` stand for ``x + scalar``.

    With ``c = rint(scalar / s)`` the zero point moves to ``z - c``. Where that is no code, it
    stays at the nearer end of the codes and the scale grows by as much as is needed to keep both
    0 and every value of ``x + scalar`` in range: ``s · (quant_max - (z - c)) / (quant_max -
    quant_min)`` below, mirrored above.

    Args:
        x_qparams: Per tensor, of an integer type.
        scalar: Finite, real units.

    Raises:
        UnsupportedError: float8, whose codes have no zero point to move.
        NonFiniteError: ``scalar`` is NaN or infinite.

    Source: the semantics of the reference's ``add_scalar``.
    """
    _check("add_scalar", x_qparams, scalar)
    if x_qparams.dtype.is_float:
        raise UnsupportedError(
            f"add_scalar: {x_qparams.dtype.name} has no zero point to move",
            fix="Give the output's qparams.",
        )
    low, high = x_qparams.quant_min, x_qparams.quant_max
    wanted = x_qparams.zero_point_value - _shift(x_qparams, scalar)
    zero_point = min(max(wanted, low), high)
    steps = high - low
    if wanted != zero_point:
        steps = abs(wanted - (high if wanted < low else low))
    return _checked(x_qparams, x_qparams.scale_value * (steps / (high - low)), zero_point)


def mul_scalar_qparams(x_qparams: QParams, scalar: float) -> QParams:
    """Parameters with which the codes of ``x`` stand for ``x · scalar``.

    The scale becomes ``s · |scalar|``; a negative scalar mirrors the codes and the zero point
    (``q → quant_min + quant_max - q``); 0 gives scale 1 and the code nearest to 0 as zero point.

    Args:
        x_qparams: Per tensor.
        scalar: Finite.

    Raises:
        NonFiniteError: ``scalar``, or the product, is NaN or infinite.

    Source: the semantics of the reference's ``mul_scalar``.
    """
    _check("mul_scalar", x_qparams, scalar)
    low, high = x_qparams.quant_min, x_qparams.quant_max
    if scalar == 0:
        return _checked(x_qparams, 1.0, min(max(0, low), high))
    zero_point = x_qparams.zero_point_value
    if scalar < 0:
        zero_point = low + high - zero_point
    return _checked(x_qparams, x_qparams.scale_value * abs(scalar), zero_point)


def _checked(qparams: QParams, scale: float, zero_point: int) -> QParams:
    made = replace(
        qparams,
        scale=torch.full_like(qparams.scale, scale, dtype=torch.float64).to(torch.float32),
        zero_point=torch.full_like(qparams.zero_point, zero_point),
    )
    made.check()
    return made


@defined
def add_scalar(
    x: Tensor,
    x_qparams: QParams,
    scalar: float,
    y_qparams: QParams | None = None,
    *,
    relu: bool = False,
) -> Tensor:
    """``x + scalar``.

    Args:
        x: Codes, any shape.
        x_qparams: Per tensor.
        scalar: Finite, real units.
        y_qparams: The output's parameters; None stands for ``add_scalar_qparams(x_qparams,
            scalar)``, with which the codes stay as they are unless the zero point would leave
            the type; the scalar is then rounded to a multiple of the input's scale.
        relu: Clamp negative results to 0.

    Returns:
        Codes, dtype ``y_qparams.dtype.storage``.

    Raises:
        DTypeError: Not codes of ``x_qparams.dtype``, or ``scalar`` is not a number.
        NonFiniteError: ``scalar`` is NaN or infinite.
    """
    checks.codes("add_scalar", "input", x, x_qparams)
    _check("add_scalar", x_qparams, scalar)
    scalar = float(scalar)
    checks.switch("add_scalar", "relu", relu)
    if y_qparams is None:
        y_qparams = add_scalar_qparams(x_qparams, scalar)
        shift = _shift(x_qparams, scalar)
        if y_qparams.zero_point_value == x_qparams.zero_point_value - shift:
            return clamp_at_zero(x, y_qparams) if relu else x.clone()
        # whole numbers times one factor, as the reference does: dequantizing first rounds otherwise
        steps = x.to(torch.int64) - x_qparams.zero_point_value
        steps = steps + (shift if abs(shift) < _WIDEST else float(shift))
        factor = x_qparams.scale * (1.0 / y_qparams.scale)
        return _rounded(steps * factor, replace(y_qparams, scale=torch.ones_like(factor)), relu)
    checks.parameters("add_scalar", "output", y_qparams)
    return _rounded(dequantize(x, x_qparams) + scalar, y_qparams, relu)


@defined
def mul_scalar(
    x: Tensor,
    x_qparams: QParams,
    scalar: float,
    y_qparams: QParams | None = None,
    *,
    relu: bool = False,
) -> Tensor:
    """``x · scalar``; without ``y_qparams`` with `mul_scalar_qparams`. As `add_scalar`."""
    checks.codes("mul_scalar", "input", x, x_qparams)
    _check("mul_scalar", x_qparams, scalar)
    scalar = float(scalar)
    checks.switch("mul_scalar", "relu", relu)
    if y_qparams is not None:
        checks.parameters("mul_scalar", "output", y_qparams)
        return _rounded(dequantize(x, x_qparams) * scalar, y_qparams, relu)
    y_qparams = mul_scalar_qparams(x_qparams, scalar)
    if scalar > 0:
        codes = x.clone()
    elif scalar == 0:
        codes = torch.full_like(x, y_qparams.zero_point_value)
    elif x_qparams.dtype.is_float:
        codes = (-x.to(torch.float32)).to(x.dtype)
    else:
        mirror = x_qparams.quant_min + x_qparams.quant_max
        codes = (mirror - x.to(torch.int64)).to(x.dtype)
    return clamp_at_zero(codes, y_qparams) if relu else codes


def _rounded(real: Tensor, y_qparams: QParams, relu: bool) -> Tensor:
    return quantize_round_first(real.relu() if relu else real, y_qparams)
