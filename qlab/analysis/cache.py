"""The last few results, by what they were computed from."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class LastResults(Generic[T]):
    """Keeps the ``size`` results that were asked for last; safe to ask from several threads."""

    def __init__(self, size: int) -> None:
        self._size, self._lock = size, threading.RLock()
        self._items: OrderedDict[Hashable, T] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """The result of a key, made if it is not there; the oldest one makes room."""
        with self._lock:
            if key not in self._items:
                self._items[key] = make()
            self._items.move_to_end(key)
            while len(self._items) > self._size:
                self._items.popitem(last=False)
            return self._items[key]

    def emptied(self) -> LastResults[T]:
        """Another one that keeps as many, without any yet."""
        return LastResults(self._size)

    def clear(self) -> None:
        """Forgets everything."""
        with self._lock:
            self._items.clear()
