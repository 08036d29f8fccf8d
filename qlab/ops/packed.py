"""The cache of what kernels derive from a weight."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor

T = TypeVar("T")
_Stamp = tuple[weakref.ref[Tensor], int, int] | None


@dataclass(frozen=True, slots=True)
class _Entry:
    key: Hashable
    stamps: tuple[_Stamp, ...]
    value: Any


class PackedWeight:
    """Holds a layer's weight in a kernel's own layout; rebuilt when the weight changes.

    A cache and nothing else: it is never part of a ``state_dict``, and copying or pickling gives
    an empty one. An entry is valid as long as the tensors it was built from are the same objects
    with the same storage and the same version counter. Changes that PyTorch does not count
    (through NumPy or ``.data``, or to inference tensors) call for `clear`.
    """

    __slots__ = ("_entries",)

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}

    def clear(self) -> None:
        """Forgets everything."""
        self._entries.clear()

    def get(
        self, name: str, tensors: tuple[Tensor | None, ...], key: Hashable, build: Callable[[], T]
    ) -> T:
        """What ``build()`` returned for these tensors and this key, or returns now.

        Args:
            name: Which of the derived values.
            tensors: The tensors that ``build`` reads.
            key: Everything else that it reads.
            build: Makes the value.
        """
        entry = self._entries.get(name)
        if entry is None or entry.key != key or not all(map(_unchanged, tensors, entry.stamps)):
            value = build()
            entry = self._entries[name] = _Entry(key, tuple(map(_stamp, tensors)), value)
        return entry.value

    def __copy__(self) -> PackedWeight:
        return PackedWeight()

    def __deepcopy__(self, memo: dict[int, Any]) -> PackedWeight:
        return PackedWeight()

    def __reduce__(self) -> tuple[type[PackedWeight], tuple[()]]:
        return PackedWeight, ()

    def __repr__(self) -> str:
        return f"PackedWeight({', '.join(self._entries) or 'empty'})"


def _version(tensor: Tensor) -> int:
    return -1 if tensor.is_inference() else tensor._version


def _stamp(tensor: Tensor | None) -> _Stamp:
    return None if tensor is None else (weakref.ref(tensor), tensor.data_ptr(), _version(tensor))


def _unchanged(tensor: Tensor | None, stamp: _Stamp) -> bool:
    if tensor is None or stamp is None:
        return tensor is None and stamp is None
    reference, address, version = stamp
    return reference() is tensor and tensor.data_ptr() == address and _version(tensor) == version
