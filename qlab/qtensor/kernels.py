"""What a `QTensor` can do: one table from operator to how codes answer it.

An operator is in the table when it can be answered on codes exactly, or has the reference's
documented meaning, by the formulas of `qlab.ops`. Everything else raises in `QTensor`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from qlab.errors import DTypeError
from qlab.qparams import quantize
from qlab.qtensor.moves import move, restride, same_shape, to_device
from qlab.qtensor.operands import (
    Args,
    Kwargs,
    movable,
    operator_name,
    per_tensor,
    quantized,
    real_value,
)
from qlab.qtensor.tensor import KERNELS, Kernel, QTensor
from qlab.qtensor.values import (
    around_zero,
    clamped,
    from_zero,
    linear,
    on_real_numbers,
    on_values,
    ordered,
    position,
)

aten = torch.ops.aten


def _in_place(func: OpOverload, args: Args, kwargs: Kwargs) -> QTensor:
    """``relu_`` and kin: what the function without underscore gives, with the same parameters."""
    q = quantized(func, args[0])
    plain = getattr(aten, operator_name(func).removesuffix("_"))
    q.codes.copy_(KERNELS[plain](func, args, kwargs).codes)
    return q


def _equal(func: OpOverload, args: Args, kwargs: Kwargs) -> bool:
    """Same shape, same codes, same parameters."""
    a, b = args
    if not (isinstance(a, QTensor) and isinstance(b, QTensor)):
        return False
    return a.qparams.same_as(b.qparams) and torch.equal(movable(a.codes), movable(b.codes))


def _write(func: OpOverload, args: Args, kwargs: Kwargs) -> QTensor:
    """``copy_``, ``fill_``, ``zero_``: real numbers are quantized with the tensor's own scale."""
    q = quantized(func, args[0])
    source = args[1] if len(args) > 1 else 0.0
    if isinstance(source, QTensor):
        return _copy_codes(q, source)
    real = torch.as_tensor(source, device=q.device)
    if not real.is_floating_point():
        real = real.to(torch.float32)
    q.codes.copy_(quantize(real.expand(q.shape), q.qparams))
    return q


def _like(func: OpOverload, args: Args, kwargs: Kwargs) -> Tensor:
    """A new tensor with the same shape and parameters; a plain one where a dtype is given."""
    q = quantized(func, args[0])
    if kwargs.get("dtype") is not None:
        return func(q.codes, *args[1:], **kwargs)
    made = QTensor(
        torch.empty_like(q.codes, **kwargs), q.qparams.to(kwargs.get("device", q.device))
    )
    if func.overloadpacket is aten.empty_like:
        return made
    return made.fill_(args[1] if len(args) > 1 else 0.0)


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


def _resize(func: OpOverload, args: Args, kwargs: Kwargs) -> QTensor:
    """Shape or strides in place; elements beyond the old ones hold any code, as in the reference.

    Pooling a channels-last tensor to one pixel ends in ``as_strided_``.
    """
    q = per_tensor(func, args[0])
    codes = aten.alias(q.codes)  # what fails halfway leaves the tensor's own codes alone
    func(codes, *args[1:], **kwargs)
    q.data = QTensor(codes, q.qparams)
    return q


def _swappable(func: OpOverload, args: Args, kwargs: Kwargs) -> bool:
    """Whether ``a.data = b`` works."""
    return isinstance(args[0], QTensor) and isinstance(args[1], QTensor)


def _index_put(func: OpOverload, args: Args, kwargs: Kwargs) -> QTensor:
    q = per_tensor(func, args[0])
    indices, values, *rest = args[1:]
    codes = quantize(real_value(values).to(torch.float32), q.qparams)
    func(movable(q.codes), indices, movable(codes), *rest, **kwargs)
    return q


def _pad(func: OpOverload, args: Args, kwargs: Kwargs) -> QTensor:
    q = per_tensor(func, args[0])
    pad, value = args[1], float(args[2]) if len(args) > 2 else 0.0
    code = quantize(torch.tensor(value, device=q.device), q.qparams)
    padded = func(movable(q.codes), pad, movable(code).item())
    return QTensor(padded.view(q.codes.dtype), q.qparams)


