"""What an uploaded file may take of this machine, in one place."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields

from qlab.errors import ArgumentError, FormatError

MIB = 2**20
GIB = 2**30
_PREFIX = "QLAB_UPLOAD_"


@dataclass(frozen=True)
class Limits:
    """Upper bounds for one uploaded file; what exceeds one is refused with the bound's name.

    Attributes:
        file_bytes: The file itself.
        unpacked_bytes: All members of an archive together, unpacked.
        members: Members of an archive.
        json_bytes: One JSON member, or the header of a safetensors file.
        json_depth: Lists and objects inside each other in JSON.
        tensors: Weights, buffers and constants together, or arrays of calibration data.
        nodes: Operators of a program.
        text: Characters of one name or one expression of sizes.
        pixels: Of one image.
        seconds: Of processor time for reading one file, after the reading process has started.
        startup_seconds: For the reading process to start: it imports qlab.
        memory_bytes: What the reading process may take beyond what it takes when it starts.
    """

    file_bytes: int = 1 * GIB
    unpacked_bytes: int = 2 * GIB
    members: int = 20_000
    json_bytes: int = 64 * MIB
    json_depth: int = 64
    tensors: int = 20_000
    nodes: int = 100_000
    text: int = 2_000
    pixels: int = 50_000_000
    seconds: int = 60
    startup_seconds: int = 60
    memory_bytes: int = 8 * GIB

    @classmethod
    def from_environment(cls, variables: Mapping[str, str] | None = None, **given: int) -> Limits:
        """The bounds that variables such as ``QLAB_UPLOAD_SECONDS=120`` set; others as given.

        Args:
            variables: By name, ``QLAB_UPLOAD_`` and an attribute in capitals; `os.environ` if None.
            given: Bounds for which there is no variable.

        Raises:
            ArgumentError: One that is no whole number above 0, or names no bound.
        """
        names = {f"{_PREFIX}{bound.name.upper()}": bound.name for bound in fields(cls)}
        bounds = dict(given)
        for variable, text in (os.environ if variables is None else variables).items():
            if not variable.startswith(_PREFIX):
                continue
            if variable not in names or not text.isdecimal() or int(text) < 1:
                raise ArgumentError(
                    f"{variable} sets no limit of uploads",
                    expected=f"a whole number above 0, in one of {', '.join(names)}",
                    received=repr(text),
                )
            bounds[names[variable]] = int(text)
        return cls(**bounds)

    def check(self, bound: str, received: int, what: str) -> None:
        """Refuses a number above one of the bounds.

        Args:
            bound: The attribute's name.
            received: What the file has or claims.
            what: What that is, in words: ``"The archive unpacks to too much"``.

        Raises:
            FormatError: It is more than allowed.
        """
        allowed = getattr(self, bound)
        if received > allowed:
            unit = " bytes" if bound.endswith("_bytes") else ""
            raise FormatError(
                what,
                expected=f"at most {allowed}{unit}",
                received=f"{received}{unit}",
                fix=f"If you trust the file, allow more with Limits({bound}=…); "
                f"for the command and the app, {_PREFIX}{bound.upper()} sets it.",
            )
