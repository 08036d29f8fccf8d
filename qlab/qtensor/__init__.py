"""Quantized tensors of the eager API: integer codes and their parameters in one object.

Converted graphs carry plain integer tensors instead, so that Python stays off their path.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, overload

import torch
from torch import Tensor

from qlab.dtypes import QDType, as_qdtype
from qlab.errors import DTypeError, ShapeError
from qlab.ops import checks
from qlab.ops.dynamic import dynamic_qparams
from qlab.qparams import QParams, quantize
from qlab.qtensor.kernels import supported_operations
from qlab.qtensor.makers import (
    _empty_affine_quantized,
    _empty_per_channel_affine_quantized,
    _make_per_channel_quantized_tensor,
    _make_per_tensor_quantized_tensor,
    per_channel_qparams,
)
from qlab.qtensor.tensor import QTensor

__all__ = [
    "QTensor",
    "_empty_affine_quantized",
    "_empty_per_channel_affine_quantized",
    "_make_per_channel_quantized_tensor",
    "_make_per_tensor_quantized_tensor",
    "dequantize",
    "quantize_per_channel",
    "quantize_per_tensor",
    "quantize_per_tensor_dynamic",
    "supported_operations",
]

_Number = float | int | Tensor


@overload
def quantize_per_tensor(
    input: Tensor, scale: _Number, zero_point: _Number, dtype: QDType | str | torch.dtype
) -> QTensor: ...
@overload
def quantize_per_tensor(
    input: Sequence[Tensor], scale: Tensor, zero_point: Tensor, dtype: QDType | str | torch.dtype
) -> tuple[QTensor, ...]: ...
def quantize_per_tensor(
    input: Tensor | Sequence[Tensor],
    scale: _Number,
    zero_point: _Number,
    dtype: QDType | str | torch.dtype,
) -> QTensor | tuple[QTensor, ...]:
    """Quantizes with one scale and zero point: ``clamp(rint(x / scale + zero_point))``.

    Args:
        input: Real numbers, floating point, any shape; or a sequence of such tensors.
        scale: Real units per code, positive. For a sequence: a tensor with one per tensor.
        zero_point: The code that stands for 0.0. For a sequence: a tensor with one per tensor.
        dtype: The quantized data type, such as ``qlab.quint8``.

    Returns:
        A `QTensor` of the shape of ``input``; for a sequence a tuple of them.

    Raises:
        ArgumentError: A scale that is not positive, or a zero point outside the codes.
        NonFiniteError: A scale that is NaN or infinite.
        DTypeError: ``input`` is not floating point, or ``dtype`` no quantized type.
        ShapeError: Another number of scales or zero points than of tensors.

    Source: the reference's ``torch.quantize_per_tensor``; bit-equal to it.
    """
    qdtype = as_qdtype(dtype)
    if not isinstance(input, Tensor):
        return _quantize_each(input, scale, zero_point, qdtype)
    qparams = QParams.per_tensor(scale, zero_point, qdtype, input.device)
    return QTensor(quantize(input, qparams), qparams)


def _quantize_each(
    tensors: Sequence[Tensor], scales: Any, zero_points: Any, dtype: QDType
) -> tuple[QTensor, ...]:
    if not isinstance(tensors, list | tuple):
        raise DTypeError(
            "quantize_per_tensor: the input is no tensor",
            expected="a floating-point tensor, or a list of them",
            received=type(tensors).__name__,
        )
    for tensor in tensors:
        checks.tensor("quantize_per_tensor", "input", tensor)
    with checks.torch_refusal("quantize_per_tensor", "scales and zero points"):
        scales, zero_points = torch.as_tensor(scales), torch.as_tensor(zero_points)
    if not len(tensors) == scales.numel() == zero_points.numel():
        raise ShapeError(
            "quantize_per_tensor: one scale and one zero point belong to each tensor",
            expected=f"{len(tensors)} of each",
            received=f"{scales.numel()} scales, {zero_points.numel()} zero points",
        )
    pairs = zip(tensors, scales.reshape(-1).tolist(), zero_points.reshape(-1).tolist(), strict=True)
    return tuple(quantize_per_tensor(tensor, scale, zero, dtype) for tensor, scale, zero in pairs)


def quantize_per_channel(
    input: Tensor,
    scales: Tensor,
    zero_points: Tensor,
    axis: int,
    dtype: QDType | str | torch.dtype,
) -> QTensor:
    """Quantizes with one scale and zero point per index of an axis.

    Args:
        input: Real numbers, floating point, any shape.
        scales: Real units per code, positive, shape ``(input.shape[axis],)``.
        zero_points: The codes that stand for 0.0, the shape of ``scales``. A floating-point tensor
            gives zero points that need not be codes, as for the rows of an embedding
            (``per_channel_affine_float_qparams``).
        axis: The axis of the channels.
        dtype: The quantized data type, such as ``qlab.qint8``.

    Returns:
        A `QTensor` of the shape of ``input``.

    Raises:
        ArgumentError: A scale that is not positive, or a zero point outside the codes.
        NonFiniteError: A scale that is NaN or infinite.
        DTypeError: ``input`` is not floating point, or ``dtype`` no quantized type.
        ShapeError: No such axis, or another number of scales than channels.

    Source: the reference's ``torch.quantize_per_channel``; bit-equal to it.
    """
    for what, given in (("scales", scales), ("zero points", zero_points)):
        if not isinstance(given, Tensor):
            raise DTypeError(
                f"quantize_per_channel: the {what} are no tensor",
                expected="a one-dimensional tensor",
                received=type(given).__name__,
            )
    qparams = per_channel_qparams(scales, zero_points, axis, as_qdtype(dtype))
    return QTensor(quantize(input, qparams), qparams)


def quantize_per_tensor_dynamic(
    input: Tensor, dtype: QDType | str | torch.dtype, reduce_range: bool
) -> Tensor:
    """Quantizes with a scale and zero point that cover the input's own range.

    Args:
        input: Real numbers, finite, any shape.
        dtype: `qlab.quint8` or `qlab.qint8`; or ``torch.float16``, to which it is then rounded.
        reduce_range: Use half of the codes.

    Returns:
        A `QTensor` of the shape of ``input``; for float16 a plain tensor.

    Raises:
        DTypeError: ``input`` is not floating point, or ``dtype`` is another.
        NonFiniteError: NaN or infinity in the input.

    Source: the reference's ``torch.quantize_per_tensor_dynamic``; see `qlab.ops.dynamic_qparams`.
    """
    checks.tensor("quantize_per_tensor_dynamic", "input", input)
    if dtype is torch.float16:
        return input.to(torch.float16)
    qparams = dynamic_qparams(input, as_qdtype(dtype), reduce_range=reduce_range)
    return QTensor(quantize(input, qparams), qparams)


@overload
def dequantize(tensors: Tensor) -> Tensor: ...
@overload
def dequantize(tensors: Sequence[Tensor]) -> tuple[Tensor, ...]: ...
def dequantize(tensors: Tensor | Sequence[Tensor]) -> Tensor | tuple[Tensor, ...]:
    """Real numbers of quantized tensors: ``(codes - zero_point) * scale``.

    Args:
        tensors: A `QTensor`, or a sequence of them. A plain floating-point tensor passes through.

    Returns:
        float32 of the same shape; for a sequence a tuple.

    Raises:
        DTypeError: A plain integer tensor, whose scale nobody knows.
    """
    if not isinstance(tensors, Tensor | Sequence) or isinstance(tensors, str | bytes):
        raise DTypeError(
            "dequantize: not a tensor",
            expected="a QTensor, or a sequence of them",
            received=type(tensors).__name__,
        )
    if not isinstance(tensors, Tensor):
        return tuple(dequantize(tensor) for tensor in tensors)
    if isinstance(tensors, QTensor):
        return tensors.dequantize()
    if not tensors.is_floating_point():
        raise DTypeError(
            "dequantize: a plain integer tensor has no scale",
            expected="a QTensor",
            received=f"{tensors.dtype}",
            fix="Use qlab.qparams.dequantize(codes, qparams).",
        )
    return tensors.to(torch.float32)
