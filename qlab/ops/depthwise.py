"""Depthwise convolutions by a compiled loop: every channel has a kernel of its own.

A call of oneDNN's convolution begins with some 28 µs that do not depend on its size, since
PyTorch makes its primitive anew. One pass over memory in one thread is faster up to `_largest`
products (measured on AVX512-VNNI with channels from 32 to 960, strides 1 and 2), and on any CPU
without VNNI. The codes are those of `qlab.ops.exact`, bit by bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from qlab.ops import compiled, onednn
from qlab.ops.calls import Call, ConvCall, output_sizes
from qlab.ops.compiled import CODES, codes_obstacle
from qlab.ops.exact import combined_scale, float_bias_obstacle
from qlab.ops.packed import PackedWeight
from qlab.qparams import QParams

#: Channels from which on a loop over them is worth its beginning.
_CHANNELS = 64
#: Elements of a kernel, so that sums stay far from the limits of int32.
_DEEPEST = 2**14


def _loops() -> Any:
    from qlab.ops import depthwise_loops

    return depthwise_loops


def _largest() -> int:
    """Products up to which one thread of ours is faster than all threads of oneDNN."""
    return {1: 700_000, 2: 450_000}.get(torch.get_num_threads(), 300_000)


def obstacle(call: Call) -> str | None:
    """Why the loop does not compute a call, or does not win, or None."""
    if torch.compiler.is_compiling():
        return "torch.compile sees the operator as a whole"
    if not isinstance(call, ConvCall) or call.weight.dim() != 4 or call.groups == 1:
        return "not a depthwise convolution over two axes"
    channels = call.weight.shape[0]
    if not call.x.shape[1] == channels == call.groups:
        return "a group has more than one channel"
    return _size_obstacle(call) or _form_obstacle(call)


def _form_obstacle(call: ConvCall) -> str | None:
    """Why the loop does not read or write such numbers, or None."""
    y = call.y_qparams
    if y is None:
        return "the output is real numbers"
    tensors = call.x, call.weight
    if any(type(t) is not Tensor or t.device.type != "cpu" or not t.numel() for t in tensors):
        return "an operand is empty, or not a plain tensor on the CPU"
    found = codes_obstacle("input", call.x, call.x_qparams) or codes_obstacle("output", None, y)
    if found is not None:
        return found
    if call.weight.dtype != torch.int8:
        return f"the weight is stored as {call.weight.dtype}, not as torch.int8"
    if not call.w_qparams.symmetric_around_zero:
        return "a zero point of the weight is not 0"
    return float_bias_obstacle(call) or compiled.unavailable() or _numbers_obstacle(call, y)


def _numbers_obstacle(call: ConvCall, y: QParams) -> str | None:
    if not bool(torch.isfinite(combined_scale(call)).all()):
        return "a product of scales is not finite"
    inverse = compiled.inverse(y.scale_value)
    return None if math.isfinite(inverse) and inverse > 0 else "the output's scale has no inverse"


def _size_obstacle(call: ConvCall) -> str | None:
    """Why another kernel is faster, or None."""
    rows, columns = _sizes(call)
    kernel = math.prod(call.weight.shape[2:])
    if kernel > _DEEPEST:
        return f"kernels of {kernel} elements, more than {_DEEPEST}"
    if onednn.unavailable() is not None:
        return None
    channels = call.groups
    if channels < _CHANNELS:
        return f"{channels} channels, fewer than {_CHANNELS}"
    products = call.x.shape[0] * channels * rows * columns * kernel
    if products > _largest():
        return f"{products} products, more than {_largest()} in {torch.get_num_threads()} threads"
    return None


def _sizes(call: ConvCall) -> tuple[int, ...]:
    """Rows and columns of the output."""
    slides = call.stride, call.padding, call.dilation
    return output_sizes(call.x.shape[2:], call.weight.shape[2:], *slides)


def _pack(call: Call) -> tuple[Tensor, Tensor, Tensor]:
    """The weight with its channels last, ``-z Σ w``, and ``s_x · s_w`` per channel."""
    weight = call.weight.detach()[:, 0].permute(1, 2, 0).contiguous().clone()
    start = -call.x_qparams.zero_point_value * weight.sum((0, 1), dtype=torch.int32)
    scale = combined_scale(call).detach().reshape(-1).expand(len(start)).contiguous().clone()
    return weight, start, scale


def run(call: Call) -> Tensor:
    """A depthwise convolution without obstacle; the formula of `qlab.ops.exact.run_exact`."""
    return bound(call)(call.x)


def bound(call: Call) -> Callable[[Tensor], Tensor]:
    """A call without obstacle as a function of its input's codes, of the same shape."""
    y = call.y_qparams
    assert isinstance(call, ConvCall) and y is not None
    channels, z = call.groups, call.x_qparams.zero_point_value
    store = call.packed if call.packed is not None else PackedWeight()
    key = call.x_qparams, call.w_qparams
    weight, start, scale = store.get("depthwise", (call.weight,), key, lambda: _pack(call))
    bias = torch.zeros(channels) if call.bias is None else call.bias.detach().clone()
    n, _, height, width = call.x.shape
    shape = (n, channels, *_sizes(call))
    constants = weight.data_ptr(), start.data_ptr(), scale.data_ptr(), bias.data_ptr()
    numbers = (
        n, height, width, channels, *shape[2:], *weight.shape[:2],
        *call.stride, *call.padding, *call.dilation, z,
        compiled.inverse(y.scale_value), y.zero_point_value,
        0.0 if call.relu else -math.inf, y.quant_min, y.quant_max,
    )  # fmt: skip
    loop = _loops().depthwise(CODES[call.x.dtype], CODES[y.dtype.storage])
    kept = weight, start, scale, bias

    def compute(x: Tensor, kept: object = kept) -> Tensor:  # whose memory the loop reads
        x = x.contiguous(memory_format=torch.channels_last)
        result = torch.empty(shape, dtype=y.dtype.storage, memory_format=torch.channels_last)
        sums = torch.empty(channels, dtype=torch.int32)
        loop(x.data_ptr(), *constants, result.data_ptr(), sums.data_ptr(), *numbers)
        return result

    return compute
