"""Writing files whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from pathlib import Path

from qlab.errors import ArgumentError, DTypeError

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)


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
        path: Where to. Who may read a file that is there may read the new one; a new one may be
            read by whom the process's umask allows.
        content: What.
        private: Whether nobody but the owner may read it.

    Raises:
        ArgumentError: The folder does not exist or may not be written to, the path is a folder, the
            name is too long, or the disk is full; what was there before is still there.
    """
    temporary = path.parent / f".{path.name[:40]}.{secrets.token_hex(8)}"
    try:
        before = _mode_of(path)
        if before is not None and stat.S_ISDIR(before):
            raise ArgumentError(
                "No file can be written there",
                expected="a file's path",
                received=f"a folder, {path}",
            )
        mode = 0o666 if before is None and not private else 0o600
        handle = os.open(temporary, _NEW, mode)
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        if before is not None and not private:
            temporary.chmod(before & 0o777)
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise ArgumentError(
                "The file could not be written; what was there before is unchanged",
                expected=f"room for {len(content)} bytes",
                received=f"{str(path)!r} ({error.strerror or error})",
            ) from error
        raise


def _mode_of(path: Path) -> int | None:
    """What a path leads to and who may read it; None where there is nothing."""
    try:
        return path.stat().st_mode
    except FileNotFoundError:
        return None


def _unwritable(path: Path, error: OSError) -> ArgumentError:
    if error.errno == errno.ENAMETOOLONG:
        return ArgumentError(
            "No file can be written under that name",
            expected="a shorter name",
            received=f"{str(path)!r} ({error.strerror})",
        )
    return ArgumentError(
        "No file can be written there",
        expected="a folder that exists and may be written to",
        received=f"{str(path.parent)!r} ({error.strerror})",
    )
