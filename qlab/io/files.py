"""Writing files whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from qlab.errors import ArgumentError


def write_atomically(path: Path, content: bytes) -> None:
    """Writes ``content`` beside ``path`` and renames it, so that no half-written file is left.

    Raises:
        ArgumentError: The folder does not exist, or may not be written to.
    """
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
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
