"""Pooling on codes.

Maximum pooling selects codes. Average pooling sums ``x - z`` exactly and rounds the quotient once,
ties to even. Both keep the input's scale and zero point unless other output parameters are given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from qlab.ops import checks, compiled
from qlab.ops.codes import exact_mean, linear_map, rounded_map, selected
from qlab.ops.kernels import accelerated, defined
from qlab.ops.windows import window_maximum
from qlab.qparams import QParams

Ints = int | Sequence[int]
Sizes = int | None | Sequence[int | None]


def _check(op: str, x: Tensor, x_qparams: QParams, n: int) -> None:
    checks.codes(op, "input", x, x_qparams)
    checks.dims(op, "input", x, (n + 1, n + 2), f"(N, C, *spatial) with {n} spatial")
    checks.per_tensor(op, "input", x_qparams)


def _check_output(op: str, y_qparams: QParams | None) -> None:
    if y_qparams is not None:
        checks.parameters(op, "output", y_qparams)


def _sliding_maximum(op: str, n: int, x: tuple[Tensor, QParams], *options: Any) -> Tensor:
    _check(op, *x, n)
    checks.switch(op, "ceil_mode", options[-1])
    if x[0].dtype.is_floating_point:
        return selected(lambda codes: window_maximum(op, codes, n, *options), x[0])
    return window_maximum(op, x[0], n, *options)


def _adaptive_maximum(
    pool: Callable[..., Tensor], n: int, x: tuple[Tensor, QParams], output_size: Sizes
) -> Tensor:
    op = pool.__name__
    _check(op, *x, n)
    with checks.torch_refusal(op, f"shape {tuple(x[0].shape)}, output size {output_size}"):
        return selected(lambda codes: pool(codes, output_size), x[0])


def _average(
    pool: Callable[..., Tensor],
    n: int,
    x: tuple[Tensor, QParams],
    y_qparams: QParams | None,
    *options: Any,
) -> Tensor:
    op = pool.__name__
    _check(op, *x, n)
    _check_output(op, y_qparams)
    for what, value in zip(("ceil_mode", "count_include_pad"), options[3:], strict=False):
        checks.switch(op, what, value)
    with checks.torch_refusal(op, f"shape {tuple(x[0].shape)}, options {options}"):
        return linear_map(lambda steps: pool(steps, *options), *x, y_qparams)


@defined
def max_pool1d(
    x: Tensor,
    x_qparams: QParams,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    dilation: Ints = 1,
    ceil_mode: bool = False,
) -> Tensor:
    """Largest code in each window; the output keeps the input's qparams.

    Args:
        x: Codes of shape (N, C, L) or (C, L).
        x_qparams: Per tensor.
        kernel_size: Window.
        stride: Step; the window's size by default.
        padding: Elements on both sides that never win, at most half the window.
        dilation: Distance between elements of a window.
        ceil_mode: Round the output's size up, so that the last window may hang over.

    Returns:
        Codes of the input's type and qparams.

    Raises:
        DTypeError: Not codes of ``x_qparams.dtype``.
        ShapeError: Wrong number of axes, or qparams that are not per tensor.
        ArgumentError: Options that do not fit the input.
    """
    options = (kernel_size, stride, padding, dilation, ceil_mode)
    return _sliding_maximum("max_pool1d", 1, (x, x_qparams), *options)


@accelerated(compiled=(compiled.maximum_obstacle, compiled.max_pool2d))
def max_pool2d(
    x: Tensor,
    x_qparams: QParams,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    dilation: Ints = 1,
    ceil_mode: bool = False,
) -> Tensor:
    """`max_pool1d` over 2 axes: (N, C, H, W) or (C, H, W)."""
    options = (kernel_size, stride, padding, dilation, ceil_mode)
    return _sliding_maximum("max_pool2d", 2, (x, x_qparams), *options)


@defined
def max_pool3d(
    x: Tensor,
    x_qparams: QParams,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    dilation: Ints = 1,
    ceil_mode: bool = False,
) -> Tensor:
    """`max_pool1d` over 3 axes: (N, C, D, H, W) or (C, D, H, W)."""
    options = (kernel_size, stride, padding, dilation, ceil_mode)
    return _sliding_maximum("max_pool3d", 3, (x, x_qparams), *options)


@defined
def avg_pool1d(
    x: Tensor,
    x_qparams: QParams,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    *,
    y_qparams: QParams | None = None,
) -> Tensor:
    """Mean of each window, ``rint(Σ(x - z) / count) + z`` with an exact sum.

    Args:
        x: Codes of shape (N, C, L) or (C, L).
        x_qparams: Per tensor.
        kernel_size: Window.
        stride: Step; the window's size by default.
        padding: Zeros (in real numbers) on both sides, at most half the window.
        ceil_mode: Round the output's size up, so that the last window may hang over.
        count_include_pad: Whether padded zeros count as elements.
        y_qparams: The output's parameters; None keeps the input's.

    Returns:
        Codes, dtype ``y_qparams.dtype.storage``.

    Raises:
        DTypeError: Not codes of ``x_qparams.dtype``.
        ShapeError: Wrong number of axes, or qparams that are not per tensor.
        ArgumentError: Options that do not fit the input.
    """
    options = (kernel_size, stride, padding, ceil_mode, count_include_pad)
    return _average(F.avg_pool1d, 1, (x, x_qparams), y_qparams, *options)


@defined
def avg_pool2d(
    x: Tensor,
    x_qparams: QParams,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    *,
    y_qparams: QParams | None = None,
) -> Tensor:
    """`avg_pool1d` over 2 axes: (N, C, H, W) or (C, H, W).

    ``divisor_override``, where given, replaces the count.
    """
    options = (kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)
    return _average(F.avg_pool2d, 2, (x, x_qparams), y_qparams, *options)


@defined
def avg_pool3d(
    x: Tensor,
    x_qparams: QParams,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    *,
    y_qparams: QParams | None = None,
) -> Tensor:
    """`avg_pool1d` over 3 axes: (N, C, D, H, W) or (C, D, H, W).

    ``divisor_override``, where given, replaces the count.
    """
    options = (kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)
    return _average(F.avg_pool3d, 3, (x, x_qparams), y_qparams, *options)


@defined
def adaptive_avg_pool1d(
    x: Tensor, x_qparams: QParams, output_size: Ints, *, y_qparams: QParams | None = None
) -> Tensor:
    """Mean of windows chosen so that the output has a given size. As `avg_pool1d`.

    Args:
        x: Codes of shape (N, C, L) or (C, L).
        x_qparams: Per tensor.
        output_size: Length of each spatial axis of the output.
        y_qparams: The output's parameters; None keeps the input's.
    """
    return _average(F.adaptive_avg_pool1d, 1, (x, x_qparams), y_qparams, output_size)


def _one_pixel(output_size: object) -> bool:
    return isinstance(output_size, int | tuple | list) and output_size in (1, (1, 1), [1, 1])


def _average_obstacle(
    x: Tensor, x_qparams: QParams, output_size: Sizes, *, y_qparams: QParams | None = None
) -> str | None:
    found = compiled.mean_obstacle(x, x_qparams, y_qparams)
    return found or (None if _one_pixel(output_size) else "the output has more than one pixel")


def _average_all(
    x: Tensor, x_qparams: QParams, output_size: Sizes, *, y_qparams: QParams | None = None
) -> Tensor:
    return compiled.mean(x, x_qparams)


@accelerated(compiled=(_average_obstacle, _average_all))
def adaptive_avg_pool2d(
    x: Tensor, x_qparams: QParams, output_size: Sizes, *, y_qparams: QParams | None = None
) -> Tensor:
    """`adaptive_avg_pool1d` over 2 axes; None in ``output_size`` keeps the input's length."""
    if _one_pixel(output_size) and isinstance(x, Tensor) and x.numel():
        _check("adaptive_avg_pool2d", x, x_qparams, 2)
        _check_output("adaptive_avg_pool2d", y_qparams)
        return rounded_map(exact_mean(x, x_qparams, (-2, -1), True), x_qparams, y_qparams)
    return _average(F.adaptive_avg_pool2d, 2, (x, x_qparams), y_qparams, output_size)


