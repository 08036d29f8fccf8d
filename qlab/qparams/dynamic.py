"""Scale and zero point as the reference's kernels choose them while they run.

Its dynamic modules and its fused fake quantizer do not ask an observer: the kernel itself turns a
range into parameters, by another formula than `qlab.qparams.choose_qparams`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qlab.dtypes import QDType
from qlab.granularity import Granularity
from qlab.qparams.choose import choose_qparams
from qlab.qparams.params import QParams

SMALLEST_SCALE = 6.1e-5
"""Scales below are raised to this one; about the smallest normal float16."""

NO_SCALE = 0.1
"""The scale of a range that is 0, or too narrow for its reciprocal."""


def choose_dynamic_qparams(
    min_val: Tensor,
    max_val: Tensor,
    dtype: QDType | str,
    *,
    symmetric: bool = False,
    granularity: Granularity | None = None,
    quant_min: int | None = None,
    quant_max: int | None = None,
) -> QParams:
    """Scale and zero point that cover a range, by the formula of the reference's kernels.

    The range is widened to contain 0. With n = quant_max - quant_min and h = n // 2, in float64:

    - ``s = (max - min) / n``, but at least 6.1e-5 (the range then grows along), and 0.1 for an
      empty range
    - ``z = quant_min - min / s`` or ``quant_max - max / s``, from the bound whose code is further
      inside, rounded and clamped
    - symmetric, with values on both sides of 0: the range is first stretched to
      ``(-(h + 1) u, h u)`` with ``u = max(-min / (h + 1), max / h)``, and ``z`` is the middle
      code, 0 for signed types. Where all values have one sign the zero point is not the middle.

    Args:
        min_val: float, smallest value per scale; any shape.
        max_val: float, largest value per scale; same shape.
        dtype: Quantized integer type.
        symmetric: Stretch the range as above.
        granularity: Recorded in the result.
        quant_min: Smallest code to use; the type's own by default.
        quant_max: Largest code to use; the type's own by default.

    Returns:
        `QParams` with float32 scales and int32 zero points of the range's shape.

    Raises:
        As `qlab.qparams.choose_qparams`.

    Source: FBGEMM's ``ChooseQuantizationParams``; bit-equal to torch 2.13.
    """
    checked = choose_qparams(
        min_val,
        max_val,
        dtype,
        granularity=granularity,
        quant_min=quant_min,
        quant_max=quant_max,
    )
    low, high = checked.quant_min, checked.quant_max
    smallest = min_val.to(torch.float32).clamp(max=0.0).double()
    largest = max_val.to(torch.float32).clamp(min=0.0).double()
    stretched = (smallest < 0) & (largest > 0) & symmetric
    half = (high - low) // 2
    unit = torch.maximum(-smallest / (half + 1), largest / half)
    smallest = torch.where(stretched, _as_float(-unit * (half + 1)), smallest)
    largest = torch.where(stretched, _as_float(unit * half), largest)
    scale, smallest, largest = _scale(smallest, largest, high - low)
    below, above = smallest / scale, largest / scale
    from_below = (abs(low) - below.abs()) < (abs(high) - above.abs())
    zero_point = torch.where(from_below, low - below, high - above)
    zero_point = torch.where(stretched, (low + high) / 2, zero_point)
    codes = torch.round(zero_point).clamp(low, high).to(torch.int32)
    return QParams(scale.float(), codes, checked.dtype, checked.granularity, low, high)


def _scale(smallest: Tensor, largest: Tensor, steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """The scale, and the range it covers where that had to grow."""
    scale = (largest - smallest) / steps
    scale = torch.where((1.0 / scale.float()).isinf(), NO_SCALE, scale)
    tiny = scale < _as_float(torch.tensor(SMALLEST_SCALE))
    least = _as_float(torch.tensor(SMALLEST_SCALE, dtype=torch.float64)).to(scale.device)
    growth = _as_float(least / _as_float(scale))
    both = (smallest < 0) & (largest > 0)
    whole = _as_float(least * steps)
    grown_low = torch.where(both, _as_float(smallest * growth), torch.where(largest > 0, 0, -whole))
    grown_high = torch.where(both, _as_float(largest * growth), torch.where(largest > 0, whole, 0))
    return (
        torch.where(tiny, least, scale),
        torch.where(tiny, grown_low, smallest),
        torch.where(tiny, grown_high, largest),
    )


def _as_float(x: Tensor) -> Tensor:
    """float64 rounded to a float32 value."""
    return x.to(torch.float32).to(torch.float64)
