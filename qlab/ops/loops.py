"""Loops over codes that Numba compiles to machine code, one pass over memory each.

Only `qlab.ops.compiled` calls them, and imports this module when it first needs one: importing
Numba and compiling takes about a second. Compiled code is kept on disk where that is allowed.

Everything is float32 and rounded after each operation, as in `qlab.qparams`: Numba contracts
nothing to fused multiply-adds unless told to. Codes are clamped before they are rounded; as the
limits are whole numbers, the result is that of clamping afterwards.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numba import carray, cfunc, types  # pyright: ignore[reportPrivateImportUsage]

_FLOAT, _DOUBLE, _INT = types.float32, types.float64, types.int64
_C_TYPES = {
    _FLOAT: ctypes.c_float,
    _DOUBLE: ctypes.c_double,
    _INT: ctypes.c_int64,
    types.int32: ctypes.c_int32,
}

Loop = Callable[..., None]
_KEPT: list[Any] = []  # what owns the machine code


def machine_code(function: Loop, pointers: tuple[Any, ...], numbers: list[Any]) -> Loop:
    """Machine code that takes addresses, then numbers; it runs without Python's lock."""
    signature = types.void(*map(types.CPointer, pointers), *numbers)
    try:
        code = cfunc(signature, cache=True)(function)
    except RuntimeError:  # nowhere to keep it
        code = cfunc(signature)(function)
    arguments = [ctypes.c_void_p] * len(pointers) + [_C_TYPES[number] for number in numbers]
    prototype: Any = ctypes.CFUNCTYPE(None, *arguments)
    _KEPT.append(code)
    return prototype(code.address)


def _add(a_at, b_at, y_at, n, s_a, z_a, s_b, z_b, inverse, z_y, low, high):
    a, b, y = carray(a_at, n), carray(b_at, n), carray(y_at, n)
    for i in range(n):
        real = (np.float32(a[i]) - z_a) * s_a + (np.float32(b[i]) - z_b) * s_b
        steps = real * inverse
        if steps != steps:  # infinite scales
            steps = np.float32(0)
        y[i] = np.int32(np.rint(min(max(steps, low), high)) + z_y)


@cache
def add(a: str, b: str, y: str) -> Loop:
    """``y = clamp(rint((s_a (a - z_a) + s_b (b - z_b)) · inverse)) + z_y`` for types of codes.

    Takes the addresses of a, b and y, their length, s_a, z_a, s_b, z_b, 1/s_y, z_y, and the
    smallest and largest result before z_y is added.
    """
    codes = (getattr(types, a), getattr(types, b), getattr(types, y))
    return machine_code(_add, codes, [_INT, *[_FLOAT] * 8])


def _quantize(x_at, y_at, n, inverse, z, low, high):
    x, y = carray(x_at, n), carray(y_at, n)
    for i in range(n):
        code = np.rint(np.float32(np.float64(x[i]) * inverse + z))
        if code != code:
            code = np.float32(z)
        y[i] = np.int32(min(max(code, low), high))


@cache
def quantize(y: str) -> Loop:
    """``y = clamp(rint(f32(x · inverse + z)))`` with one rounding; NaN gives z.

    Takes the addresses of x (float32) and y, their length, 1/s, z, and the limits of codes.
    """
    return machine_code(
        _quantize, (_FLOAT, getattr(types, y)), [_INT, _DOUBLE, _DOUBLE, *[_FLOAT] * 2]
    )


def _quantize_dynamic(x_at, bits_at, y_at, found_at, ends_at, end_bits_at, n, qmin, qmax, least):
    x, y, found = carray(x_at, n), carray(y_at, n), carray(found_at, 3)
    ends, end_bits = carray(ends_at, 2), carray(end_bits_at, 2)
    # The bits of a float32 as whole numbers in the same order: their extremes are found faster.
    bits, low, high, largest = carray(bits_at, n), np.int32(0), np.int32(0), np.int32(0)
    for i in range(n):
        magnitude = bits[i] & np.int32(0x7FFFFFFF)
        ordered = bits[i] ^ ((bits[i] >> np.int32(31)) & np.int32(0x7FFFFFFF))
        low, high = min(low, ordered), max(high, ordered)
        largest = max(largest, magnitude)
    found[2] = largest >= np.int32(0x7F800000)
    if found[2]:
        return
    end_bits[0] = low ^ ((low >> np.int32(31)) & np.int32(0x7FFFFFFF))
    end_bits[1] = high
    smallest, biggest = min(np.float64(ends[0]), 0.0), np.float64(ends[1])
    scale = (biggest - smallest) / (qmax - qmin)
    if np.float32(scale) == 0 or np.isinf(np.float32(1.0 / np.float64(np.float32(scale)))):
        scale = 0.1
    if scale < least:
        smallest, biggest, scale = smallest * (least / scale), biggest * (least / scale), least
    below, above = smallest / scale, biggest / scale
    from_below = abs(qmin) - abs(below) < abs(qmax) - abs(above)
    zero_point = np.rint(qmin - below if from_below else qmax - above)
    zero_point = min(max(zero_point, np.float64(qmin)), np.float64(qmax))
    rounded = np.float32(scale)
    inverse = np.float64(np.float32(1.0) / rounded)
    found[0], found[1] = rounded, zero_point
    for i in range(n):
        code = np.rint(np.float32(np.float64(x[i]) * inverse + zero_point))
        y[i] = np.int32(min(max(code, np.float32(qmin)), np.float32(qmax))) - 128