@defined
def adaptive_avg_pool3d(
    x: Tensor, x_qparams: QParams, output_size: Sizes, *, y_qparams: QParams | None = None
) -> Tensor:
    """`adaptive_avg_pool1d` over 3 axes; None in ``output_size`` keeps the input's length."""
    return _average(F.adaptive_avg_pool3d, 3, (x, x_qparams), y_qparams, output_size)


@defined
def adaptive_max_pool1d(x: Tensor, x_qparams: QParams, output_size: Ints) -> Tensor:
    """Maximum over windows chosen so that the output has a given size. As `max_pool1d`.

    Args:
        x: Codes of shape (N, C, L) or (C, L).
        x_qparams: Per tensor.
        output_size: Length of each spatial axis of the output.
    """
    return _adaptive_maximum(F.adaptive_max_pool1d, 1, (x, x_qparams), output_size)


@defined
def adaptive_max_pool2d(x: Tensor, x_qparams: QParams, output_size: Sizes) -> Tensor:
    """`adaptive_max_pool1d` over 2 axes; None in ``output_size`` keeps the input's length."""
    return _adaptive_maximum(F.adaptive_max_pool2d, 2, (x, x_qparams), output_size)


@defined
def adaptive_max_pool3d(x: Tensor, x_qparams: QParams, output_size: Sizes) -> Tensor:
    """`adaptive_max_pool1d` over 3 axes; None in ``output_size`` keeps the input's length."""
    return _adaptive_maximum(F.adaptive_max_pool3d, 3, (x, x_qparams), output_size)


@defined
def mean(
    x: Tensor,
    x_qparams: QParams,
    dim: int | tuple[int, ...] | None = None,
    keepdim: bool = False,
    *,
    y_qparams: QParams | None = None,
) -> Tensor:
    """Mean over axes, ``rint(Σ(x - z) / count) + z`` with an exact sum.

    Args:
        x: Codes, any shape.
        x_qparams: Per tensor.
        dim: The axes; all if None.
        keepdim: Whether they stay, with length 1.
        y_qparams: The output's parameters; None keeps the input's.

    Returns:
        Codes, dtype ``y_qparams.dtype.storage``.

    Raises:
        DTypeError: Not codes of ``x_qparams.dtype``.
        ShapeError: Qparams are not per tensor.
        ArgumentError: Axes that the input does not have, or nothing to take the mean of.
    """
    checks.codes("mean", "input", x, x_qparams)
    checks.per_tensor("mean", "input", x_qparams)
    _check_output("mean", y_qparams)
    with checks.torch_refusal("mean", f"shape {tuple(x.shape)}, dim {dim}"):
        named = (dim,) if isinstance(dim, int) else dim
        if not all(x.shape[axis] for axis in named or range(x.ndim)):
            raise IndexError("an axis of length 0 has no mean")
        return rounded_map(exact_mean(x, x_qparams, dim, keepdim), x_qparams, y_qparams)
