"""linear in Triton: an int8 matrix product on tensor cores with requantization in its epilogue."""

# pyright: reportGeneralTypeIssues=false, reportArgumentType=false, reportOperatorIssue=false
# pyright: reportCallIssue=false, reportAttributeAccessIssue=false

from __future__ import annotations

from collections.abc import Callable

import torch
import triton
import triton.language as tl
from torch import Tensor

from qlab.ops.triton_layers import Layer, Output, on_device
from qlab.ops.triton_rounding import OPTIONS, finished, put, signed

_BAND = 8


@triton.jit(do_not_specialize=["rows"])
def linear_kernel(
    x, weight, y, scale, offset, w_zero, bias, rows, outputs, depth,
    inverse, zero_point, low, high,
    unsigned: tl.constexpr, zeros: tl.constexpr, relu: tl.constexpr, codes: tl.constexpr,
    block_m: tl.constexpr, block_n: tl.constexpr, block_k: tl.constexpr, band: tl.constexpr,
):  # fmt: skip
    """One tile of ``y``: rows × outputs.

    x (rows, depth) and weight (outputs, depth) are 8-bit codes, rows after rows in memory. With
    int8 codes x', w' and their zero points the exact sum is
    ``Σ x'w' - z_w Σ x' + offset``, ``offset = depth · z_x · z_w - z_x Σ w'``.
    """
    # Tiles that run at the same time lie in a band of rows, so that they share weights in cache.
    number, tiles_n = tl.program_id(0), tl.cdiv(outputs, block_n)
    first = number // (band * tiles_n) * band
    height = tl.minimum(tl.cdiv(rows, block_m) - first, band)
    inside = number % (band * tiles_n)
    m = (first + inside % height) * block_m + tl.arange(0, block_m)
    n = inside // height * block_n + tl.arange(0, block_n)
    at_x = x + m.to(tl.int64)[:, None] * depth
    at_weight = weight + n.to(tl.int64)[None, :] * depth
    total = tl.zeros((block_m, block_n), dtype=tl.int32)
    sums = tl.zeros((block_m,), dtype=tl.int32)
    for start in range(0, depth, block_k):
        k = start + tl.arange(0, block_k)
        given = (m < rows)[:, None] & (k < depth)[None, :]
        a = tl.load(at_x + k[None, :], mask=given, other=128 if unsigned else 0)
        a = signed(a, unsigned)
        b = tl.load(at_weight + k[:, None], mask=(k < depth)[:, None] & (n < outputs)[None, :],
                    other=0)  # fmt: skip
        total = tl.dot(a, b, total, out_dtype=tl.int32)
        if zeros:
            sums += tl.sum(a.to(tl.int32), 1)
    here = n < outputs
    total += tl.load(offset + n, mask=here, other=0)[None, :]
    if zeros:
        total -= sums[:, None] * tl.load(w_zero + n, mask=here, other=0)[None, :]
    by, add = tl.load(scale + n, mask=here, other=0.0), tl.load(bias + n, mask=here, other=0.0)
    real = finished(total, by[None, :], add[None, :], relu)
    place = y + m.to(tl.int64)[:, None] * outputs + n[None, :]
    mask = (m < rows)[:, None] & here[None, :]
    put(place, real, mask, inverse, zero_point, low, high, codes)


def tiles(rows: int, outputs: int, depth: int) -> tuple[int, int, int, int]:
    """Rows, outputs and depth of a tile, and the warps that compute it.

    Tensor cores need at least 16 × 16 × 32; larger tiles read each code less often, and smaller
    ones keep more multiprocessors busy. The largest fits, three times for the pipeline, into 48 KiB
    of shared memory, which every chip with int8 tensor cores has.
    """
    block_m = min(128, max(16, triton.next_power_of_2(rows)))
    block_n = min(128, max(16, triton.next_power_of_2(outputs)))
    block_k = min(64, max(32, triton.next_power_of_2(depth)))
    return block_m, block_n, block_k, 8 if block_m * block_n >= 128 * 128 else 4


def linear(layer: Layer, output: Output) -> Callable[[Tensor], Tensor]:
    """A linear layer as a function of its input's codes."""
    outputs, depth = layer.weight.shape

    def compute(x: Tensor) -> Tensor:
        y = torch.empty((*x.shape[:-1], outputs), dtype=output.dtype, device=x.device)
        rows = x.shape[:-1].numel()
        if not y.numel():
            return y
        block_m, block_n, block_k, warps = tiles(rows, outputs, depth)
        grid = (triton.cdiv(rows, block_m) * triton.cdiv(outputs, block_n),)
        with on_device(x):
            linear_kernel[grid](
                x.contiguous(), layer.weight, y, layer.scale, layer.offset, layer.zero_points,
                layer.bias, rows, outputs, depth, *output.numbers,
                x.dtype == torch.uint8, layer.has_zero_points, output.relu, output.codes,
                block_m, block_n, block_k, _BAND, num_warps=warps, num_stages=3, **OPTIONS,
            )  # fmt: skip
        return y

    return compute
