"""Where Triton computes element by element, and layer_norm. Imports Triton only when wanted.

quantize, dequantize, add and mul give the codes of the reference kernels, bit by bit, on tensors
that lie densely in memory. layer_norm sums in another order than PyTorch: at most one step from the
reference, on fewer than 1 in 1,000, as every normalization may be.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from qlab.granularity import PerAxis, PerTensor
from qlab.ops.compiled import channels_last, codes_obstacle, form_obstacle
from qlab.ops.triton_kernels import place_obstacle
from qlab.qparams import QParams

_REALS = (torch.float32, torch.float16, torch.bfloat16)
_MOST_FEATURES = 2**14


def _kernels() -> Any:
    from qlab.ops import triton_elementwise

    return triton_elementwise


def _memory_obstacle(*tensors: object) -> str | None:
    """Why a kernel cannot run through some tensors side by side, or None."""
    first = tensors[0]
    if type(first) is not Tensor:
        return "an operand is not a plain tensor"
    elsewhere = place_obstacle(first)  # asked first: most calls are on a CPU
    if elsewhere is not None:
        return elsewhere
    for tensor in tensors:
        if type(tensor) is not Tensor:
            return "an operand is not a plain tensor"
        if tensor.shape != first.shape or tensor.stride() != first.stride():
            return "the operands lie differently in memory"
        if tensor.device != first.device:
            return "the operands are on different devices"
    if not first.numel():
        return "there are no elements"
    if not (first.is_contiguous() or channels_last(first)):
        return "the elements do not lie densely in memory"
    return None


def _devices_obstacle(x: Tensor, *others: Tensor | None) -> str | None:
    if all(other is None or other.device == x.device for other in others):
        return None
    return "the operands and their scales are on different devices"


def _scales_obstacle(x: Tensor, qparams: QParams) -> str | None:
    """Why a kernel does not find the scale of each element, or None."""
    match qparams.granularity:
        case PerTensor() if not qparams.scale.dim():
            return _devices_obstacle(x, qparams.scale, qparams.zero_point)
        case PerAxis(axis) if -x.dim() <= axis < x.dim() and x.is_contiguous():
            if tuple(qparams.scale.shape) != (x.shape[axis],):
                return "the scales do not fit the tensor"
            return _devices_obstacle(x, qparams.scale, qparams.zero_point)
    return f"scales of {qparams.granularity} are not followed through this memory layout"


def _channels(x: Tensor, qparams: QParams) -> tuple[int, int]:
    """Elements between two channels, and how many channels there are."""
    match qparams.granularity:
        case PerAxis(axis):
            axis %= x.dim()
            return math.prod(x.shape[axis + 1 :]), x.shape[axis]
    return 1, 1


def quantize_obstacle(x: Tensor, qparams: QParams) -> str | None:
    """Why Triton does not quantize a tensor, or None."""
    if not isinstance(x, Tensor) or x.dtype not in _REALS:
        return "the input is not float32, float16 or bfloat16"
    found = _memory_obstacle(x) or form_obstacle("output", None, qparams)
    return found or _scales_obstacle(x, qparams)


def quantize(x: Tensor, qparams: QParams) -> Tensor:
    """`qlab.ops.quantize` of an input without obstacle."""
    result = torch.empty_like(x, dtype=qparams.dtype.storage)
    _kernels().quantize(x, result, qparams, _channels(x, qparams))
    return result


def dequantize_obstacle(codes: Tensor, qparams: QParams) -> str | None:
    """Why Triton does not read a tensor, or None."""
    found = _memory_obstacle(codes) or form_obstacle("input", codes, qparams)
    return found or _scales_obstacle(codes, qparams)


def dequantize(codes: Tensor, qparams: QParams) -> Tensor:
    """`qlab.ops.dequantize` of codes without obstacle."""
    result = torch.empty_like(codes, dtype=torch.float32)
    _kernels().dequantize(codes, result, qparams, _channels(codes, qparams))
    return result


def combine_obstacle(
    a: Tensor, a_qparams: QParams, b: Tensor, b_qparams: QParams, y_qparams: QParams, **more: object
) -> str | None:
    """Why Triton neither adds nor multiplies two tensors, or None."""
    found = (
        _memory_obstacle(a, b)
        or codes_obstacle("first operand", a, a_qparams)
        or codes_obstacle("second operand", b, b_qparams)
        or codes_obstacle("output", None, y_qparams)
    )
    return found or _devices_obstacle(a, a_qparams.scale, b_qparams.scale, y_qparams.scale)


def _combine(
    product: bool,
    a: Tensor,
    a_qparams: QParams,
    b: Tensor,
    b_qparams: QParams,
    y_qparams: QParams,
    *,
    relu: bool = False,
) -> Tensor:
    result = torch.empty_like(a, dtype=y_qparams.dtype.storage)
    _kernels().combine((a, a_qparams), (b, b_qparams), (result, y_qparams), product, relu)
    return result


#: `qlab.ops.add` and `qlab.ops.mul` of operands without obstacle.
add, mul = partial(_combine, False), partial(_combine, True)


def layer_norm_obstacle(
    x: Tensor,
    x_qparams: QParams,
    normalized_shape: Sequence[int],
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    y_qparams: QParams,
) -> str | None:
    """Why Triton does not normalize a tensor, or None."""
    found = (
        _memory_obstacle(x)
        or codes_obstacle("input", x, x_qparams)
        or codes_obstacle("output", None, y_qparams)
    )
    if found is not None:
        return found
    shape = tuple(normalized_shape)
    if not shape or tuple(x.shape[-len(shape) :]) != shape or not x.is_contiguous():
        return "the features do not lie densely at the end of the input"
    if math.prod(shape) > _MOST_FEATURES:
        return f"more than {_MOST_FEATURES} features"
    for value in (weight, bias):
        if value is not None and (value.dtype != torch.float32 or tuple(value.shape) != shape):
            return "weight or bias is not float32 of the features' shape"
    if not eps >= 0:
        return "eps is negative"
    return _devices_obstacle(x, x_qparams.scale, y_qparams.scale, weight, bias)


def layer_norm(
    x: Tensor,
    x_qparams: QParams,
    normalized_shape: Sequence[int],
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    y_qparams: QParams,
) -> Tensor:
    """`qlab.ops.layer_norm` of an input without obstacle."""
    result = torch.empty_like(x, dtype=y_qparams.dtype.storage)
    parameters = tuple(None if value is None else value.detach() for value in (weight, bias))
    features = math.prod(normalized_shape)
    _kernels().layer_norm((x, x_qparams), (result, y_qparams), parameters, features, eps)
    return result
