"""Between real numbers and codes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from qlab.errors import DTypeError
from qlab.qparams.params import QParams, check_tensor


def check_float(x: Tensor, what: str) -> None:
    """Raises `DTypeError` unless ``x`` holds real numbers; ``what`` names the operation."""
    check_tensor(x, what)
    if not x.is_floating_point():
        raise DTypeError(
            f"{what} takes real numbers",
            expected="a floating-point tensor",
            received=f"{x.dtype}",
            fix="Call .float() first, or pass the tensor before it was quantized.",
        )


def _expanded(qparams: QParams, x: Tensor) -> tuple[Tensor, Tensor]:
    """Reciprocal-ready scale and float zero point, broadcastable against ``x``."""
    if not isinstance(qparams, QParams):
        raise DTypeError(
            "There are no quantization parameters",
            expected="a qlab.QParams",
            received=type(qparams).__name__,
        )
    granularity = qparams.granularity
    granularity.check_values(qparams.scale, x.shape, "scale")
    return granularity.expand(qparams.scale, x.shape), granularity.expand(
        qparams.zero_point, x.shape
    )


def _to_codes(rounded: Tensor, zero_point: Tensor, qparams: QParams) -> Tensor:
    """Clamps, NaN being the zero point; ``rounded`` is overwritten."""
    if qparams.dtype.bits > 16:  # float32 cannot express 2**31 - 1
        rounded = rounded.to(torch.float64)
    traced = torch.compiler.is_compiling()  # which must not ask for a tensor's value
    if zero_point.dim() == 0 and not zero_point.is_floating_point() and not traced:
        limits = {"posinf": torch.inf, "neginf": -torch.inf}
        rounded.nan_to_num_(nan=float(qparams.zero_point_value), **limits)
    else:
        rounded = torch.where(rounded.isnan(), zero_point.to(rounded.dtype), rounded)
    return rounded.clamp_(qparams.quant_min, qparams.quant_max)


def _float8_values(x: Tensor, scale: Tensor, qparams: QParams) -> Tensor:
    scaled = (x * (1.0 / scale)).nan_to_num(nan=0.0, posinf=torch.inf, neginf=-torch.inf)
    return scaled.clamp(qparams.quant_min, qparams.quant_max).to(qparams.dtype.storage)


def quantize(x: Tensor, qparams: QParams) -> Tensor:
    """Codes of real numbers, in the reference's order: ``clamp(rint(f32(x * (1/s) + z)))``.

    The product and the sum are rounded once, ties to even; for qint32 and float zero points each
    on its own, as in `requantize`. NaN gives the zero point, infinities the end codes. float8:
    ``clamp(x * (1/s))`` rounded to the nearest float8, ties to even.

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
    if qparams.float_zero_point:  # the reference rounds product and sum each on its own
        affine = x.detach() * inverse + zero_point
    elif qparams.symmetric_around_zero:  # adding 0 rounds nothing
        affine = x.detach() * inverse
    elif qparams.dtype.bits > 16:  # the reference rounds twice for its 32-bit type
        return requantize(x.detach(), qparams)
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
    rounded = _rounded_first(x.detach(), scale, zero_point)
    return _to_codes(rounded, zero_point, qparams).to(qparams.dtype.storage)


def _rounded_first(x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    scaled = x * (1.0 / scale)
    if zero_point.is_floating_point():  # not a code itself, so there is nothing to round before it
        return scaled.add_(zero_point).round_()
    return scaled.round_().add_(zero_point)


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
    check_tensor(codes, "dequantize")
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
    return codes.to(torch.float32).sub_(zero_point).mul_(scale)


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


def fake_quantize_learned(
    x: Tensor, scale: Tensor, zero_point: Tensor, limits: tuple[int, int], grad_factor: float = 1.0
) -> Tensor:
    """`fake_quantize` with gradients for scale and zero point, which are learned.

    With ``q = rint(x * (1/s)) + z`` and n, p the smallest and largest code: inside [n, p] the
    gradients are 1 for x, ``rint(x/s) - x/s`` for s and 0 for z; outside 0, ``n - z`` (or
    ``p - z``) and ``-s``. Those of s and z are multiplied by ``grad_factor`` and summed.

    Args:
        x: Real numbers, any floating dtype and shape.
        scale: float32, positive; broadcasts against ``x``.
        zero_point: float32, rounded and clamped to the codes here; the shape of ``scale``.
        limits: Smallest and largest code.
        grad_factor: Multiplies the gradients of scale and zero point.

    Returns:
        The dtype and shape of ``x``.

    Source: Esser et al. 2020, "Learned Step Size Quantization"; Bhalgat et al. 2020, "LSQ+".
    """
    check_float(x, "fake_quantize_learned")
    scale = _with_gradient_times(scale, grad_factor)
    zero_point = _with_gradient_times(zero_point, grad_factor)
    zero_point = zero_point + (zero_point.round().clamp(*limits) - zero_point).detach()
    scaled = x.to(torch.float32) * (1.0 / scale)
    codes = scaled + (scaled.round() - scaled).detach() + zero_point
    return ((codes.clamp(*limits) - zero_point) * scale).to(x.dtype)


def _with_gradient_times(value: Tensor, factor: float) -> Tensor:
    return value if factor == 1.0 else value * factor + (value - value * factor).detach()


def bias_codes(bias: Tensor, unit: Tensor) -> Tensor:
    """A bias as integers: ``clamp(rint(b / (s_x·s_w)))`` in the range of int32, zero point 0.

    Args:
        bias: Real numbers (output channels,).
        unit: ``s_x · s_w``, one number or one per output channel.

    Returns:
        Whole numbers as float64, the shape of ``bias``; NaN and infinity as they are clamped.

    Source: Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference", section 2.4.
    """
    limit = 2**31 - 1
    return (bias.to(torch.float64) / unit.to(torch.float64)).round_().clamp_(-limit - 1, limit)


def requantize_whole(total: Tensor, multiplier: Tensor, qparams: QParams) -> Tensor:
    """Codes of whole sums by one multiplier: ``clamp(rint(f32(acc·M)) + z)``.

    The last step of linear and convolution in integer runtimes; here with a float32 multiplier, as
    onnxruntime's kernels have it.

    Args:
        total: float32, any shape: the sum of products and integer bias, rounded to float32.
        multiplier: ``s_x·s_w/s_y``, float32; broadcasts against ``total``.
        qparams: The output's scale and zero point, per tensor.

    Returns:
        Codes, dtype ``qparams.dtype.storage``.
    """
    _, zero_point = _expanded(qparams, total)
    codes = (total * multiplier).round_().add_(zero_point.to(torch.float32))
    return _to_codes(codes, zero_point, qparams).to(qparams.dtype.storage)


def requantize(real: Tensor, qparams: QParams) -> Tensor:
    """Codes of an operator's float32 result: ``clamp(rint(f32(f32(y * (1/s)) + z)))``.

    The last step of linear and convolution: product and sum are rounded each on its own (no fused
    multiply-add), and the zero point is added before rounding. Bit-equal to oneDNN's integer
    kernels.

    Args:
        real: float32, any shape; ``f32(acc) * (s_x * s_w) + b``, after ReLU where there is one.
        qparams: The output's scale and zero point.

    Returns:
        Codes, dtype ``qparams.dtype.storage``.
    """
    scale, zero_point = _expanded(qparams, real)
    if qparams.dtype.is_float:
        return _float8_values(real, scale, qparams)
    affine = (real.detach() * (1.0 / scale)).add_(zero_point.to(torch.float32))
    return _to_codes(affine.round_(), zero_point, qparams).to(qparams.dtype.storage)
