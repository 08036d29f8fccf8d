"""What an uploaded file may take of this machine, in one place."""

from __future__ import annotations

from dataclasses import dataclass

from qlab.errors import FormatError

MIB = 2**20
GIB = 2**30


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
                fix=f"If you trust the file, allow more with Limits({bound}=…).",
            )
