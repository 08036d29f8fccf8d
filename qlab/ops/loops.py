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
from numba import carray, cfunc, types

_FLOAT, _DOUBLE, _INT = types.float32, types.float64, types.int64
_C_TYPES = {_FLOAT: ctypes.c_float, _DOUBLE: ctypes.c_double, _INT: ctypes.c_int64}

Loop = Callable[..., None]


def _compiled(function: Loop, pointers: tuple[Any, ...], numbers: list[Any]) -> Loop:
    """Machine code that takes addresses, then numbers; it runs without Python's lock."""
    signature = types.void(*map(types.CPointer, pointers), *numbers)
    try:
        code = cfunc(signature, cache=True)(function)
    except RuntimeError:  # nowhere to keep it
        code = cfunc(signature)(function)
    arguments = [ctypes.c_void_p] * len(pointers) + [_C_TYPES[number] for number in numbers]
    call = ctypes.CFUNCTYPE(None, *arguments)(code.address)
    call.code = code  # owns the machine code
    return call


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
    return _compiled(_add, codes, [_INT, *[_FLOAT] * 8])


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
    return _compiled(
        _quantize, (_FLOAT, getattr(types, y)), [_INT, _DOUBLE, _DOUBLE, *[_FLOAT] * 2]
    )


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
    return _compiled(_interleave, (types.uint8, types.uint8), [_INT, _INT])


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
    return _compiled(_maximum, (getattr(types, codes),) * 3, [_INT] * 15)
