"""Convolutions, linear and batch norm of quantized tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from qlab import ops
from qlab.dtypes import QDType, as_qdtype, quint8
from qlab.nn.quantized.functional.operands import parts
from qlab.nn.quantized.holder import float_copy
from qlab.qparams import QParams
from qlab.qtensor import QTensor

Ints = int | Sequence[int]


def _convolve(
    op: Callable[..., Tensor],
    tensors: tuple[Tensor, Tensor, Tensor | None],
    output: tuple[float, int, QDType | str | torch.dtype],
    **options: Any,
) -> QTensor:
    input, weight, bias = tensors
    x, w = parts(op.__name__, "input", input), parts(op.__name__, "weight", weight)
    scale, zero_point, dtype = output
    qparams = QParams.per_tensor(scale, zero_point, as_qdtype(dtype), x[0].device)
    return QTensor(op(*x, *w, float_copy(bias), qparams, **options), qparams)


def conv1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Ints = 1,
    padding: Ints | str = 0,
    dilation: Ints = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
    scale: float = 1.0,
    zero_point: int = 0,
    dtype: QDType | str | torch.dtype = quint8,
) -> QTensor:
    """`conv2d` over 1 axis: input (N, C, L), weight (out_channels, C / groups, kernel)."""
    return _convolve(
        ops.conv1d,
        (input, weight, bias),
        (scale, zero_point, dtype),
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        padding_mode=padding_mode,
    )


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Ints = 1,
    padding: Ints | str = 0,
    dilation: Ints = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
    scale: float = 1.0,
    zero_point: int = 0,
    dtype: QDType | str | torch.dtype = quint8,
) -> QTensor:
    """Cross-correlation over 2 axes; see `qlab.ops.conv2d` for the exact formula.

    The weight is checked and brought into a kernel's layout on every call;
    `qlab.nn.quantized.Conv2d` keeps that.

    Args:
        input: `QTensor` (N, C, H, W), per tensor.
        weight: `QTensor` (out_channels, C / groups, kH, kW).
        bias: Floating point (out_channels,), real units; or None.
        stride: Step of the window.
        padding: Zeros on both sides, or ``"valid"`` or ``"same"``.
        dilation: Distance between elements of the window.
        groups: Channel groups that do not see each other.
        padding_mode: As in `qlab.ops.ConvOptions`; the reference takes ``"zeros"`` only.
        scale: Scale of the output, real units per code.
        zero_point: Zero point of the output.
        dtype: Quantized data type of the output.

    Raises:
        QlabError: As `qlab.ops.conv2d`; input or weight are not quantized.
    """
    return _convolve(
        ops.conv2d,
        (input, weight, bias),
        (scale, zero_point, dtype),
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        padding_mode=padding_mode,
    )


def conv3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Ints = 1,
    padding: Ints | str = 0,
    dilation: Ints = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
    scale: float = 1.0,
    zero_point: int = 0,
    dtype: QDType | str | torch.dtype = quint8,
) -> QTensor:
    """`conv2d` over 3 axes: input (N, C, D, H, W), weight (out_channels, C / groups, *kernel)."""
    return _convolve(
        ops.conv3d,
        (input, weight, bias),
        (scale, zero_point, dtype),
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        padding_mode=padding_mode,
    )


def linear(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    scale: float | None = None,
    zero_point: int | None = None,
) -> QTensor:
    """``y = x Wᵀ + b``; see `qlab.ops.linear` for the exact formula.

    Args:
        input: `QTensor` (*, in_features), per tensor.
        weight: `QTensor` (out_features, in_features).
        bias: Floating point (out_features,), real units; or None.
        scale: Scale of the output, real units per code; the input's if None.
        zero_point: Zero point of the output; the input's if None.

    Raises:
        QlabError: As `qlab.ops.linear`; input or weight are not quantized.
    """
    x, w = parts("linear", "input", input), parts("linear", "weight", weight)
    output = QParams.per_tensor(
        x[1].scale_value if scale is None else scale,
        x[1].zero_point_value if zero_point is None else zero_point,
        x[1].dtype,
        x[0].device,
    )
    return QTensor(ops.linear(*x, *w, float_copy(bias), output), output)


def quantized_batch_norm(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    var: Tensor,
    eps: float,
    output_scale: float,
    output_zero_point: int,
) -> QTensor:
    """``(x - mean) / sqrt(var + eps) · weight + bias``; see `qlab.ops.batch_norm`.

    Args:
        input: `QTensor` (N, C, *), per tensor.
        weight: Floating point (C,), or None for 1.
        bias: Floating point (C,), or None for 0.
        mean: Floating point (C,).
        var: Floating point (C,).
        eps: Added to the variance.
        output_scale: Scale of the output, real units per code.
        output_zero_point: Zero point of the output.

    Raises:
        QlabError: As `qlab.ops.batch_norm`; not quantized.
    """
    codes, qparams = parts("quantized_batch_norm", "input", input)
    output = QParams.per_tensor(output_scale, output_zero_point, qparams.dtype, codes.device)
    affine = float_copy(weight), float_copy(bias)
    statistics = mean.detach().float(), var.detach().float()
    return QTensor(ops.batch_norm(codes, qparams, *affine, *statistics, eps, output), output)
