"""Scale and zero point: choosing them, applying them, undoing them.

The only place in qlab where rounding is written. Two orders exist, and they differ on ties only:

- `quantize`: ``clamp(rint(f32(x * (1/s) + z)))`` with product and sum rounded once (a fused
  multiply-add; computed here in float64 and rounded to float32, which gives it on any device).
  It is what the reference's ``quantize_per_tensor`` and ``quantize_per_channel`` do.
- `quantize_round_first`: ``clamp(rint(x * (1/s)) + z)``: the order of fake quantization, of ONNX,
  and of qlab's element-wise operators.

In both, NaN becomes the zero point (it dequantizes to 0) and infinities saturate. Counting NaN
and infinity is the statistics' task.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from qlab.dtypes import QDType, as_qdtype
from qlab.errors import ArgumentError, DTypeError, NonFiniteError, ShapeError, UncalibratedError
from qlab.granularity import Granularity, PerTensor

EPS = torch.finfo(torch.float32).eps
_OWN = -(2**63)  # stands for "the data type's own limit"


@dataclass(frozen=True, eq=False)
class QParams:
    """Everything needed to turn real numbers into codes and back: ``x ≈ (q - zero_point) * scale``.

    Attributes:
        scale: float32, shape ``granularity.scale_shape(tensor shape)``; real units per code.
        zero_point: int32, same shape; the code that stands for 0.0. All 0 for float8. float32, and
            then not always a code, where ranges need not contain 0 (embeddings).
        dtype: The quantized data type.
        granularity: Which elements share a scale.
        quant_min: Smallest code in use; the type's own if not given.
        quant_max: Largest code in use; the type's own if not given.
    """

    scale: Tensor
    zero_point: Tensor
    dtype: QDType
    granularity: Granularity = field(default_factory=PerTensor)
    quant_min: int = _OWN
    quant_max: int = _OWN

    def __post_init__(self) -> None:
        if self.quant_min == _OWN:
            object.__setattr__(self, "quant_min", self.dtype.quant_min)
        if self.quant_max == _OWN:
            object.__setattr__(self, "quant_max", self.dtype.quant_max)
        check_quant_range(self.dtype, self.quant_min, self.quant_max)
        if self.scale.shape != self.zero_point.shape:
            raise ShapeError(
                "QParams: scale and zero point have different shapes",
                expected=f"zero point of shape {tuple(self.scale.shape)}",
                received=f"shape {tuple(self.zero_point.shape)}",
            )

    @classmethod
    def per_tensor(
        cls, scale: float, zero_point: int, dtype: QDType, device: torch.device | None = None
    ) -> QParams:
        """One checked scale and zero point for a whole tensor.

        Args:
            scale: Positive, finite; real units per code.
            zero_point: Between the type's smallest and largest code.
            dtype: The quantized data type.
            device: Where the tensors are put.
        """
        made = cls(
            torch.tensor(float(scale), dtype=torch.float32, device=device),
            torch.tensor(int(zero_point), dtype=torch.int32, device=device),
            dtype,
        )
        made.check()
        return made

    def check(self) -> None:
        """Raises unless every scale is positive and finite and every zero point is a valid code.

        Raises:
            NonFiniteError: A scale is NaN or infinite.
            ArgumentError: A scale is not positive, or a zero point is out of range.
        """
        if not bool(torch.isfinite(self.scale).all()):
            raise NonFiniteError("A scale must be finite", received=self.scale.tolist())
        if bool((self.scale <= 0).any()):
            raise ArgumentError("A scale must be positive in float32", received=self.scale.tolist())
        low, high = (0, 0) if self.dtype.is_float else (self.quant_min, self.quant_max)
        if bool(((self.zero_point < low) | (self.zero_point > high)).any()):
            raise ArgumentError(
                f"A zero point must be a code of {self.dtype.name}",
                expected=f"{low} to {high}",
                received=self.zero_point.tolist(),
            )

    @cached_property
    def scale_value(self) -> float:
        """The one scale of a per-tensor granularity as a Python number."""
        return float(self.scale)

    @cached_property
    def zero_point_value(self) -> int:
        """The one zero point of a per-tensor granularity as a Python number."""
        return int(self.zero_point)

    @cached_property
    def symmetric_around_zero(self) -> bool:
        """Whether every zero point is 0, which integer kernels ask of weights."""
        return not bool(self.zero_point.any())

    @property
    def per_tensor_granularity(self) -> bool:
        """Whether one scale covers the whole tensor."""
        return isinstance(self.granularity, PerTensor)

    def to(self, device: torch.device | str) -> QParams:
        """The same parameters with their tensors on ``device``."""
        return replace(self, scale=self.scale.to(device), zero_point=self.zero_point.to(device))

    def same_as(self, other: QParams) -> bool:
        """Whether two sets of parameters map every number to the same code."""
        return (
            (self.dtype, self.granularity, self.quant_min, self.quant_max)
            == (other.dtype, other.granularity, other.quant_min, other.quant_max)
            and torch.equal(self.scale, other.scale)
            and torch.equal(self.zero_point, other.zero_point)
        )


def check_quant_range(dtype: QDType, quant_min: int, quant_max: int) -> None:
    """Raises `ArgumentError` unless the codes lie in ``dtype`` and there are at least two."""
    if not dtype.quant_min <= quant_min < quant_max <= dtype.quant_max:
        raise ArgumentError(
            f"The range of codes does not fit {dtype.name}",
            expected=f"{dtype.quant_min} <= quant_min < quant_max <= {dtype.quant_max}",
            received=f"quant_min={quant_min}, quant_max={quant_max}",
        )


def reduced_range(dtype: QDType) -> tuple[int, int]:
    """The codes of ``dtype`` with one bit left unused, which old kernels need not to saturate.

    ``quint8`` → (0, 127); ``qint8`` → (-64, 63). Floor division, as in the reference.
    """
    if dtype.is_float:
        raise DTypeError("reduce_range applies to integer types", received=dtype.name)
    return dtype.quant_min // 2, dtype.quant_max // 2


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
    if not bool((torch.isfinite(min_val) & torch.isfinite(max_val)).all()):
        raise NonFiniteError(
            "A range must be finite",
            received=f"min={min_val.tolist()}, max={max_val.tolist()}",
            fix="Look for NaN or infinity in the model's weights and calibration data.",
        )


def check_float(x: Tensor, what: str) -> None:
    """Raises `DTypeError` unless ``x`` holds real numbers; ``what`` names the operation."""
    if not x.is_floating_point():
        raise DTypeError(
            f"{what} takes real numbers",
            expected="a floating-point tensor",
            received=f"{x.dtype}",
            fix="Call .float() first, or pass the tensor before it was quantized.",
        )


def _expanded(qparams: QParams, x: Tensor) -> tuple[Tensor, Tensor]:
    """Reciprocal-ready scale and float zero point, broadcastable against ``x``."""
    granularity = qparams.granularity
    granularity.check_values(qparams.scale, x.shape, "scale")
    return granularity.expand(qparams.scale, x.shape), granularity.expand(
        qparams.zero_point, x.shape
    )


def _to_codes(rounded: Tensor, zero_point: Tensor, qparams: QParams) -> Tensor:
    if qparams.dtype.bits > 16:  # float32 cannot express 2**31 - 1
        rounded = rounded.to(torch.float64)
    codes = torch.where(rounded.isnan(), zero_point.to(rounded.dtype), rounded)
    return codes.clamp(qparams.quant_min, qparams.quant_max)


def _float8_values(x: Tensor, scale: Tensor, qparams: QParams) -> Tensor:
    scaled = (x * (1.0 / scale)).nan_to_num(nan=0.0, posinf=torch.inf, neginf=-torch.inf)
    return scaled.clamp(qparams.quant_min, qparams.quant_max).to(qparams.dtype.storage)


def quantize(x: Tensor, qparams: QParams) -> Tensor:
    """Codes of real numbers, in the reference's order: ``clamp(rint(f32(x * (1/s) + z)))``.

    The product and the sum are rounded once, ties to even. NaN gives the zero point, infinities
    the end codes. float8: ``clamp(x * (1/s))`` rounded to the nearest float8, ties to even.

    Args:
        x: Real numbers, any floating dtype and shape.
        qparams: Scale and zero point; their shape must fit ``x``.

    Returns:
        Codes, dtype ``qparams.dtype.storage``, the shape of ``x``.

    Raises:
        DTypeError: ``x`` is not floating point.
        ShapeError: Scales and ``x`` do not fit.

    Source: pytorch.org/docs, ``torch.quantize_per_tensor``; bit-equal to it.
    """
    check_float(x, "quantize")
    scale, zero_point = _expanded(qparams, x)
    x = x.to(torch.float32)
    if qparams.dtype.is_float:
        return _float8_values(x, scale, qparams)
    inverse = 1.0 / scale
    if qparams.symmetric_around_zero:  # adding 0 rounds nothing: the float32 product is the result
        affine = x.detach() * inverse
    else:
        wide = x.detach().to(torch.float64, copy=True)
        affine = wide.mul_(inverse).add_(zero_point).to(torch.float32)
    return _to_codes(affine.round_(), zero_point, qparams).to(qparams.dtype.storage)


def quantize_round_first(x: Tensor, qparams: QParams) -> Tensor:
    """Codes of real numbers, rounding before the zero point is added: ``clamp(rint(x*(1/s)) + z)``.

    Arguments, result and errors as in `quantize`; the two differ on ties only.
    """
    check_float(x, "quantize_round_first")
    scale, zero_point = _expanded(qparams, x)
    x = x.to(torch.float32)
    if qparams.dtype.is_float:
        return _float8_values(x, scale, qparams)
    rounded = _rounded_first(x, scale, zero_point)
    return _to_codes(rounded, zero_point, qparams).to(qparams.dtype.storage)


def _rounded_first(x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    scaled = x * (1.0 / scale)
    if zero_point.is_floating_point():  # not a code itself, so there is nothing to round before it
        return torch.round(scaled + zero_point)
    return torch.round(scaled) + zero_point


def dequantize(codes: Tensor, qparams: QParams) -> Tensor:
    """Real numbers of codes: ``(q - z) * s``.

    Args:
        codes: Tensor of dtype ``qparams.dtype.storage``, any shape.
        qparams: Scale and zero point the codes were made with.

    Returns:
        float32, the shape of ``codes``.

    Raises:
        DTypeError: ``codes`` has another storage type.
        ShapeError: Scales and ``codes`` do not fit.
    """
    if codes.dtype != qparams.dtype.storage:
        raise DTypeError(
            f"dequantize: the codes are not stored as {qparams.dtype.name}",
            expected=f"{qparams.dtype.storage}",
            received=f"{codes.dtype}",
        )
    scale, zero_point = _expanded(qparams, codes)
    if qparams.dtype.is_float:
        return codes.to(torch.float32) * scale
    # The subtraction is exact: in float32 below 2**24, in int64 for the wider types.
    if qparams.dtype.bits > 16:
        return (codes.to(torch.int64) - zero_point).to(torch.float32) * scale
    return (codes.to(torch.float32) - zero_point) * scale


class _StraightThrough(torch.autograd.Function):
    """Fake quantization whose gradient is 1 inside the range of codes and 0 outside."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, qparams: QParams) -> Tensor:
        scale, zero_point = _expanded(qparams, x)
        wide = x.to(torch.float32)
        if qparams.dtype.is_float:
            scaled = wide * (1.0 / scale)
            inside = (scaled >= qparams.quant_min) & (scaled <= qparams.quant_max)
            result = _float8_values(wide, scale, qparams).to(torch.float32) * scale
        else:
            rounded = _rounded_first(wide, scale, zero_point)
            inside = (rounded >= qparams.quant_min) & (rounded <= qparams.quant_max)
            result = (_to_codes(rounded, zero_point, qparams) - zero_point) * scale
        ctx.save_for_backward(inside)
        return result.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        (inside,) = ctx.saved_tensors
        return grad_outputs[0] * inside, None


