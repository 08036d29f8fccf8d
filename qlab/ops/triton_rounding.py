"""The steps of the numeric contract as Triton functions: each rounds to float32 on its own.

They must be launched with ``enable_fp_fusion=False`` (`OPTIONS`), or Triton joins a product and a
sum into one rounding.
"""

# pyright: reportGeneralTypeIssues=false, reportArgumentType=false, reportOperatorIssue=false
# pyright: reportCallIssue=false, reportAttributeAccessIssue=false

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

#: How every kernel is compiled: no product and sum in one rounding.
OPTIONS: dict[str, Any] = {"enable_fp_fusion": False}

#: 1.5 · 2**23: adding and subtracting it rounds a float32 below 2**22 to a whole number, ties to
#: even, by the rounding that every addition does anyway.
_MAGIC = tl.constexpr(12582912.0)


@triton.jit
def clamped(affine, zero_point, low, high):
    """``clamp(rint(affine))``, NaN being the zero point.

    The limits are whole numbers, so clamping first changes nothing and keeps the numbers small.
    """
    affine = tl.where(affine != affine, zero_point, affine)
    affine = tl.minimum(tl.maximum(affine, low), high)
    return (affine + _MAGIC) - _MAGIC


@triton.jit
def rounded_first(real, inverse, zero_point, low, high):
    """``clamp(rint(f32(real·(1/s))) + z)``, NaN being the zero point."""
    return clamped(real * inverse, 0.0, low - zero_point, high - zero_point) + zero_point


@triton.jit
def finished(total, scale, bias, relu: tl.constexpr):
    """``relu(f32(f32(acc)·(s_x·s_w)) + b)`` of int32 sums."""
    real = total.to(tl.float32) * scale + bias
    if relu:
        real = tl.where(real < 0.0, 0.0, real)
    return real


@triton.jit
def put(at, real, mask, inverse, zero_point, low, high, codes: tl.constexpr):
    """Stores real numbers as they are, or as ``clamp(rint(f32(f32(y·(1/s)) + z)))``."""
    if codes:
        code = clamped(real * inverse + zero_point, zero_point, low, high)
        tl.store(at, finished_code(code, at), mask=mask)
    else:
        tl.store(at, real, mask=mask)


@triton.jit
def signed(codes, unsigned: tl.constexpr):
    """Codes as int8: unsigned ones less 128, by their topmost bit."""
    if unsigned:
        codes = (codes ^ 128).to(tl.int8, bitcast=True)
    return codes


@triton.jit
def real_of(codes, scale, zero_point):
    """``(q - z)·s`` in float32."""
    return (codes.to(tl.float32) - zero_point.to(tl.float32)) * scale


@triton.jit
def finished_code(code, at):
    """A whole float32 in the type that a pointer points to."""
    return code.to(tl.int32).to(at.dtype.element_ty)
