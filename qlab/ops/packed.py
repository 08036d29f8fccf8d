"""The cache of a weight in a kernel's own layout."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

from torch import Tensor

T = TypeVar("T")


class PackedWeight(Generic[T]):
    """Holds what a kernel derived from weights; rebuilt when they change.

    A cache and nothing else: it is never part of a ``state_dict``, and copying or pickling gives
    an empty one. It is valid as long as the tensors it was built from are the same objects with
    the same storage and the same version counter. Changes that PyTorch does not count (through
    NumPy, or to inference tensors) call for `clear`.
    """

    __slots__ = ("_built", "_key", "_stamps")

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forgets what was built."""
        self._key: Hashable = None
        self._stamps: tuple[Any, ...] = ()
        self._built: T | None = None

    def get(self, tensors: tuple[Tensor | None, ...], key: Hashable, build: Callable[[], T]) -> T:
        """What ``build()`` returned for these tensors and this key, or returns now.

        Args:
            tensors: The tensors that ``build`` reads.
            key: Everything else that it reads.
            build: Makes the value.
        """
        if self._built is None or not self._is_current(tensors, key):
            self._key, self._stamps = key, tuple(map(_stamp, tensors))
            self._built = build()
        return self._built

    def _is_current(self, tensors: tuple[Tensor | None, ...], key: Hashable) -> bool:
        return self._key == key and all(map(_unchanged, tensors, self._stamps))

    def __copy__(self) -> PackedWeight[T]:
        return PackedWeight()

    def __deepcopy__(self, memo: dict[int, Any]) -> PackedWeight[T]:
        return PackedWeight()

    def __reduce__(self) -> tuple[type[PackedWeight[T]], tuple[()]]:
        return PackedWeight, ()

    def __repr__(self) -> str:
        return f"PackedWeight({'empty' if self._built is None else 'filled'})"


def _version(tensor: Tensor) -> int:
    return -1 if tensor.is_inference() else tensor._version


def _stamp(tensor: Tensor | None) -> tuple[weakref.ref[Tensor], int, int] | None:
    return None if tensor is None else (weakref.ref(tensor), tensor.data_ptr(), _version(tensor))


def _unchanged(tensor: Tensor | None, stamp: tuple[weakref.ref[Tensor], int, int] | None) -> bool:
    if tensor is None or stamp is None:
        return tensor is None and stamp is None
    reference, address, version = stamp
    return reference() is tensor and tensor.data_ptr() == address and _version(tensor) == version
