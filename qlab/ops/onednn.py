"""oneDNN's integer kernels for linear and convolution, on x86 CPUs with VNNI.

They are given the scale 1 for the activation and ``s_x · s_w`` for the weight. oneDNN multiplies
by the two scales one after the other in some kernels and by their product in others (on AMX 3×3
convolutions do, 1×1 do not); this way every kernel computes the same float32 numbers, those of
`qlab.ops.exact`. int8 activations are shifted to uint8, since oneDNN's int8 convolution misreads
them and its int8 linear divides by the output scale where the others multiply.

The obstacles below were found by comparing some 10⁵ random shapes (10⁹ outputs) with exact
arithmetic on oneDNN 3.12 with AMX, AVX-512 and AVX2 VNNI instructions: outside them no code
differed, inside them oneDNN returned wrong numbers.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from qlab.granularity import PerTensor
from qlab.ops.calls import Call, ConvCall
from qlab.ops.compiled import int_mm, interleaved
from qlab.ops.exact import combined_scale, float_bias_obstacle
from qlab.ops.packed import PackedWeight
from qlab.qparams import requantize

_ISA_VARIABLES = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
_ISA_WITHOUT_VNNI = ("SSE41", "AVX", "AVX2", "AVX512_CORE")
#: Products of uint8 and int8 whose sum cannot leave the int32 accumulator.
_DEEPEST = 2**31 // (255 * 128)


@dataclass(frozen=True, slots=True)
class Packed:
    """A weight as oneDNN wants it."""

    weight: Tensor
    scale: Tensor
    zero_points: Tensor


@cache
def unavailable() -> str | None:
    """Why this process has no exact oneDNN kernels, or None.

    Looks at the CPU, at the variables that restrict oneDNN, and at what the kernels compute.
    """
    for name in _ISA_VARIABLES:
        if os.environ.get(name, "").upper() in _ISA_WITHOUT_VNNI:
            return f"{name}={os.environ[name]} forbids the VNNI instructions"
    if not torch.backends.mkldnn.is_available():
        return "this PyTorch is built without oneDNN"
    features = torch.cpu.get_capabilities()
    if not (features.get("avx512_vnni") or features.get("avx_vnni")):
        return "this CPU has no VNNI instructions"
    return _wrong_sums()


def _wrong_sums() -> str | None:
    """Compares sums that saturate 16 bits, where VNNI is not used, with the exact ones."""
    x = torch.full((2, 32, 5, 5), 255, dtype=torch.uint8)
    for channels, groups, size in ((32, 1, 3), (32, 1, 1), (1, 32, 3)):
        weight = torch.full((32, channels, size, size), 127, dtype=torch.int8)
        layout = ((1, 1), (0, 0), (1, 1), groups)
        packed = pack(weight, torch.ones(1), 3, layout, x.shape)
        total = convolve(x, 3, packed, None, layout, (1.0, 0, torch.float32, "none"))
        if not bool((total == 252 * 127 * channels * size**2).all()):
            return "oneDNN's integer convolution is not exact on this CPU"
    flat, weight = x.reshape(2, -1), torch.full((32, 800), 127, dtype=torch.int8)
    packed = pack(weight, torch.ones(1), 3, None, flat.shape)
    total = multiply(flat, 3, packed, None, (1.0, 0, torch.float32, "none"))
    signed = int_mm(torch.full((2, 800), -128, dtype=torch.int8), weight.t())
    if not bool((total == 252 * 127 * 800).all() and (signed == -128 * 127 * 800).all()):
        return "oneDNN's integer matrix product is not exact on this CPU"
    return None


def obstacle(call: Call) -> str | None:
    """Why oneDNN's kernel does not apply to a call, or None."""
    reason = unavailable() or float_bias_obstacle(call)
    if reason is not None:
        return reason
    if call.x.device.type != "cpu":
        return f"the tensors are on {call.x.device}, not on the CPU"
    if call.weight.dtype != torch.int8:
        return f"the weight is stored as {call.weight.dtype}, not as torch.int8"
    if not call.w_qparams.symmetric_around_zero:
        return "a zero point of the weight is not 0"
    if not call.x.numel() or not call.weight.numel():
        return "the input or the weight is empty"
    if call.depth > _DEEPEST:
        return f"{call.depth} products may overflow the int32 accumulator (at most {_DEEPEST})"
    return _shape_obstacle(call) if isinstance(call, ConvCall) else None


def _shape_obstacle(call: ConvCall) -> str | None:
    sizes, kernel = call.x.shape[2:], call.weight.shape[2:]
    reach = [d * (k - 1) for d, k in zip(call.dilation, kernel, strict=True)]
    if any(2 * p > r for p, r in zip(call.padding, reach, strict=True)):
        return f"padding {call.padding} is more than half of the kernel's reach {tuple(reach)}"
    if any(size < d for size, d in zip(sizes, call.dilation, strict=True)):
        return f"dilation {call.dilation} is larger than the input {tuple(sizes)}"
    if call.groups > 1 and call.weight.shape[0] > 16 * call.groups:
        return f"{call.weight.shape[0] // call.groups} output channels per group, more than 16"
    if len(sizes) == 3 and (call.groups > 1 or sizes[0] == 1):
        return "three axes with groups, or with a depth of 1"
    width = sizes[-1] + 2 * call.padding[-1] - reach[-1]
    if call.stride[-1] > 1 and width <= call.stride[-1]:
        return "the output is one element wide, with a stride"
    return None


_Layout = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], int]
_Output = tuple[float, int, torch.dtype, str]


