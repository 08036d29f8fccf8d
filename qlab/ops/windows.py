"""Maximum over sliding windows of codes, in their own type.

One axis after the other, as the larger of shifted views. PyTorch's pooling of integers is an
order of magnitude slower, and raises on channels-last maps of more than 255 elements.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from qlab.errors import ArgumentError
from qlab.ops import checks

Ints = int | Sequence[int]


@dataclass(frozen=True, slots=True)
class Windows:
    """The windows along one axis: window i covers ``i·stride - padding + j·dilation``, j < kernel.

    Attributes:
        kernel: Elements of a window.
        stride: From one window to the next.
        padding: In front of the axis.
        dilation: From one element to the next.
        count: How many windows.
    """

    kernel: int
    stride: int
    padding: int
    dilation: int
    count: int


def windows(
    op: str,
    x: Tensor,
    n: int,
    kernel_size: Ints,
    stride: Ints | None,
    padding: Ints,
    dilation: Ints,
    ceil_mode: bool,
) -> list[Windows]:
    """The windows over the last ``n`` axes; sizes as in PyTorch.

    Raises:
        ArgumentError: Sizes that make no sense, padding of more than half the window, or windows
            larger than the padded input.
    """
    kernel = checks.whole_numbers(op, "kernel size", kernel_size, n, minimum=1)
    step = kernel if stride in (None, ()) else stride
    steps = checks.whole_numbers(op, "stride", step, n, minimum=1)
    pads = checks.whole_numbers(op, "padding", padding, n, minimum=0)
    dilations = checks.whole_numbers(op, "dilation", dilation, n, minimum=1)
    sizes = zip(kernel, steps, pads, dilations, strict=True)
    return [
        Windows(*given, _windows(op, length, given, ceil_mode))
        for length, given in zip(x.shape[-n:], sizes, strict=True)
    ]


def window_maximum(op: str, x: Tensor, n: int, *options: Any) -> Tensor:
    """The largest element of each window over the last ``n`` axes; see `windows`."""
    low = _smallest(x.dtype)
    for axis, along in enumerate(windows(op, x, n, *options), start=x.dim() - n):
        k, s, p, d = along.kernel, along.stride, along.padding, along.dilation
        behind = max((along.count - 1) * s + d * (k - 1) + 1 - p - x.shape[axis], 0)
        if p or behind:
            x = F.pad(x, [0, 0] * (x.dim() - 1 - axis) + [p, behind], value=low)
        x = _along(x, axis, [(j * d, s) for j in range(k)], along.count)
    return x


def _smallest(dtype: torch.dtype) -> float:
    return -torch.inf if dtype.is_floating_point else torch.iinfo(dtype).min


def _windows(op: str, length: int, sizes: tuple[int, int, int, int], ceil_mode: bool) -> int:
    kernel, stride, padding, dilation = sizes
    reach = dilation * (kernel - 1) + 1
    if 2 * padding > kernel:
        raise ArgumentError(
            f"{op}: the padding is more than half of the window",
            expected=f"at most {kernel // 2}",
            received=padding,
        )
    free = length + 2 * padding - reach
    count = (free + (stride - 1 if ceil_mode else 0)) // stride + 1
    if ceil_mode and (count - 1) * stride >= length + padding:
        count -= 1  # a window must begin inside the input or in front of it
    if count < 1 or length == 0:
        raise ArgumentError(
            f"{op}: the window is larger than the padded input",
            expected=f"at least {reach - 2 * padding} elements along each axis",
            received=length,
        )
    return count


def _along(x: Tensor, axis: int, starts: list[tuple[int, int]], count: int) -> Tensor:
    parts = [
        x[(slice(None),) * axis + (slice(start, start + step * (count - 1) + 1, step),)]
        for start, step in starts
    ]
    if len(parts) == 1:
        return parts[0].clone()
    largest = torch.maximum(parts[0], parts[1])
    for part in parts[2:]:
        largest = torch.maximum(largest, part)
    return largest
