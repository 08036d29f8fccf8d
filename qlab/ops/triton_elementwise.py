"""quantize, dequantize, add, mul and layer_norm in Triton: each reads and writes memory once."""

# pyright: reportGeneralTypeIssues=false, reportArgumentType=false, reportOperatorIssue=false
# pyright: reportCallIssue=false, reportAttributeAccessIssue=false

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from qlab.ops.triton_layers import on_device
from qlab.ops.triton_rounding import OPTIONS, clamped, finished_code, real_of, rounded_first
from qlab.qparams import QParams

_BLOCK = 1024


@triton.jit
def quantize_kernel(
    x, y, scale, zero, count, inner, channels, low, high, each: tl.constexpr, block: tl.constexpr
):
    """``clamp(rint(f32(x·(1/s) + z)))``, product and sum in float64: rounded once to float32."""
    at = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    mask = at < count
    channel = at // inner % channels if each else at * 0
    by, add = tl.load(scale + channel, mask, other=1.0), tl.load(zero + channel, mask, other=0)
    real = tl.load(x + at, mask, other=0.0).to(tl.float32)
    wide = real.to(tl.float64) * tl.math.div_rn(1.0, by).to(tl.float64) + add.to(tl.float64)
    code = clamped(wide.to(tl.float32), add.to(tl.float32), low, high)
    tl.store(y + at, finished_code(code, y), mask)


@triton.jit
def dequantize_kernel(
    x, y, scale, zero, count, inner, channels, each: tl.constexpr, block: tl.constexpr
):
    """``(q - z)·s``."""
    at = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    mask = at < count
    channel = at // inner % channels if each else at * 0
    by, add = tl.load(scale + channel, mask, other=1.0), tl.load(zero + channel, mask, other=0)
    tl.store(y + at, real_of(tl.load(x + at, mask, other=0), by, add), mask)


@triton.jit
def combine_kernel(
    a, b, y, a_scale, a_zero, b_scale, b_zero, y_scale, y_zero, count, low, high,
    product: tl.constexpr, relu: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """``clamp(rint(f32((a + b)·(1/s))) + z)`` of the real numbers of two codes, or of ``a·b``."""
    at = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    mask = at < count
    left = real_of(tl.load(a + at, mask, other=0), tl.load(a_scale), tl.load(a_zero))
    right = real_of(tl.load(b + at, mask, other=0), tl.load(b_scale), tl.load(b_zero))
    real = left * right if product else left + right
    if relu:
        real = tl.where(real < 0.0, 0.0, real)
    inverse = tl.math.div_rn(1.0, tl.load(y_scale))
    code = rounded_first(real, inverse, tl.load(y_zero).to(tl.float32), low, high)
    tl.store(y + at, finished_code(code, y), mask)


@triton.jit
def layer_norm_kernel(
    x, y, weight, bias, x_scale, x_zero, y_scale, y_zero, features, eps, low, high,
    weighted: tl.constexpr, biased: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """One row of ``(x - mean) / sqrt(var + eps) · weight + bias``; the mean's sum is exact."""
    at = tl.arange(0, block)
    mask, row = at < features, tl.program_id(0).to(tl.int64) * features
    many = tl.cast(features, tl.float32)  # not features.to: Triton takes a 1 for a constant
    steps = tl.load(x + row + at, mask, other=0).to(tl.int32) - tl.load(x_zero)
    steps = tl.where(mask, steps, 0)
    mean = tl.math.div_rn(tl.sum(steps, 0).to(tl.float32), many)
    real = tl.where(mask, (steps.to(tl.float32) - mean) * tl.load(x_scale), 0.0)
    variance = tl.math.div_rn(tl.sum(real * real, 0), many)
    real = real * tl.math.div_rn(1.0, tl.math.sqrt_rn(variance + eps))
    if weighted:
        real = real * tl.load(weight + at, mask, other=0.0)
    if biased:
        real = real + tl.load(bias + at, mask, other=0.0)
    inverse = tl.math.div_rn(1.0, tl.load(y_scale))
    code = rounded_first(real, inverse, tl.load(y_zero).to(tl.float32), low, high)
    tl.store(y + row + at, finished_code(code, y), mask)


def _limits(qparams: QParams) -> tuple[float, float]:
    return float(qparams.quant_min), float(qparams.quant_max)


def _grid(x: Tensor) -> tuple[int]:
    return (triton.cdiv(x.numel(), _BLOCK),)


def quantize(x: Tensor, y: Tensor, qparams: QParams, channels: tuple[int, int]) -> None:
    """Writes the codes of real numbers.

    Args:
        x: float32, float16 or bfloat16.
        y: uint8 or int8; lies in memory like ``x``.
        qparams: Of ``y``.
        channels: Elements between two channels, and how many channels; (1, 1) per tensor.
    """
    given = (qparams.scale, qparams.zero_point, x.numel(), *channels, *_limits(qparams))
    with on_device(x):
        quantize_kernel[_grid(x)](x, y, *given, channels != (1, 1), _BLOCK, **OPTIONS)


def dequantize(codes: Tensor, y: Tensor, qparams: QParams, channels: tuple[int, int]) -> None:
    """Writes the real numbers of codes, float32; arguments as in `quantize`."""
    given = (qparams.scale, qparams.zero_point, codes.numel(), *channels)
    with on_device(codes):
        dequantize_kernel[_grid(codes)](codes, y, *given, channels != (1, 1), _BLOCK, **OPTIONS)


def combine(
    a: tuple[Tensor, QParams],
    b: tuple[Tensor, QParams],
    y: tuple[Tensor, QParams],
    product: bool,
    relu: bool,
) -> None:
    """Writes sums or products of two tensors of codes that lie in memory alike."""
    numbers = [value for _, qparams in (a, b, y) for value in (qparams.scale, qparams.zero_point)]
    given = (a[0], b[0], y[0], *numbers, a[0].numel(), *_limits(y[1]))
    with on_device(a[0]):
        combine_kernel[_grid(a[0])](*given, product, relu, _BLOCK, **OPTIONS)


def layer_norm(
    x: tuple[Tensor, QParams],
    y: tuple[Tensor, QParams],
    parameters: tuple[Tensor | None, Tensor | None],
    features: int,
    eps: float,
) -> None:
    """Writes normalized rows of ``features`` codes."""
    numbers = [value for _, qparams in (x, y) for value in (qparams.scale, qparams.zero_point)]
    weight, bias = (x[1].scale if p is None else p.contiguous() for p in parameters)
    given = (x[0], y[0], weight, bias, *numbers, features, eps, *_limits(y[1]))
    block = triton.next_power_of_2(features)
    warps = min(16, max(1, block // 512))
    with on_device(x[0]):
        layer_norm_kernel[(x[0].numel() // features,)](
            *given, *(p is not None for p in parameters), block, num_warps=warps, **OPTIONS
        )
