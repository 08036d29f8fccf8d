"""What a C library prints unasked goes to standard error: standard output is for results."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.Lock()
_inside = 0
_stdout = -1


@contextmanager
def printing_to_stderr() -> Iterator[None]:
    """Sends what is written to the process's file 1 to file 2; any number of threads may.

    File 1 is the whole process's: what other threads print meanwhile goes there too, and is not
    lost. Where a process has no such files, or its C library cannot be asked to empty its
    buffers, nothing changes.
    """
    global _inside, _stdout
    with _lock:
        if _inside == 0:
            _stdout = _redirect()
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0 and _stdout >= 0:
                try:
                    _empty_buffers()
                finally:
                    os.dup2(_stdout, 1)
                    os.close(_stdout)


def _redirect() -> int:
    """A copy of file 1, which now is file 2; -1 where that cannot be."""
    try:
        _empty_buffers()
        kept = os.dup(1)
    except (OSError, AttributeError, TypeError):
        return -1
    try:
        os.dup2(2, 1)
    except OSError:
        os.close(kept)
        return -1
    return kept


def _empty_buffers() -> None:
    """Writes out what Python and C hold back, so that it goes where it was meant to."""
    if sys.stdout is not None and not sys.stdout.closed:
        sys.stdout.flush()
    ctypes.CDLL(None).fflush(None)
