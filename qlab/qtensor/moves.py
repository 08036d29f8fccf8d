"""Kernels that move codes: views, indexing, repetition, copies; channels are followed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from qlab.errors import UnsupportedError
from qlab.granularity import PerAxis, PerTensor
from qlab.qparams import QParams
from qlab.qtensor.operands import Args, Kwargs, movable, operator_name, per_tensor, quantized
from qlab.qtensor.tensor import QTensor


def _scale_numbers(func: OpOverload, q: QTensor) -> Tensor:
    """For every element the number of its scale, without memory: int64, the shape of ``q``."""
    granularity = q.qparams.granularity
    if not isinstance(granularity, PerAxis):
        raise UnsupportedError(
            f"{operator_name(func)} would tear groups apart that share a scale",
            received=granularity,
            fix="Call .dequantize() first.",
        )
    strides = [0] * q.dim()
    strides[granularity.axis] = 1
    numbers = torch.arange(q.qparams.scale.numel(), device=q.device)
    return numbers.as_strided(tuple(q.shape), strides)


def _qparams_after(func: OpOverload, q: QTensor, numbers: Tensor) -> QParams:
    """Scales of the moved elements, from where the number of each one's scale went."""
    varying = [
        axis
        for axis in range(numbers.dim())
        if not torch.equal(numbers, numbers.narrow(axis, 0, 1).expand_as(numbers))
    ]
    if len(varying) > 1:
        raise UnsupportedError(
            f"{operator_name(func)} would spread the channels of a per-channel quantized tensor "
            "over several axes",
            received=f"{q.qparams.granularity}, shape {tuple(q.shape)} → {tuple(numbers.shape)}",
            fix="Call .dequantize() first.",
        )
    (axis,) = varying or (q.q_per_channel_axis(),)
    stays = numbers.dim() == q.dim() and numbers.shape[axis] == 1
    if varying or stays:
        chosen = numbers.movedim(axis, 0).reshape(numbers.shape[axis], -1)[:, 0]
        granularity = PerAxis(axis)
    else:
        chosen, granularity = numbers.reshape(-1)[0], PerTensor()
    return replace(
        q.qparams,
        scale=q.qparams.scale[chosen],
        zero_point=q.qparams.zero_point[chosen],
        granularity=granularity,
    )


def move(func: OpOverload, args: Args, kwargs: Kwargs) -> Any:
    """Views, indexing, repetition: codes move, and the channels' scales with them."""
    q = quantized(func, args[0])
    storage = q.codes.dtype
    codes = movable(q.codes)
    if func is torch.ops.aten.view.default:  # integer kernels may give another memory layout
        moved = codes.reshape(*args[1:])
    else:
        moved = func(codes, *args[1:], **kwargs)
    several = isinstance(moved, list | tuple)
    pieces = [piece.view(storage) for piece in (moved if several else (moved,))]
    if q.qparams.per_tensor_granularity:
        result = [QTensor(piece, q.qparams) for piece in pieces]
    else:
        numbers = _moved_numbers(func, q, args[1:], kwargs)
        result = [
            QTensor(piece, _qparams_after(func, q, where))
            for piece, where in zip(pieces, numbers, strict=True)
        ]
    return type(moved)(result) if several else result[0]


def _moved_numbers(func: OpOverload, q: QTensor, args: Args, kwargs: Kwargs) -> list[Tensor]:
    numbers = _scale_numbers(func, q)
    try:
        moved = func(numbers, *args, **kwargs)
    except RuntimeError as torn:  # a view that merges the channels with another axis
        raise UnsupportedError(
            f"{operator_name(func)} would merge the channels of a per-channel quantized tensor "
            "with another axis",
            received=f"{q.qparams.granularity}, shape {tuple(q.shape)}, arguments {args}",
            fix="Call .dequantize() first.",
        ) from torn
    pieces = list(moved) if isinstance(moved, list | tuple) else [moved]
    if any(piece.numel() == 0 for piece in pieces):
        raise UnsupportedError(
            f"{operator_name(func)} leaves no element of a per-channel quantized tensor",
            fix="Call .dequantize() first.",
        )
    return pieces


def same_shape(func: OpOverload, args: Args, kwargs: Kwargs) -> QTensor:
    """Copies: codes and parameters as they are."""
    q = quantized(func, args[0])
    return QTensor(func(q.codes, *args[1:], **kwargs), q.qparams)


def restride(func: OpOverload, args: Args, kwargs: Kwargs) -> QTensor:
    """Codes read with other strides; one scale for the whole tensor."""
    q = per_tensor(func, args[0])
    return QTensor(func(q.codes, *args[1:], **kwargs), q.qparams)


def to_device(func: OpOverload, args: Args, kwargs: Kwargs) -> QTensor:
    q = quantized(func, args[0])
    dtype = kwargs.get("dtype")
    if dtype not in (None, torch.float32):
        raise UnsupportedError(
            "A quantized tensor cannot be cast to another dtype",
            received=f"{dtype}",
            fix="Call .dequantize().to(dtype), or quantize the float tensor anew.",
        )
    codes = func(q.codes, **{**kwargs, "dtype": None})
    return QTensor(codes, q.qparams.to(codes.device))
