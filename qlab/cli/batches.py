"""Batches of any form that a Lab takes, cut by samples."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor


def limited(batches: Iterable[Any], samples: int) -> Iterator[Any]:
    """The first samples of batches in any form that `qlab.Lab` takes, batched as they come."""
    left = samples
    for batch in batches:
        size = min(length(batch), left)
        yield head(batch, size)
        left -= size
        if left <= 0:
            return


def beyond(batches: Iterable[Any], samples: int) -> Iterator[Any]:
    """What `limited` leaves out: the samples behind the first ones, batched as they come."""
    left = samples
    for batch in batches:
        size = length(batch)
        if left < size:
            yield head(batch, size - left, left)
        left = max(left - size, 0)


def length(batch: Any) -> int:
    """How many samples a batch has."""
    parts: Any = batch.values() if isinstance(batch, Mapping) else batch
    if not isinstance(parts, Tensor):
        parts = next((x for x in parts if isinstance(x, Tensor) and x.ndim), ())
    return len(parts)


def head(value: Any, size: int, start: int = 0) -> Any:
    """``size`` samples of a batch from ``start`` on; what is not per sample stays."""
    if isinstance(value, Tensor):
        return value[start : start + size] if value.ndim else value
    if isinstance(value, Mapping):
        return {name: head(part, size, start) for name, part in value.items()}
    if isinstance(value, tuple | list):
        if all(isinstance(x, int) for x in value):  # labels as a plain list
            return value[start : start + size]
        return type(value)(head(part, size, start) for part in value)
    return value


def pieces(batches: Iterable[Any], size: int) -> Iterator[Any]:
    """The same samples in batches of at most ``size``; none is joined with its neighbour."""
    for batch in batches:
        for start in range(0, length(batch), size):
            yield head(batch, size, start)