@cache
def quantize_dynamic() -> Loop:
    """`qlab.ops.dynamic.dynamic_qparams` and the quint8 codes for them less 128, in two passes.

    Takes the addresses of x twice (as float32 and as its bits), y, three float64 for scale, zero
    point and whether something is not finite (then nothing else is given), and of two float32
    twice for scratch; then n, the smallest and largest code, and the smallest scale.
    """
    pointers = (_FLOAT, types.int32, types.int8, _DOUBLE, _FLOAT, types.int32)
    return machine_code(_quantize_dynamic, pointers, [_INT, _INT, _INT, _DOUBLE])


def _dequantize(x_at, y_at, n, scale, zero_point):
    x, y = carray(x_at, n), carray(y_at, n)
    for i in range(n):
        y[i] = (np.float32(x[i]) - zero_point) * scale


@cache
def dequantize(x: str) -> Loop:
    """``y = (x - z) · s``. Takes the addresses of x and y (float32), their length, s and z."""
    return machine_code(_dequantize, (getattr(types, x), _FLOAT), [_INT, _FLOAT, _FLOAT])


def _affine(sums_at, offsets_at, scales_at, bias_at, y_at, rows, columns, zero_point, scale, low):
    sums, y = carray(sums_at, (rows, columns)), carray(y_at, (rows, columns))
    offsets, scales = carray(offsets_at, columns), carray(scales_at, columns)
    bias = carray(bias_at, columns)
    for r in range(rows):
        for c in range(columns):
            total = np.float32(np.int32(sums[r, c] - zero_point * offsets[c]))
            y[r, c] = max(total * (scales[c] * scale) + bias[c], low)


@cache
def affine() -> Loop:
    """``y = max(f32(sums - z · offsets) · (scales · scale) + bias, low)``, rows of columns.

    Takes the addresses of int32 sums and offsets and of float32 scales, bias and y; then rows,
    columns, z, scale and low.
    """
    integer = types.int32
    numbers = [_INT, _INT, integer, _FLOAT, _FLOAT]
    return machine_code(_affine, (integer, integer, _FLOAT, _FLOAT, _FLOAT), numbers)


def _mean(x_at, y_at, sums_at, n, pixels, channels, z, low, high):
    x, y = carray(x_at, (n, pixels, channels)), carray(y_at, (n, channels))
    sums = carray(sums_at, channels)
    for i in range(n):
        for c in range(channels):
            sums[c] = -pixels * z
        for p in range(pixels):
            for c in range(channels):
                sums[c] += np.int32(x[i, p, c])
        for c in range(channels):
            code = np.rint(np.float32(np.float64(sums[c]) / np.float64(pixels))) + np.float32(z)
            y[i, c] = np.int32(min(max(code, low), high))


@cache
def mean(codes: str) -> Loop:
    """``y = clamp(rint(Σ(x - z) / pixels) + z)`` of (n, pixels, channels), the sums exact.

    Takes the addresses of x, y (n, channels) and int32 scratch (channels), then n, pixels,
    channels, z and the limits of codes.
    """
    found = getattr(types, codes)
    numbers = [_INT, types.int32, _INT, types.int32, _FLOAT, _FLOAT]
    return machine_code(_mean, (found, found, types.int32), numbers)


def _interleave(x_at, y_at, n, pixels):
    x, y = carray(x_at, (n, 3, pixels)), carray(y_at, (n, pixels, 3))
    for i in range(n):
        for p in range(pixels):
            y[i, p, 0] = x[i, 0, p]
            y[i, p, 1] = x[i, 1, p]
            y[i, p, 2] = x[i, 2, p]


@cache
def interleave() -> Loop:
    """(n, 3, pixels) → (n, pixels, 3), bytes. Takes both addresses, n and the pixels."""
    return machine_code(_interleave, (types.uint8, types.uint8), [_INT, _INT])


def _maximum(x_at, y_at, row_at, n, h, w, c, rows, columns, kh, kw, sh, sw, ph, pw, dh, dw, low):
    x, y = carray(x_at, (n, h, w * c)), carray(y_at, (n, rows, columns, c))
    row = carray(row_at, (w * c,))
    for i in range(n):
        for r in range(rows):
            empty = True
            for u in range(kh):
                at = r * sh - ph + u * dh
                if at < 0 or at >= h:
                    continue
                for k in range(w * c):
                    row[k] = x[i, at, k] if empty else max(row[k], x[i, at, k])
                empty = False
            if empty:
                row[:] = low
            for q in range(columns):
                empty = True
                for v in range(kw):
                    at = q * sw - pw + v * dw
                    if at < 0 or at >= w:
                        continue
                    for k in range(c):
                        y[i, r, q, k] = (
                            row[at * c + k] if empty else max(y[i, r, q, k], row[at * c + k])
                        )
                    empty = False
                if empty:
                    y[i, r, q, :] = low


@cache
def maximum(codes: str) -> Loop:
    """Largest code in each window of (n, h, w, c), over what the windows have of the input.

    Takes the addresses of x, y and a scratch row of w·c codes, then n, h, w, c, the output's rows
    and columns, height and width of kernel, stride, padding and dilation, and the code of a window
    that has nothing of it.
    """
    return machine_code(_maximum, (getattr(types, codes),) * 3, [_INT] * 15)