def _join(func: OpOverload, args: Args, kwargs: Kwargs) -> QTensor:
    """``cat`` and ``stack``: in the first tensor's parameters; others are requantized to them."""
    tensors = [per_tensor(func, tensor) for tensor in args[0]]
    first = tensors[0]
    codes = [
        q.codes if q.qparams.same_as(first.qparams) else quantize(q.dequantize(), first.qparams)
        for q in tensors
    ]
    joined = func([movable(part) for part in codes], *args[1:], **kwargs)
    return QTensor(joined.view(first.codes.dtype), first.qparams)


def _read(method: Callable[[QTensor], Any]) -> Kernel:
    return lambda func, args, kwargs: method(quantized(func, args[0]))


_FAMILIES: dict[Kernel, tuple[Any, ...]] = {
    move: (
        *(aten.alias, aten.view, aten._unsafe_view, aten._reshape_alias, aten.expand),
        *(aten.permute, aten.transpose, aten.t, aten.squeeze, aten.unsqueeze),
        *(aten.select, aten.slice, aten.diagonal, aten.unbind, aten.split),
        *(aten.split_with_sizes, aten.index, aten.index_select, aten.gather),
        *(aten.flip, aten.roll, aten.repeat, aten.pixel_shuffle, aten.pixel_unshuffle),
        aten.channel_shuffle,
    ),
    same_shape: (aten.clone, aten.detach),
    restride: (aten.as_strided,),
    to_device: (aten._to_copy,),
    ordered: (
        *(aten.max, aten.min, aten.amax, aten.amin, aten.sort, aten.topk),
        *(aten.max_pool2d_with_indices, aten.max_pool3d_with_indices),
        *(aten.adaptive_max_pool2d, aten.adaptive_max_pool3d),
    ),
    position: (aten.argmax, aten.argmin, aten.argsort),
    on_real_numbers: (
        *(aten.eq, aten.ne, aten.lt, aten.le, aten.gt, aten.ge),
        *(aten.allclose, aten.isclose, aten.isnan, aten._local_scalar_dense, aten.is_nonzero),
    ),
    linear: (
        *(aten.mean, aten.avg_pool2d, aten.avg_pool3d),
        *(aten._adaptive_avg_pool2d, aten._adaptive_avg_pool3d),
        *(aten.upsample_nearest1d, aten.upsample_nearest2d, aten.upsample_nearest3d),
        *(aten._upsample_nearest_exact1d, aten._upsample_nearest_exact2d),
        *(aten._upsample_nearest_exact3d, aten.upsample_linear1d),
        *(aten.upsample_bilinear2d, aten.upsample_bicubic2d, aten.upsample_trilinear3d),
    ),
    clamped(lambda: (0.0, None)): (aten.relu,),
    clamped(lambda low=-1.0, high=1.0: (low, high)): (aten.hardtanh,),
    clamped(lambda min=None, max=None: (min, max)): (aten.clamp,),
    clamped(lambda min: (min, None)): (aten.clamp_min,),
    clamped(lambda max: (None, max)): (aten.clamp_max,),
    on_values(lambda qparams: qparams): (
        *(aten.hardswish, aten.leaky_relu, aten.elu, aten.gelu, aten.threshold),
        aten.masked_fill,
    ),
    on_values(from_zero): (aten.sigmoid, aten.hardsigmoid),
    on_values(around_zero): (aten.tanh,),
    _in_place: (
        *(aten.relu_, aten.hardtanh_, aten.clamp_, aten.clamp_min_, aten.clamp_max_),
        *(aten.hardswish_, aten.leaky_relu_, aten.elu_, aten.threshold_, aten.masked_fill_),
    ),
    _equal: (aten.equal,),
    _write: (aten.copy_, aten.fill_, aten.zero_),
    _resize: (aten.resize_, aten.as_strided_),
    _like: (aten.empty_like, aten.zeros_like, aten.full_like),
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


def describe_operation(name: str) -> str:
    """What an operation does to a quantized tensor, in a line.

    Args:
        name: Of a tensor method such as ``"view"``.
    """
    packet: Any = getattr(aten, name, None)
    kernel = KERNELS.get(packet)
    line = (kernel.__doc__ or "").partition("\n")[0] if kernel is not None else ""
    return line or "Made of operations on the codes that keep their scale"


def supported_operations() -> tuple[str, ...]:
    """Names of the torch operators that quantized tensors answer, in alphabetical order."""
    return tuple(sorted(str(packet) for packet in KERNELS))
