"""The depthwise convolution that Numba compiles; only `qlab.ops.depthwise` calls it.

As in `qlab.ops.loops`: after the exact sum everything is float32, every operation rounded, none
contracted. The innermost loops run over channels, which lie side by side in memory.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numba import carray, types  # pyright: ignore[reportPrivateImportUsage]

from qlab.ops.loops import Loop, machine_code


def _depthwise(
    x_at, w_at, start_at, scale_at, bias_at, y_at, sums_at,
    n, h, w, c, rows, columns, kh, kw, sh, sw, ph, pw, dh, dw, z, inverse, z_y, least, low, high,
):  # fmt: skip
    x, y = carray(x_at, (n, h, w, c)), carray(y_at, (n, rows, columns, c))
    weight, start = carray(w_at, (kh, kw, c)), carray(start_at, c)
    scale, bias, sums = carray(scale_at, c), carray(bias_at, c), carray(sums_at, c)
    for i in range(n):
        for r in range(rows):
            for q in range(columns):
                for k in range(c):
                    sums[k] = start[k]
                for u in range(kh):
                    a = r * sh - ph + u * dh
                    for v in range(kw):
                        b = q * sw - pw + v * dw
                        if a < 0 or a >= h or b < 0 or b >= w:
                            for k in range(c):
                                sums[k] += np.int32(z * np.int32(weight[u, v, k]))
                        else:
                            for k in range(c):
                                sums[k] += np.int32(
                                    np.int32(x[i, a, b, k]) * np.int32(weight[u, v, k])
                                )
                for k in range(c):
                    real = max(np.float32(sums[k]) * scale[k] + bias[k], least)
                    code = np.rint(real * inverse + z_y)
                    y[i, r, q, k] = np.int32(min(max(code, low), high))


@cache
def depthwise(x: str, y: str) -> Loop:
    """``y = clamp(rint(max(f32(Σ (x - z) w) · scale + bias, least) · inverse + z_y))``.

    Takes the addresses of x (n, h, w, c), int8 weights (kh, kw, c), int32 ``-z Σ w``, float32
    scale and bias (c), y (n, rows, columns, c) and int32 scratch (c); then n, h, w, c, rows,
    columns, height and width of kernel, stride, padding and dilation, z, 1/s_y, z_y, the smallest
    real result, and the limits of codes.
    """
    number, real = types.int32, types.float32
    pointers = (getattr(types, x), types.int8, number, real, real, getattr(types, y), number)
    return machine_code(_depthwise, pointers, [types.int64] * 14 + [number] + [real] * 5)
