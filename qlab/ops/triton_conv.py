"""Convolutions over one or two axes in Triton: implicit GEMM, and a direct kernel for depthwise.

Both read the input where it lies, padding and all, by its strides; channels last is fastest, since
the codes of a pixel are then read together.
"""

# pyright: reportGeneralTypeIssues=false, reportArgumentType=false, reportOperatorIssue=false
# pyright: reportCallIssue=false, reportAttributeAccessIssue=false

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import chain

import torch
import triton
import triton.language as tl
from torch import Tensor

from qlab.ops.calls import ConvCall, output_sizes
from qlab.ops.triton_gemm import tiles
from qlab.ops.triton_layers import Layer, Output, on_device
from qlab.ops.triton_rounding import OPTIONS, finished, put, signed

_LAST = torch.channels_last
#: Channels of a group from which on the codes of a pixel fill the depth of a tile.
_DEEP = 16


@dataclass(frozen=True, slots=True)
class Window:
    """How a convolution over two axes slides."""

    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int

    @classmethod
    def of(cls, call: ConvCall) -> Window:
        """One axis is taken for the second of two."""

        def pair(values: tuple[int, ...], other: int) -> tuple[int, int]:
            return (other, values[0]) if len(values) == 1 else (values[0], values[1])

        places = pair(call.stride, 1), pair(call.padding, 0), pair(call.dilation, 1)
        return cls(*places, call.groups)


@triton.jit
def _pixels(m, out_h, out_w, stride_h, stride_w, pad_h, pad_w):
    """Image, and the upper left corner of the window, of each pixel of the output."""
    rest = m % (out_h * out_w)
    return m // (out_h * out_w), rest // out_w * stride_h - pad_h, rest % out_w * stride_w - pad_w


@triton.jit(do_not_specialize=["pixels", "fill"])
def conv_kernel(
    x, weight, y, scale, offset, w_zero, bias, pixels, channels, outputs, height, width,
    out_h, out_w, k_h, k_w, at_n, at_c, at_h, at_w,
    stride_h, stride_w, pad_h, pad_w, step_h, step_w, fill, inverse, zero_point, low, high,
    unsigned: tl.constexpr, zeros: tl.constexpr, relu: tl.constexpr, codes: tl.constexpr,
    deep: tl.constexpr, block_m: tl.constexpr, block_n: tl.constexpr, block_k: tl.constexpr,
):  # fmt: skip
    """One tile of one group: pixels × outputs; ``channels`` and ``outputs`` are those of a group.

    The sums are those of `qlab.ops.triton_gemm.linear_kernel`, over the window and the channels of
    the group; outside the image lies ``fill``, the code of 0.0. ``deep``: a step of the sum takes
    channels of one place of the window; else it runs through places and channels together.
    """
    m = tl.program_id(0) * block_m + tl.arange(0, block_m)
    n, group = tl.program_id(1) * block_n + tl.arange(0, block_n), tl.program_id(2)
    here, there, depth = m < pixels, n < outputs, k_h * k_w * channels
    image, top, left = _pixels(m, out_h, out_w, stride_h, stride_w, pad_h, pad_w)
    at_image = x + image.to(tl.int64) * at_n + group * channels * at_c
    at_weight = weight + (group * outputs + n).to(tl.int64) * depth
    total = tl.zeros((block_m, block_n), dtype=tl.int32)
    sums = tl.zeros((block_m,), dtype=tl.int32)
    blocks = tl.cdiv(channels, block_k)
    steps = k_h * k_w * blocks if deep else tl.cdiv(depth, block_k)
    for step in range(0, steps):
        if deep:
            place = step // blocks
            c = step % blocks * block_k + tl.arange(0, block_k)
            valid = c < channels
            k = place * channels + c
            row, column = place // k_w, place % k_w
            i, j = top[:, None] + row * step_h, left[:, None] + column * step_w
        else:
            k = step * block_k + tl.arange(0, block_k)
            place, c, valid = k // channels, k % channels, k < depth
            row, column = place // k_w, place % k_w
            i, j = top[:, None] + row[None, :] * step_h, left[:, None] + column[None, :] * step_w
        inside = (i >= 0) & (i < height) & (j >= 0) & (j < width) & here[:, None]
        at = at_image[:, None] + i * at_h + j * at_w + c[None, :] * at_c
        a = signed(tl.load(at, mask=inside & valid[None, :], other=fill), unsigned)
        b = tl.load(at_weight[None, :] + k[:, None], mask=valid[:, None] & there[None, :], other=0)
        total = tl.dot(a, b, total, out_dtype=tl.int32)
        if zeros:
            sums += tl.sum(tl.where(valid[None, :], a.to(tl.int32), 0), 1)
    n += group * outputs
    total += tl.load(offset + n, mask=there, other=0)[None, :]
    if zeros:
        total -= sums[:, None] * tl.load(w_zero + n, mask=there, other=0)[None, :]
    by, add = tl.load(scale + n, mask=there, other=0.0), tl.load(bias + n, mask=there, other=0.0)
    real = finished(total, by[None, :], add[None, :], relu)
    place = y + m.to(tl.int64)[:, None] * (outputs * tl.num_programs(2)) + n[None, :]
    put(place, real, here[:, None] & there[None, :], inverse, zero_point, low, high, codes)


