"""Pooling and resizing of quantized tensors."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from torch import Tensor

from qlab import ops
from qlab.errors import UnsupportedError
from qlab.nn.quantized.functional.operands import keeping
from qlab.qtensor import QTensor

Ints = int | Sequence[int]
Sizes = int | None | Sequence[int | None]
Factors = float | Sequence[float]


def avg_pool2d(
    input: Tensor,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> QTensor:
    """Mean of each window over 2 axes, rounded once; see `qlab.ops.avg_pool2d`.

    Args:
        input: `QTensor` (N, C, H, W) or (C, H, W), per tensor.
        kernel_size: Window.
        stride: Step; the window's size by default.
        padding: Zeros (in real numbers) on both sides.
        ceil_mode: Round the output's size up.
        count_include_pad: Whether padded zeros count as elements.
        divisor_override: Replaces the count.

    Raises:
        QlabError: As `qlab.ops.avg_pool2d`; not quantized.
    """
    options = (kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)
    return keeping(ops.avg_pool2d, input, *options)


def avg_pool3d(
    input: Tensor,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> QTensor:
    """`avg_pool2d` over 3 axes: (N, C, D, H, W) or (C, D, H, W)."""
    options = (kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)
    return keeping(ops.avg_pool3d, input, *options)


def adaptive_avg_pool2d(input: Tensor, output_size: Sizes) -> QTensor:
    """Mean of windows that give 2 axes of wanted lengths; None keeps the input's length."""
    return keeping(ops.adaptive_avg_pool2d, input, output_size)


def adaptive_avg_pool3d(input: Tensor, output_size: Sizes) -> QTensor:
    """Mean of windows that give 3 axes of wanted lengths; None keeps the input's length."""
    return keeping(ops.adaptive_avg_pool3d, input, output_size)


def max_pool1d(
    input: Tensor,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    dilation: Ints = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> QTensor:
    """Largest value of each window over 1 axis; see `qlab.ops.max_pool1d`.

    Args:
        input: `QTensor` (N, C, L) or (C, L), per tensor.
        kernel_size: Window.
        stride: Step; the window's size by default.
        padding: Elements on both sides that never win.
        dilation: Distance between elements of a window.
        ceil_mode: Round the output's size up.
        return_indices: False.

    Raises:
        UnsupportedError: ``return_indices=True``.
        QlabError: As `qlab.ops.max_pool1d`; not quantized.
    """
    _no_indices("max_pool1d", return_indices)
    options = (kernel_size, stride, padding, dilation, ceil_mode)
    return keeping(ops.max_pool1d, input, *options)


def max_pool2d(
    input: Tensor,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    dilation: Ints = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> QTensor:
    """`max_pool1d` over 2 axes: (N, C, H, W) or (C, H, W)."""
    _no_indices("max_pool2d", return_indices)
    options = (kernel_size, stride, padding, dilation, ceil_mode)
    return keeping(ops.max_pool2d, input, *options)


def _no_indices(function: str, return_indices: bool) -> None:
    if return_indices:
        raise UnsupportedError(
            f"{function} of quantized tensors gives no indices", received="return_indices=True"
        )


def interpolate(
    input: Tensor,
    size: Ints | None = None,
    scale_factor: Factors | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
) -> QTensor:
    """Resizes the spatial axes; see `qlab.ops.interpolate`.

    Args:
        input: `QTensor` (N, C, *spatial), per tensor.
        size: Lengths of the spatial axes of the output; or
        scale_factor: What the input's lengths are multiplied with.
        mode: As ``torch.nn.functional.interpolate``; the reference takes ``"nearest"`` and
            ``"bilinear"`` only.
        align_corners: Whether the corners of input and output coincide.

    Raises:
        QlabError: As `qlab.ops.interpolate`; not quantized.
    """
    return keeping(ops.interpolate, input, size, scale_factor, mode, align_corners)


def upsample(
    input: Tensor,
    size: Ints | None = None,
    scale_factor: Factors | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
) -> QTensor:
    """`interpolate` by its old name; warns."""
    _old("upsample", "interpolate")
    return interpolate(input, size, scale_factor, mode, align_corners)


def upsample_bilinear(
    input: Tensor, size: Ints | None = None, scale_factor: Factors | None = None
) -> QTensor:
    """`interpolate` with ``mode="bilinear"`` and aligned corners by its old name; warns."""
    _old("upsample_bilinear", 'interpolate(mode="bilinear", align_corners=True)')
    return interpolate(input, size, scale_factor, "bilinear", True)


def upsample_nearest(
    input: Tensor, size: Ints | None = None, scale_factor: Factors | None = None
) -> QTensor:
    """`interpolate` with ``mode="nearest"`` by its old name; warns."""
    _old("upsample_nearest", "interpolate")
    return interpolate(input, size, scale_factor)


def _old(name: str, new: str) -> None:
    warnings.warn(f"{name} is an old name; call {new} instead", UserWarning, stacklevel=3)
