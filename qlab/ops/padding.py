"""Padding of integer tensors: in the domain of codes, for any storage type and device."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from qlab.errors import ShapeError

PADDING_MODES = ("zeros", "reflect", "replicate", "circular")


def pad_codes(
    x: Tensor, pads: Sequence[tuple[int, int]], mode: str, fill: int, op: str = "pad"
) -> Tensor:
    """Pads the last ``len(pads)`` axes.

    Args:
        x: Codes, any storage type.
        pads: Elements before and after, first padded axis first.
        mode: One of `PADDING_MODES`, as in ``torch.nn.Conv2d``.
        fill: The code that stands for 0.0, which ``"zeros"`` pads with.
        op: Named in errors.

    Raises:
        ShapeError: ``"reflect"`` or ``"circular"`` asks for more than the axis has.
    """
    if not any(before or after for before, after in pads):
        return x
    if mode == "zeros":
        flat = [n for pair in reversed(pads) for n in pair]
        return F.pad(x, flat, value=fill)
    first = x.dim() - len(pads)
    for axis, (before, after) in enumerate(pads, start=first):
        if before or after:
            index = _source_index(x.shape[axis], before, after, mode, op)
            x = x.index_select(axis, index.to(x.device))
    return x


def _reflect(index: Tensor, length: int) -> Tensor:
    return (length - 1) - ((length - 1) - index.abs()).abs()


def _replicate(index: Tensor, length: int) -> Tensor:
    return index.clamp(0, length - 1)


def _circular(index: Tensor, length: int) -> Tensor:
    return index % length


_INDEX: dict[str, Callable[[Tensor, int], Tensor]] = {
    "reflect": _reflect,
    "replicate": _replicate,
    "circular": _circular,
}


def _source_index(length: int, before: int, after: int, mode: str, op: str) -> Tensor:
    """Which element of an axis each element of the padded axis copies."""
    most = {"reflect": length - 1, "circular": length}.get(mode)
    if (most is not None and max(before, after) > most) or length == 0:
        raise ShapeError(
            f"{op}: {mode} padding is wider than the input",
            expected=f"at most {most} elements of padding on an axis of length {length}",
            received=f"{before} before and {after} after",
        )
    return _INDEX[mode](torch.arange(-before, length + after), length)
