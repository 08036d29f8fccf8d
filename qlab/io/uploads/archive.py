"""Zip archives of a stranger: every member's name, size and place checked before one is read."""

from __future__ import annotations

import io
import re
import zipfile
import zlib
from collections.abc import Iterator

from qlab.errors import FormatError
from qlab.io.uploads.limits import Limits
from qlab.io.uploads.strict_json import shown

_NAME = re.compile(r"[\w.,+=@ ()\-]+(/[\w.,+=@ ()\-]+)*\Z")
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED = 0x1
_CHUNK = 2**20


class Archive:
    """The members of a zip file, by name.

    Args:
        content: The file.
        limits: Bounds on members and bytes.

    Raises:
        FormatError: Not a zip file, a damaged one, or one made to do harm: names twice, paths that
            leave the archive, encrypted members, more bytes than allowed.
    """

    def __init__(self, content: bytes, limits: Limits) -> None:
        try:
            self._file = zipfile.ZipFile(io.BytesIO(content))
        except _DAMAGED as error:
            raise FormatError(
                f"The archive is truncated or damaged: {error}", fix="Save or upload it again."
            ) from error
        entries = self._file.infolist()
        limits.check("members", len(entries), "The archive has too many members")
        self._entries: dict[str, zipfile.ZipInfo] = {}
        for entry in entries:
            if entry.filename.endswith("/"):  # is_dir() fails on an empty name
                continue
            self._check(entry)
            self._entries[entry.filename] = entry
        total = sum(entry.file_size for entry in entries)
        limits.check("unpacked_bytes", total, "The archive unpacks to too many bytes")

    def _check(self, entry: zipfile.ZipInfo) -> None:
        name = entry.filename
        parts = name.split("/")
        if len(name) > 500 or not _NAME.match(name) or "." in parts or ".." in parts:
            raise FormatError(
                "A member's name is no plain path inside the archive", received=shown(name)
            )
        if name in self._entries:
            raise FormatError("The archive has two members of one name", received=shown(name))
        if entry.compress_type not in _METHODS or entry.flag_bits & _ENCRYPTED:
            raise FormatError(
                f"The member {shown(name)} is encrypted or packed in a way that qlab does not read",
                expected="stored or deflated members",
            )

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def size(self, name: str) -> int:
        """A member's size in bytes, as the archive claims it; `read` never gives more."""
        return self._entries[name].file_size

    def read(self, name: str) -> bytes:
        """A member's bytes.

        Raises:
            FormatError: It does not exist, is damaged, or has another size than it claims.
        """
        if name not in self._entries:
            raise FormatError("The archive lacks a member", expected=shown(name))
        entry, parts, total = self._entries[name], [], 0
        try:
            with self._file.open(entry) as member:
                while total <= entry.file_size and (part := member.read(_CHUNK)):
                    parts.append(part)
                    total += len(part)
        except _DAMAGED as error:
            raise FormatError(f"The member {shown(name)} is damaged: {error}") from error
        if total != entry.file_size:
            raise FormatError(
                f"The member {shown(name)} has another size than it claims",
                expected=f"{entry.file_size} bytes",
                received=f"{total} bytes",
            )
        return b"".join(parts)


_DAMAGED = (
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    zlib.error,
    EOFError,
    OSError,
    ValueError,
    NotImplementedError,
    RuntimeError,
    OverflowError,
    LookupError,
    MemoryError,
)
