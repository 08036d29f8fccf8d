"""Writing files whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from qlab.errors import ArgumentError, DTypeError

_MASK = os.umask(0o077)  # can only be read by setting it: once, before there are threads
os.umask(_MASK)


def path_of(path: object, caller: str) -> Path:
    """A path from what a caller gave as one.

    Raises:
        DTypeError: It is none.
    """
    if isinstance(path, str | os.PathLike):
        return Path(path)
    raise DTypeError(f"{caller} writes a file", expected="its path", received=type(path).__name__)


def path_with_suffix(path: object, suffix: str, caller: str) -> Path:
    """A path that ends as it should.

    Raises:
        ArgumentError: It ends otherwise.
        DTypeError: It is no path.
    """
    target = path_of(path, caller)
    if target.suffix != suffix:
        raise ArgumentError(
            f"{caller} writes {suffix} files",
            expected=f"a path that ends in {suffix}",
            received=str(target),
        )
    return target


def write_atomically(path: Path, content: bytes, *, private: bool = False) -> None:
    """Writes ``content`` beside ``path`` and renames it, so that no half-written file is left.

    Args:
        path: Where to.
        content: What.
        private: Whether nobody but the owner may read it.

    Raises:
        ArgumentError: The folder does not exist or may not be written to, the path is a folder, or
            the disk is full; what was there before is still there.
    """
    if path.is_dir():
        raise ArgumentError(
            "No file can be written there", expected="a file's path", received=f"a folder, {path}"
        )
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise ArgumentError(
            "No file can be written there",
            expected="a folder that exists and may be written to",
            received=f"{str(path.parent)!r} ({error.strerror})",
        ) from error
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        if not private:
            Path(temporary).chmod(_mode_of(path))
        Path(temporary).replace(path)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise ArgumentError(
                "The file could not be written; what was there before is unchanged",
                expected=f"room for {len(content)} bytes",
                received=f"{str(path)!r} ({error.strerror or error})",
            ) from error
        raise


def _mode_of(path: Path) -> int:
    """Who may read a file: as before where there was one, else as any file that is made here.

    A temporary file is its owner's alone, and would stay so where others are to read a model.
    """
    return path.stat().st_mode & 0o777 if path.exists() else 0o666 & ~_MASK
