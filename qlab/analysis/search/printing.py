"""HiGHS prints remarks whatever its options say: they are left out, and results stay alone.

Standard output is for results; a C library that writes to the process's file 1 does not ask.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_REMARK = re.compile(rb"Highs\w+::[^\n]*\n")
_MARK = b"\0qlab: " + os.urandom(16) + b"\0"

_lock = threading.Lock()
_inside = 0
_filter: _Filter | None = None


@contextmanager
def without_remarks() -> Iterator[None]:
    """Leaves out HiGHS's remarks; any number of threads may.

    Whatever else is written to the process's file 1 meanwhile, by any thread, goes to file 2 and
    is not lost. Where a process has no such files, or its C library cannot be asked to empty its
    buffers, nothing changes.
    """
    global _inside, _filter
    with _lock:
        if _inside == 0:
            _filter = _redirected()
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0 and _filter is not None:
                _filter.end()


class _Filter:
    """File 1 as a pipe, of which a thread writes to file 2 what is no remark.

    Args:
        kept: A copy of what file 1 was.
        source: The end of the pipe to read.
    """

    def __init__(self, kept: int, source: int) -> None:
        self._kept, self._source = kept, source
        self._read_all = threading.Event()
        # A process that another thread started meanwhile may write on after `end`: a daemon.
        threading.Thread(target=self._forward, name="without_remarks", daemon=True).start()

    def end(self) -> None:
        """Makes file 1 what it was, once all that was written to it has been read."""
        try:
            _empty_buffers()
            os.write(1, _MARK)
        finally:
            os.dup2(self._kept, 1)
            os.close(self._kept)
        self._read_all.wait()

    def _forward(self) -> None:
        held = b""
        try:
            while more := os.read(self._source, 2**16):
                held += more
                ended = _MARK in held
                held = _REMARK.sub(b"", held.replace(_MARK, b""))
                line = len(held) if ended else held.rfind(b"\n") + 1  # a remark may be cut in two
                with suppress(OSError):  # nobody reads file 2
                    _write(held[:line])
                held = held[line:]
                if ended:
                    self._read_all.set()
        finally:
            self._read_all.set()
            os.close(self._source)
            with suppress(OSError):
                _write(held)


def _redirected() -> _Filter | None:
    """File 1 as a pipe; None where that cannot be."""
    try:
        _empty_buffers()
        os.fstat(2)
        kept = os.dup(1)
    except (OSError, AttributeError, TypeError):
        return None
    try:
        source, into = os.pipe()
    except OSError:
        os.close(kept)
        return None
    os.dup2(into, 1)
    os.close(into)
    return _Filter(kept, source)


def _write(text: bytes) -> None:
    """To file 2, all of it."""
    while text:
        text = text[os.write(2, text) :]


def _empty_buffers() -> None:
    """Writes out what Python and C hold back, so that it goes where it was meant to."""
    if sys.stdout is not None and not sys.stdout.closed:
        sys.stdout.flush()
    ctypes.CDLL(None).fflush(None)