def pack(
    weight: Tensor,
    scale: Tensor,
    zero_point: int,
    layout: _Layout | None,
    shape: torch.Size,
    store: PackedWeight | None = None,
) -> Packed:
    """A weight in oneDNN's layout.

    Args:
        weight: int8, (out, in) or (out, in / groups, *kernel).
        scale: ``s_x · s_w``, one or one per output channel.
        zero_point: Of the activation, as uint8.
        layout: Stride, padding, dilation and groups of a convolution; None for linear.
        shape: An input's shape that the layout should be fast for.
        store: Keeps the layout of a linear layer's weight, which depends on the weight alone, for
            inputs that are quantized anew in every call.
    """
    scale, store = scale.reshape(-1), store if store is not None else PackedWeight()
    if layout is None:
        inner = store.get("onednn linear", (weight,), None, lambda: _packed_linear(weight))
    else:
        given = (weight, scale, 1.0, zero_point, *layout, list(shape))
        inner = torch.ops.onednn.qconv_prepack(*given)
    return Packed(inner, scale, torch.zeros(len(scale), dtype=torch.int32))


def _packed_linear(weight: Tensor) -> Tensor:
    # Unlike that of convolutions, this function ignores strides.
    return torch.ops.onednn.qlinear_prepack(weight.contiguous(), None)


def convolve(
    x: Tensor,
    zero_point: int,
    packed: Packed,
    bias: Tensor | None,
    layout: _Layout,
    output: _Output,
) -> Tensor:
    """oneDNN's convolution of a uint8 activation."""
    *out, relu = output
    return torch.ops.onednn.qconv_pointwise(
        x, 1.0, zero_point, packed.weight, packed.scale, packed.zero_points, bias, *layout, *out,
        relu, [], "",
    )  # fmt: skip


def multiply(
    x: Tensor, zero_point: int, packed: Packed, bias: Tensor | None, output: _Output
) -> Tensor:
    """oneDNN's matrix product of a uint8 activation."""
    *out, relu = output
    return torch.ops.onednn.qlinear_pointwise(
        x, 1.0, zero_point, packed.weight, packed.scale, packed.zero_points, bias, *out,
        relu, [], "",
    )  # fmt: skip


def run(call: Call) -> Tensor:
    """linear or a convolution by oneDNN; the formula of `qlab.ops.exact.run_exact`."""
    return bound(call)(call.x)


def bound(
    call: Call, activation: str | None = None, algorithm: str = ""
) -> Callable[[Tensor], Tensor]:
    """A call as a function of its input's codes: what does not depend on them is done here.

    Args:
        call: It, without obstacle.
        activation: What oneDNN does with the sums before it requantizes; that of the call if not
            given.
        algorithm: Which form of it.
    """
    read, layer, bias, layout = prepared(call)
    *out, relu = _output(call)
    given = (*layer, bias, *layout, *out, activation or relu, [], algorithm)
    operator = torch.ops.onednn.qlinear_pointwise.default
    if layout:
        operator = torch.ops.onednn.qconv_pointwise.default
    finish = finisher(call)

    def compute(x: Tensor) -> Tensor:
        result = operator(x if read is None else read(x), *given)
        return result if finish is None else finish(result)

    return compute


def prepared(
    call: Call,
) -> tuple[Callable[[Tensor], Tensor] | None, tuple[Any, ...], Tensor | None, tuple[Any, ...]]:
    """What oneDNN's operators take of a call without obstacle.

    Returns:
        How the input's codes are read, None for as they are; scale and zero point of the input,
        and the packed weight with its own; the bias; stride, padding, dilation and groups.
    """
    zero_point, signed = call.x_qparams.zero_point_value, call.x.dtype == torch.int8
    zero_point += 128 if signed else 0
    layout = None
    if isinstance(call, ConvCall):
        layout = (call.stride, call.padding, call.dilation, call.groups)
    shape, store = call.x.shape, call.packed if call.packed is not None else PackedWeight()
    packed = store.get(
        "onednn",
        (call.weight,),
        (call.x_qparams, call.w_qparams, layout),
        lambda: pack(call.weight, combined_scale(call), zero_point, layout, shape, store),
    )
    bias = None if call.bias is None else call.bias.detach().clone()
    images = layout is not None and len(shape) == 4 and shape[1] == 3

    def read(x: Tensor) -> Tensor:
        if signed:
            x = torch.bitwise_xor(x.view(torch.uint8), 128)
        return interleaved(x) if images else x

    layer = 1.0, zero_point, packed.weight, packed.scale, packed.zero_points
    return (read if signed or images else None), layer, bias, layout or ()


def _relu_inside(call: Call) -> bool:
    return not (isinstance(call, ConvCall) and len(call.stride) == 3)


def _requantized_inside(call: Call) -> bool:
    return (
        call.y_qparams is not None
        and call.y_qparams.dtype.storage in (torch.uint8, torch.int8)
        and isinstance(call.y_qparams.granularity, PerTensor)
    )


def _output(call: Call) -> _Output:
    relu = "relu" if call.relu and _relu_inside(call) else "none"
    y = call.y_qparams
    if y is None or not _requantized_inside(call):
        return 1.0, 0, torch.float32, relu
    return y.scale_value, y.zero_point_value, y.dtype.storage, relu


def finisher(call: Call) -> Callable[[Tensor], Tensor] | None:
    """What oneDNN leaves to do: ReLU over three axes, other output types, narrower ranges."""
    y, relu_left = call.y_qparams, call.relu and not _relu_inside(call)
    if y is None:
        return F.relu if relu_left else None
    if not _requantized_inside(call):
        return lambda real: requantize(F.relu(real) if relu_left else real, y)
    least = max(y.quant_min, y.zero_point_value) if relu_left else y.quant_min
    limits = torch.iinfo(y.dtype.storage)
    if least == limits.min and y.quant_max == limits.max:
        return None
    return lambda codes: codes.clamp_(least, y.quant_max)
