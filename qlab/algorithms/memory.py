"""How much memory something takes."""

from __future__ import annotations

import math
import os
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

import torch

_STATM = Path("/proc/self/statm")
_EVERY = 0.01


class MemoryWatch:
    """Context in which the memory of the process, and of CUDA, is looked at every 10 ms.

    Attributes:
        peak_bytes: How much more was held at most than at the start; NaN where the system does not
            say. Memory that torch had freed and takes again does not count.
    """

    def __init__(self) -> None:
        self.peak_bytes = 0.0 if _STATM.exists() else math.nan
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._start = _held()

    def __enter__(self) -> Self:
        if not math.isnan(self.peak_bytes):
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._done.set()
        if self._thread.is_alive():
            self._thread.join()

    def _look(self) -> None:
        while True:
            self.peak_bytes = max(self.peak_bytes, _held() - self._start)
            if self._done.wait(_EVERY):
                return


def _held() -> int:
    """Resident bytes of the process and those that tensors take on CUDA devices."""
    resident = 0
    if _STATM.exists():
        resident = int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return resident + (torch.cuda.memory_allocated() if torch.cuda.is_initialized() else 0)
