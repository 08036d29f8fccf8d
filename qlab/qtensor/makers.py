"""Quantized tensors from codes at hand, under the names that the reference's users know."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from qlab.dtypes import QDType, as_qdtype
from qlab.granularity import PerAxis
from qlab.ops import checks
from qlab.qparams import QParams
from qlab.qtensor.tensor import QTensor


def _make_per_tensor_quantized_tensor(input: Tensor, scale: float, zero_point: int) -> QTensor:
    """A `QTensor` of given codes with one scale: the reference's function of that name.

    Args:
        input: Codes, uint8, int8 or int32, any shape; copied.
        scale: Real units per code, positive.
        zero_point: The code that stands for 0.0.

    Raises:
        ArgumentError: A scale that is not positive, or a zero point outside the codes.
        DTypeError: Codes of another type.
    """
    checks.tensor("_make_per_tensor_quantized_tensor", "input", input)
    qparams = QParams.per_tensor(scale, zero_point, as_qdtype(input.dtype), input.device)
    return QTensor(input.clone(), qparams)


def _make_per_channel_quantized_tensor(
    input: Tensor, scale: Tensor, zero_point: Tensor, axis: int
) -> QTensor:
    """A `QTensor` of given codes with a scale per index of an axis.

    Args:
        input: Codes, uint8, int8 or int32, any shape; copied.
        scale: Real units per code, shape ``(input.shape[axis],)``.
        zero_point: The codes that stand for 0.0, that shape too; floating point for embeddings.
        axis: The axis of the channels.

    Raises:
        ArgumentError: A scale that is not positive, or a zero point outside the codes.
        DTypeError: Codes of another type.
        ShapeError: Another number of scales than channels.
    """
    checks.tensor("_make_per_channel_quantized_tensor", "input", input)
    return QTensor(
        input.clone(), per_channel_qparams(scale, zero_point, axis, as_qdtype(input.dtype))
    )


def _empty_affine_quantized(
    *size: int | Sequence[int],
    scale: float = 1.0,
    zero_point: int = 0,
    dtype: QDType | str | torch.dtype,
    device: torch.device | str | None = None,
) -> QTensor:
    """A `QTensor` with one scale whose codes are yet to be written.

    Args:
        size: Its shape, as numbers or one sequence.
        scale: Real units per code, positive.
        zero_point: The code that stands for 0.0.
        dtype: The quantized data type.
        device: Where it lies.

    Raises:
        ArgumentError: A scale that is not positive, or a zero point outside the codes.
        DTypeError: ``dtype`` is no quantized type.
    """
    qdtype = as_qdtype(dtype)
    codes = _empty("_empty_affine_quantized", size, qdtype, device)
    return QTensor(codes, QParams.per_tensor(scale, zero_point, qdtype, codes.device))


def _empty_per_channel_affine_quantized(
    *size: int | Sequence[int],
    scales: Tensor,
    zero_points: Tensor,
    axis: int,
    dtype: QDType | str | torch.dtype,
    device: torch.device | str | None = None,
) -> QTensor:
    """A `QTensor` with a scale per index of an axis whose codes are yet to be written.

    Args:
        size: Its shape, as numbers or one sequence.
        scales: Real units per code, one per index of the axis.
        zero_points: The codes that stand for 0.0, as many.
        axis: The axis of the channels.
        dtype: The quantized data type.
        device: Where it lies.

    Raises:
        ArgumentError: A scale that is not positive, or a zero point outside the codes.
        DTypeError: ``dtype`` is no quantized type.
        ShapeError: Another number of scales than channels.
    """
    qdtype = as_qdtype(dtype)
    codes = _empty("_empty_per_channel_affine_quantized", size, qdtype, device)
    return QTensor(codes, per_channel_qparams(scales, zero_points, axis, qdtype).to(codes.device))


def _empty(
    caller: str, size: tuple[Any, ...], dtype: QDType, device: torch.device | str | None
) -> Tensor:
    with checks.torch_refusal(caller, f"size {size}, device {device}"):
        return torch.empty(*size, dtype=dtype.storage, device=device)


def per_channel_qparams(scales: Tensor, zero_points: Tensor, axis: int, dtype: QDType) -> QParams:
    """Checked parameters along an axis; zero points stay real numbers if they are.

    Raises:
        ArgumentError: A scale that is not positive, or a zero point outside the codes.
    """
    kind = torch.float32 if zero_points.is_floating_point() else torch.int32
    qparams = QParams(scales.to(torch.float32), zero_points.to(kind), dtype, PerAxis(axis))
    qparams.check()
    return qparams
