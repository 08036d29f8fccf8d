"""What a `QTensor` can do: one table from operator to how codes answer it.

An operator is in the table when it can be answered on codes exactly, or has the reference's
documented meaning (``mean`` goes through real numbers). Everything else raises in `QTensor`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from qlab.errors import DTypeError, UnsupportedError
from qlab.granularity import PerAxis, PerTensor
from qlab.qparams import QParams, quantize
from qlab.qtensor.tensor import KERNELS, Kernel, QTensor

aten = torch.ops.aten


def _name(func: OpOverload) -> str:
    return func.overloadpacket.__name__


def _quantized(func: OpOverload, value: object) -> QTensor:
    if not isinstance(value, QTensor):
        raise UnsupportedError(
            f"{_name(func)} of a plain and a quantized tensor together is not supported",
            expected="a QTensor as first argument, and no other",
            received=f"a {type(value).__name__} as first argument",
            fix="Call .dequantize() on the quantized tensor first.",
        )
    return value


def _per_tensor(func: OpOverload, value: object) -> QTensor:
    q = _quantized(func, value)
    if not q.qparams.per_tensor_granularity:
        raise UnsupportedError(
            f"{_name(func)} needs one scale for the whole quantized tensor",
            received=q.qparams.granularity,
            fix="Call .dequantize() first.",
        )
    return q


def _movable(codes: Tensor) -> Tensor:
    """float8 codes as bytes, which more operators can move."""
    return codes.view(torch.uint8) if codes.dtype.is_floating_point else codes


def _sortable(codes: Tensor) -> Tensor:
    """float8 codes as float32, which orders alike."""
    return codes.to(torch.float32) if codes.dtype.is_floating_point else codes


def _real(value: Any) -> Any:
    return value.dequantize() if isinstance(value, QTensor) else value


def _scale_numbers(func: OpOverload, q: QTensor) -> Tensor:
    """For every element the number of its scale, without memory: int64, the shape of ``q``."""
    granularity = q.qparams.granularity
    if not isinstance(granularity, PerAxis):
        raise UnsupportedError(
            f"{_name(func)} would tear groups apart that share a scale",
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
            f"{_name(func)} would spread the channels of a per-channel quantized tensor "
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


def _move(func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Views, indexing, repetition: codes move, and the channels' scales with them."""
    q = _quantized(func, args[0])
    storage = q.codes.dtype
    moved = func(_movable(q.codes), *args[1:], **kwargs)
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


