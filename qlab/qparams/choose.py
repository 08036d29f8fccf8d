"""From a range to scale and zero point."""

from __future__ import annotations

import torch
from torch import Tensor

from qlab.dtypes import QDType, as_qdtype
from qlab.errors import ArgumentError, DTypeError, NonFiniteError, ShapeError, UncalibratedError
from qlab.granularity import Granularity, PerTensor
from qlab.qparams.params import QParams, check_quant_range, check_tensor

EPS = torch.finfo(torch.float32).eps


def choose_qparams(
    min_val: Tensor,
    max_val: Tensor,
    dtype: QDType | str,
    *,
    symmetric: bool = False,
    granularity: Granularity | None = None,
    quant_min: int | None = None,
    quant_max: int | None = None,
    eps: float = EPS,
    float_zero_point: bool = False,
) -> QParams:
    """Scale and zero point that cover a range.

    The range is first widened to contain 0, so that 0.0 is a code. With n = quant_max - quant_min:

    - affine: ``s = max((max - min) / n, eps)``, ``z = clamp(quant_min - rint(min / s))``
    - symmetric: ``s = max(max(-min, max) / (n / 2), eps)``, ``z`` = 0 for signed types, else the
      middle code: half the number of codes (128 for quint8), or ``(quant_min + quant_max) // 2``
      where the range of codes was given
    - float zero point: ``s = (max - min) / n``, or 1 where that is at most ``eps``;
      ``z = -min / s`` in float32. The range is not widened.
    - float8: ``s = max(max(-min, max) / largest finite value, eps)``, ``z = 0``

    An all-zero range gives ``s = eps``: every element then quantizes to ``z`` exactly.

    Args:
        min_val: float, smallest value per scale; any shape.
        max_val: float, largest value per scale; same shape.
        dtype: Quantized data type.
        symmetric: Fix the zero point at the middle code.
        granularity: Recorded in the result; `PerTensor` for 0-d ranges if not given.
        quant_min: Smallest code to use; the type's own by default.
        quant_max: Largest code to use; the type's own by default.
        eps: Smallest scale, real units per code; float32's machine epsilon in the reference.
        float_zero_point: Let the zero point be any real number, as the reference does for the
            rows of an embedding.

    Returns:
        `QParams` with float32 scales and int32 zero points of the range's shape (float32 zero
        points with ``float_zero_point``).

    Raises:
        UncalibratedError: ``min_val > max_val`` (no data was seen; min = +inf, max = -inf).
        NonFiniteError: NaN or infinity in a range.
        ShapeError: The two shapes differ.
        ArgumentError: Codes outside the type, ``eps`` not positive, or a float zero point of a
            symmetric or float8 type.
    """
    dtype = as_qdtype(dtype)
    low = dtype.quant_min if quant_min is None else quant_min
    high = dtype.quant_max if quant_max is None else quant_max
    check_quant_range(dtype, low, high)
    _check_range(min_val, max_val, eps)
    granularity = granularity or PerTensor()
    if float_zero_point:
        if symmetric or dtype.is_float:
            raise ArgumentError(
                "A float zero point belongs to affine integers", received=dtype.name
            )
        scale, offset = _float_qparams(min_val.float(), max_val.float(), float(high - low), eps)
        return QParams(scale, offset, dtype, granularity, low, high)
    smallest = min_val.to(torch.float32).clamp(max=0.0)
    largest = max_val.to(torch.float32).clamp(min=0.0)
    zero_point = torch.zeros_like(smallest, dtype=torch.int32)
    if dtype.is_float:
        scale = torch.maximum(-smallest, largest) / float(high)
    elif symmetric:
        scale = torch.maximum(-smallest, largest) / (float(high - low) / 2)
        if not dtype.signed:
            given = quant_min is not None and quant_max is not None
            middle = (low + high) // 2 if given else dtype.levels // 2
            zero_point = torch.full_like(zero_point, middle)
    else:
        # Halves are subtracted so that a range of ±3e38 does not overflow float32.
        scale = (largest / 2 - smallest / 2) / (float(high - low) / 2)
    scale = scale.clamp(min=eps)
    if not (dtype.is_float or symmetric):
        steps = torch.round(smallest / scale).to(torch.int64)  # float32 is too coarse for qint32
        zero_point = (low - steps).clamp(low, high).to(torch.int32)
    return QParams(scale, zero_point, dtype, granularity, low, high)


def _float_qparams(low: Tensor, high: Tensor, steps: float, eps: float) -> tuple[Tensor, Tensor]:
    scale = (high - low) / steps
    scale = torch.where(scale > eps, scale, 1.0)
    return scale, -low / scale


def _check_range(min_val: Tensor, max_val: Tensor, eps: float) -> None:
    for name, value in (("smallest value", min_val), ("largest value", max_val)):
        check_tensor(value, "choose_qparams", name)
        if value.is_complex():
            raise DTypeError("A range is one of real numbers", received=f"{value.dtype}")
    if min_val.shape != max_val.shape:
        raise ShapeError(
            "choose_qparams: min and max have different shapes",
            expected=f"shape {tuple(min_val.shape)}",
            received=f"shape {tuple(max_val.shape)}",
        )
    if not eps > 0:
        raise ArgumentError("choose_qparams: eps must be positive", received=eps)
    if bool((min_val > max_val).any()):
        raise UncalibratedError(
            "No range to choose from: the smallest value is above the largest",
            received=f"min={min_val.tolist()}, max={max_val.tolist()}",
            fix="Run calibration data through the model (or the observer) first.",
        )
    # In float32, as the scales are: what lies beyond its range in float64 has none.
    if not bool((torch.isfinite(min_val.float()) & torch.isfinite(max_val.float())).all()):
        raise NonFiniteError(
            "A range must be finite",
            received=f"min={min_val.tolist()}, max={max_val.tolist()}",
            fix="Look for NaN or infinity in the model's weights and calibration data.",
        )
