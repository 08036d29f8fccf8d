"""Calibration and evaluation data in one shape, whatever loader it comes from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qlab.errors import ArgumentError, DTypeError, QlabError, ShapeError, UnfinishedError


@dataclass(frozen=True)
class Batch:
    """One batch: the model's positional inputs, and labels where the data has them."""

    inputs: tuple[Any, ...]
    labels: Tensor | None

    @property
    def samples(self) -> int:
        """Length of the first axis of the first tensor input that has one; 1 where none has."""
        return next((x.shape[0] for x in self.inputs if isinstance(x, Tensor) and x.ndim), 1)


class Batches:
    """Re-iterable batches of a model's inputs.

    A batch may be one tensor, or a tuple or list whose first elements are the model's inputs; one
    more element is taken as class labels: a tensor, an array, a list of whole numbers, or one. So a
    ``DataLoader`` of (image, label) pairs works as it is. A batch may also be a dict with the
    inputs by the names of the model's arguments, and labels by ``"labels"`` or ``"label"``; other
    entries are left out. A one-shot iterator is read to its end at once and kept; a list or a
    loader is iterated anew each time, and never read only to count it.

    Args:
        source: A single tensor (one batch) or an iterable of batches.
        arity: How many positional inputs the model takes.
        device: Where tensors are put.
        name: What the data is called in errors, such as ``"calibration"``.
        inputs: Names of the model's arguments, for batches that are dicts.

    Raises:
        DTypeError: ``source`` is neither a tensor nor iterable.
        UnfinishedError: A one-shot iterator raised something; names the batch.
    """

    def __init__(
        self,
        source: Any,
        arity: int,
        device: torch.device,
        name: str,
        *,
        inputs: Sequence[str] = (),
    ) -> None:
        if isinstance(source, Tensor):
            source = [source]
        if not isinstance(source, Iterable):
            raise DTypeError(
                f"The {name} data is not iterable",
                expected="a tensor, a list of batches, or a DataLoader",
                received=type(source).__name__,
            )
        one_shot = isinstance(source, Iterator)
        self._source: Iterable[Any] = list(_guarded(source, name)) if one_shot else source
        self._arity, self._device, self._name = arity, device, name
        self._inputs = tuple(inputs)
        self._counted: int | None = None

    @property
    def length(self) -> int | None:
        """How many batches the source says it has, or gave when it was last read to its end.

        None before that where it does not say: an endless source never comes to its end.
        """
        source: Any = self._source
        try:
            return len(source)
        except (TypeError, NotImplementedError):
            return self._counted

    def count(self) -> int:
        """How many batches there are; reads them all where that is not known."""
        known = self.length
        return sum(1 for _ in _guarded(self._source, self._name)) if known is None else known

    def __iter__(self) -> Iterator[Batch]:
        """Yields checked batches.

        Raises:
            ArgumentError: A batch lacks inputs, or there is no batch at all.
            DTypeError: A batch that is no tensor, tuple or list.
            ShapeError: An input without samples.
            UnfinishedError: The source raised something; names the batch.
        """
        count = 0
        for count, raw in enumerate(_guarded(self._source, self._name), start=1):
            yield self._batch(raw, count - 1)
        if count == 0:
            raise ArgumentError(
                f"The {self._name} data is empty",
                expected="at least one batch",
                fix="A consumed generator yields nothing: pass a list or a DataLoader.",
            )
        self._counted = count

    def _batch(self, raw: Any, index: int) -> Batch:
        where = f"Batch {index} of the {self._name} data"
        parts = (raw,) if isinstance(raw, Tensor) else raw
        if isinstance(parts, Mapping):
            parts = self._by_name(parts, where)
        if not isinstance(parts, tuple | list):
            raise DTypeError(
                f"{where} has an unknown form",
                expected="a tensor, or a tuple, list or dict of the model's inputs",
                received=type(raw).__name__,
            )
        if len(parts) < self._arity:
            raise ArgumentError(
                f"{where} lacks inputs",
                expected=f"{self._arity} inputs",
                received=f"{len(parts)}",
            )
        parts = [p.to(self._device) if isinstance(p, Tensor) else p for p in parts]
        inputs, rest = tuple(parts[: self._arity]), parts[self._arity :]
        if not any(isinstance(x, Tensor) and x.ndim and x.shape[0] for x in inputs):
            raise ShapeError(f"{where} holds no samples")
        return Batch(inputs, self._labels(rest[0], where) if rest else None)

    def _by_name(self, entries: Mapping[str, Any], where: str) -> tuple[Any, ...]:
        """The inputs in the model's order, then the labels."""
        missing = [name for name in self._inputs if name not in entries]
        if missing or not self._inputs:
            raise ArgumentError(
                f"{where} lacks inputs",
                expected="entries " + ", ".join(self._inputs or ["of known names"]),
                received=", ".join(map(str, entries)) or "nothing",
            )
        labels = [entries[name] for name in ("labels", "label") if name in entries]
        return (*(entries[name] for name in self._inputs), *labels[:1])

    def _labels(self, value: Any, where: str) -> Tensor | None:
        """Labels as a tensor; whatever holds numbers is read as one, other things are no labels."""
        if isinstance(value, Tensor):
            return value
        if isinstance(value, np.ndarray | np.generic):
            value = value.tolist()
        if isinstance(value, int):
            value = [value]
        if not isinstance(value, list | tuple) or not value:
            return None
        try:
            return torch.tensor(value, device=self._device)
        except (TypeError, ValueError, RuntimeError) as error:
            raise DTypeError(
                f"{where}: the labels are no class indices",
                expected="a tensor or a list of whole numbers, one for each sample",
                received=f"a {type(value).__name__} that starts with {value[0]!r}",
            ) from error


def _guarded(source: Iterable[Any], name: str) -> Iterator[Any]:
    """What a source yields; an error of its own becomes one that names the batch."""
    index = 0
    try:
        for item in source:
            yield item
            index += 1
    except QlabError:
        raise
    except Exception as error:
        raise UnfinishedError.of(
            f"Batch {index} of the {name} data could not be read",
            error,
            "Repair the loader; what was seen before stays.",
        ) from error
