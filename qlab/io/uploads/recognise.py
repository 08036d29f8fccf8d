"""What kind of file was uploaded, told by its bytes; a pickle is refused, whatever it is called."""

from __future__ import annotations

from enum import Enum
from pathlib import PurePath

from qlab.errors import FormatError, UnsupportedError
from qlab.io.uploads.strict_json import shown

_PICKLE_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle", ".joblib")
_SAVE = (
    "Where you trust the model, save its weights with "
    "safetensors.torch.save_file(model.state_dict(), 'model.safetensors'), or the whole model "
    "with torch.export.save(torch.export.export(model, example_inputs), 'model.pt2')."
)


class Kind(Enum):
    """Formats that are read."""

    ARCHIVE = "a zip archive"
    SAFETENSORS = "safetensors"
    ARRAY = "a NumPy array"


def recognise(content: bytes, name: str) -> Kind:
    """The format of a file.

    Args:
        content: The file.
        name: What it is called; its suffix decides nothing but the message.

    Raises:
        UnsupportedError: A pickle.
        FormatError: Something else that is not read.
    """
    suffix = PurePath(name).suffix.lower()
    if content[:4] == b"PK\x03\x04" and suffix not in _PICKLE_SUFFIXES:
        return Kind.ARCHIVE
    if content[:6] == b"\x93NUMPY":
        return Kind.ARRAY
    size = int.from_bytes(content[:8], "little")  # 128 looks like the first byte of a pickle
    whole = 2 <= size <= len(content) - 8 and content[8:9] == b"{"
    if suffix in _PICKLE_SUFFIXES or (_is_pickle(content) and not whole):
        raise pickled(name)
    if len(content) >= 10 and content[8:9] == b"{":
        return Kind.SAFETENSORS
    raise FormatError(
        f"The file {shown(name)} is of no kind that qlab reads, or truncated",
        expected=".pt2, .safetensors, .npz, .npy or a .zip of images",
        received=f"{len(content)} bytes that begin with {content[:8]!r}",
    )


def _is_pickle(content: bytes) -> bool:
    return content[:1] == b"\x80" and content[1:2] <= b"\x05"


def pickled(name: str) -> UnsupportedError:
    """The error for a file that holds a pickle."""
    return UnsupportedError(
        f"The file {shown(name)} is a pickle, and reading a pickle runs code that its author chose",
        expected="data that cannot run: .safetensors or .pt2 for models, .npz or .npy for arrays",
        fix=_SAVE,
    )