def fake_quantize(x: Tensor, qparams: QParams) -> Tensor:
    """Rounds real numbers to the ones that codes can express: ``(clamp(rint(x*(1/s))+z) - z) * s``.

    The gradient is the straight-through estimate: 1 where the code lies in range, else 0
    (Bengio et al. 2013).

    Args:
        x: Real numbers, any floating dtype and shape.
        qparams: Scale and zero point; their shape must fit ``x``.

    Returns:
        The dtype and shape of ``x``.

    Raises:
        DTypeError: ``x`` is not floating point.
        ShapeError: Scales and ``x`` do not fit.
    """
    check_float(x, "fake_quantize")
    result: Any = _StraightThrough.apply(x, qparams)
    return result


def requantize(real: Tensor, qparams: QParams) -> Tensor:
    """Codes of an operator's float32 result: ``clamp(rint(f32(f32(y * (1/s)) + z)))``.

    The last step of linear and convolution: product and sum are rounded each on its own (no fused
    multiply-add), and the zero point is added before rounding. Bit-equal to oneDNN's integer
    kernels.

    Args:
        real: float32, any shape; ``(f32(acc) * s_x) * s_w + b``, after ReLU where there is one.
        qparams: The output's scale and zero point.

    Returns:
        Codes, dtype ``qparams.dtype.storage``.
    """
    scale, zero_point = _expanded(qparams, real)
    if qparams.dtype.is_float:
        return _float8_values(real, scale, qparams)
    affine = real * (1.0 / scale) + zero_point.to(torch.float32)
    return _to_codes(torch.round(affine), zero_point, qparams).to(qparams.dtype.storage)