def _moved_numbers(
    func: OpOverload, q: QTensor, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> list[Tensor]:
    numbers = _scale_numbers(func, q)
    try:
        moved = func(numbers, *args, **kwargs)
    except RuntimeError as torn:  # a view that merges the channels with another axis
        raise UnsupportedError(
            f"{_name(func)} would merge the channels of a per-channel quantized tensor "
            "with another axis",
            received=f"{q.qparams.granularity}, shape {tuple(q.shape)}, arguments {args}",
            fix="Call .dequantize() first.",
        ) from torn
    pieces = list(moved) if isinstance(moved, list | tuple) else [moved]
    if any(piece.numel() == 0 for piece in pieces):
        raise UnsupportedError(
            f"{_name(func)} leaves no element of a per-channel quantized tensor",
            fix="Call .dequantize() first.",
        )
    return pieces


def _same_shape(func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> QTensor:
    q = _quantized(func, args[0])
    return QTensor(func(q.codes, *args[1:], **kwargs), q.qparams)


def _as_strided(func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> QTensor:
    q = _per_tensor(func, args[0])
    return QTensor(func(q.codes, *args[1:], **kwargs), q.qparams)


def _to(func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> QTensor:
    q = _quantized(func, args[0])
    dtype = kwargs.get("dtype")
    if dtype not in (None, torch.float32):
        raise UnsupportedError(
            "A quantized tensor cannot be cast to another dtype",
            received=f"{dtype}",
            fix="Call .dequantize().to(dtype), or quantize the float tensor anew.",
        )
    codes = func(q.codes, **{**kwargs, "dtype": None})
    return QTensor(codes, q.qparams.to(codes.device))


def _ordered(func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Codes order like real numbers (scales are positive): values stay quantized."""
    q = _per_tensor(func, args[0])
    result = func(_sortable(q.codes), *args[1:], **kwargs)
    if isinstance(result, Tensor):
        return QTensor(result.to(q.codes.dtype), q.qparams)
    values, indices = result
    return QTensor(values.to(q.codes.dtype), q.qparams), indices


def _position(func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    q = _per_tensor(func, args[0])
    return func(_sortable(q.codes), *args[1:], **kwargs)


def _on_real_numbers(func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Comparisons and reading out: the answer is no quantized tensor."""
    return func(*map(_real, args), **kwargs)


def _requantized(func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> QTensor:
    """Computed on real numbers, quantized with the input's own scale and zero point."""
    q = _per_tensor(func, args[0])
    return QTensor(quantize(func(q.dequantize(), *args[1:], **kwargs), q.qparams), q.qparams)


def _equal(func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Same shape, same codes, same parameters."""
    a, b = args
    if not (isinstance(a, QTensor) and isinstance(b, QTensor)):
        return False
    return a.qparams.same_as(b.qparams) and torch.equal(_movable(a.codes), _movable(b.codes))


def _write(func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> QTensor:
    """``copy_``, ``fill_``, ``zero_``: real numbers are quantized with the tensor's own scale."""
    q = _quantized(func, args[0])
    source = args[1] if len(args) > 1 else 0.0
    if isinstance(source, QTensor):
        return _copy_codes(q, source)
    real = torch.as_tensor(source, device=q.device)
    if not real.is_floating_point():
        real = real.to(torch.float32)
    q.codes.copy_(quantize(real.expand(q.shape), q.qparams))
    return q


def _copy_codes(q: QTensor, source: QTensor) -> QTensor:
    """Takes over codes and parameters, as the reference does.

    A view keeps its own parameters, because they are those of the tensor it looks into.
    """
    same = q.qparams.same_as(source.qparams.to(q.device))
    if not same and q._is_view():
        q.codes.copy_(quantize(source.dequantize().to(q.device).expand(q.shape), q.qparams))
        return q
    if q.qdtype != source.qdtype:
        raise DTypeError(
            "copy_ between different quantized types",
            expected=q.qdtype.name,
            received=source.qdtype.name,
            fix="Copy source.dequantize(), which is quantized anew.",
        )
    q.codes.copy_(source.codes)
    q.qparams = source.qparams.to(q.device)
    return q


def _resize(func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> QTensor:
    """In place; elements beyond the old ones hold any code, as in the reference."""
    q = _per_tensor(func, args[0])
    func(q.codes, *args[1:], **kwargs)
    q.data = QTensor(q.codes, q.qparams)
    return q


def _swappable(func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether ``a.data = b`` works."""
    return isinstance(args[0], QTensor) and isinstance(args[1], QTensor)


def _index_put(func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> QTensor:
    q = _per_tensor(func, args[0])
    indices, values, *rest = args[1:]
    codes = quantize(_real(values).to(torch.float32), q.qparams)
    func(_movable(q.codes), indices, _movable(codes), *rest, **kwargs)
    return q


def _pad(func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> QTensor:
    q = _per_tensor(func, args[0])
    pad, value = args[1], float(args[2]) if len(args) > 2 else 0.0
    code = quantize(torch.tensor(value, device=q.device), q.qparams)
    padded = func(_movable(q.codes), pad, _movable(code).item())
    return QTensor(padded.view(q.codes.dtype), q.qparams)


def _join(func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> QTensor:
    """``cat`` and ``stack``: in the first tensor's parameters; others are requantized to them."""
    tensors = [_per_tensor(func, tensor) for tensor in args[0]]
    first = tensors[0]
    codes = [
        q.codes if q.qparams.same_as(first.qparams) else quantize(q.dequantize(), first.qparams)
        for q in tensors
    ]
    joined = func([_movable(part) for part in codes], *args[1:], **kwargs)
    return QTensor(joined.view(first.codes.dtype), first.qparams)


def _read(method: Callable[[QTensor], Any]) -> Kernel:
    return lambda func, args, kwargs: method(_quantized(func, args[0]))


_FAMILIES: dict[Kernel, tuple[Any, ...]] = {
    _move: (
        *(aten.alias, aten.view, aten._unsafe_view, aten._reshape_alias, aten.expand),
        *(aten.permute, aten.transpose, aten.t, aten.squeeze, aten.unsqueeze),
        *(aten.select, aten.slice, aten.diagonal, aten.unbind, aten.split),
        *(aten.split_with_sizes, aten.index, aten.index_select, aten.gather),
        *(aten.flip, aten.roll, aten.repeat, aten.pixel_shuffle, aten.pixel_unshuffle),
        aten.channel_shuffle,
    ),
    _same_shape: (aten.clone, aten.detach),
    _as_strided: (aten.as_strided,),
    _to: (aten._to_copy,),
    _ordered: (
        *(aten.max, aten.min, aten.amax, aten.amin, aten.sort, aten.topk),
        *(aten.max_pool2d_with_indices, aten.max_pool3d_with_indices),
    ),
    _position: (aten.argmax, aten.argmin, aten.argsort),
    _on_real_numbers: (
        *(aten.eq, aten.ne, aten.lt, aten.le, aten.gt, aten.ge),
        *(aten.allclose, aten.isclose, aten.isnan, aten._local_scalar_dense, aten.is_nonzero),
    ),
    _requantized: (aten.mean,),
    _equal: (aten.equal,),
    _write: (aten.copy_, aten.fill_, aten.zero_),
    _resize: (aten.resize_,),
    _swappable: (aten._has_compatible_shallow_copy_type,),
    _index_put: (aten.index_put_,),
    _pad: (aten.constant_pad_nd,),
    _join: (aten.cat, aten.stack),
    _read(QTensor.dequantize): (aten.dequantize,),
    _read(QTensor.int_repr): (aten.int_repr,),
    _read(QTensor.q_scale): (aten.q_scale,),
    _read(QTensor.q_zero_point): (aten.q_zero_point,),
    _read(QTensor.q_per_channel_scales): (aten.q_per_channel_scales,),
    _read(QTensor.q_per_channel_zero_points): (aten.q_per_channel_zero_points,),
    _read(QTensor.q_per_channel_axis): (aten.q_per_channel_axis,),
}

KERNELS.update({packet: kernel for kernel, packets in _FAMILIES.items() for packet in packets})


def supported_operations() -> tuple[str, ...]:
    """Names of the torch operators that quantized tensors answer, in alphabetical order."""
    return tuple(sorted(str(packet) for packet in KERNELS))