@triton.jit(do_not_specialize=["pixels", "x_zero"])
def depthwise_kernel(
    x, weight, y, scale, w_zero, bias, pixels, each, outputs, height, width,
    out_h, out_w, k_h, k_w, at_n, at_c, at_h, at_w,
    stride_h, stride_w, pad_h, pad_w, step_h, step_w, x_zero, inverse, zero_point, low, high,
    unsigned: tl.constexpr, relu: tl.constexpr, codes: tl.constexpr,
    block_m: tl.constexpr, block_n: tl.constexpr,
):  # fmt: skip
    """One tile, pixels × outputs, where every group has one channel, and ``each`` outputs.

    ``Σ (x - z_x)(w - z_w)`` over the window, as it stands; outside the image ``x - z_x`` is 0.
    The weight is (k_h · k_w, outputs) here.
    """
    m = tl.program_id(0) * block_m + tl.arange(0, block_m)
    n = tl.program_id(1) * block_n + tl.arange(0, block_n)
    here, there = m < pixels, n < outputs
    image, top, left = _pixels(m, out_h, out_w, stride_h, stride_w, pad_h, pad_w)
    at_image = (x + image.to(tl.int64) * at_n)[:, None] + (n // each * at_c)[None, :]
    zero = tl.load(w_zero + n, mask=there, other=0)
    total = tl.zeros((block_m, block_n), dtype=tl.int32)
    for place in range(0, k_h * k_w):
        i, j = top + place // k_w * step_h, left + place % k_w * step_w
        inside = (i >= 0) & (i < height) & (j >= 0) & (j < width) & here
        mask = inside[:, None] & there[None, :]
        a = tl.load(at_image + (i * at_h + j * at_w)[:, None], mask=mask, other=0)
        a = tl.where(mask, signed(a, unsigned).to(tl.int32) - x_zero, 0)
        w = tl.load(weight + place * outputs + n, mask=there, other=0).to(tl.int32) - zero
        total += a * w[None, :]
    by, add = tl.load(scale + n, mask=there, other=0.0), tl.load(bias + n, mask=there, other=0.0)
    real = finished(total, by[None, :], add[None, :], relu)
    at = y + m.to(tl.int64)[:, None] * outputs + n[None, :]
    put(at, real, here[:, None] & there[None, :], inverse, zero_point, low, high, codes)


def convolution(layer: Layer, output: Output, window: Window) -> Callable[[Tensor], Tensor]:
    """A convolution as a function of its input's codes; the output has its channels last."""
    if layer.weight.dim() == 3:
        flat = convolution(replace(layer, weight=layer.weight.unsqueeze(1)), output, window)
        return lambda x: flat(x.unsqueeze(2)).squeeze(2)
    outputs, *kernel, channels = layer.weight.shape
    launch = _grouped
    if channels == 1 and window.groups > 1:
        launch, layer = _depthwise, replace(layer, weight=layer.weight.flatten(1).t().contiguous())

    def compute(x: Tensor) -> Tensor:
        slides = (window.stride, window.padding, window.dilation)
        sizes = output_sizes(x.shape[2:], kernel, *slides)
        shape = (len(x), outputs, *sizes)
        y = torch.empty(shape, dtype=output.dtype, device=x.device, memory_format=_LAST)
        if y.numel():
            x = x.contiguous(memory_format=_LAST)
            with on_device(x):
                launch(x, layer, y, output, (*sizes, *kernel, *x.stride(), *chain(*slides)))
        return y

    return compute


def _grouped(x: Tensor, layer: Layer, y: Tensor, output: Output, geometry: tuple[int, ...]) -> None:
    outputs, channels = len(layer.weight), layer.weight.shape[3]
    groups = x.shape[1] // channels
    each, pixels = outputs // groups, y.numel() // outputs
    deep = channels >= _DEEP
    depth = channels if deep else layer.weight[0].numel()
    block_m, block_n, block_k, warps = tiles(pixels, each, depth)
    unsigned = x.dtype == torch.uint8
    fill = layer.x_zero + 128 * unsigned
    conv_kernel[triton.cdiv(pixels, block_m), triton.cdiv(each, block_n), groups](
        x, layer.weight, y, layer.scale, layer.offset, layer.zero_points, layer.bias,
        pixels, channels, each, x.shape[2], x.shape[3], *geometry, fill, *output.numbers,
        unsigned, layer.has_zero_points, output.relu, output.codes,
        deep, block_m, block_n, block_k, num_warps=warps, num_stages=3, **OPTIONS,
    )  # fmt: skip


def _depthwise(
    x: Tensor, layer: Layer, y: Tensor, output: Output, geometry: tuple[int, ...]
) -> None:
    outputs = y.shape[1]
    pixels, each = y.numel() // outputs, outputs // x.shape[1]
    block_m, block_n = 32, min(64, triton.next_power_of_2(outputs))
    depthwise_kernel[triton.cdiv(pixels, block_m), triton.cdiv(outputs, block_n)](
        x, layer.weight, y, layer.scale, layer.zero_points, layer.bias,
        pixels, each, outputs, x.shape[2], x.shape[3], *geometry, layer.x_zero, *output.numbers,
        x.dtype == torch.uint8, output.relu, output.codes, block_m, block_n,
        num_warps=4, **OPTIONS,
    )  # fmt: skip
