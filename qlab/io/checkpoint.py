"""A quantized model in one safetensors file: codes, scales, and the graph as JSON.

The tensors are the converted graph's state dict, with codes narrower than a byte packed densely.
The file's metadata holds the graph (`qlab.io.program`). Reading one executes nothing that the file
says: functions, methods and classes are looked up in the registry by name.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, fx

from qlab.analysis.report import code_buffers
from qlab.dtypes import QDType, as_qdtype
from qlab.errors import ArgumentError, DTypeError, FormatError, QlabError
from qlab.execution import usable_device
from qlab.io import program
from qlab.io.files import path_with_suffix, write_atomically
from qlab.io.packing import is_packed, pack, unpack

FORMAT = "qlab-quantized"
VERSION = 1
_LARGEST_HEADER = 100 * 2**20


def checkpoint_bytes(graph_module: fx.GraphModule) -> bytes:
    """A converted graph as the bytes of a safetensors file.

    Args:
        graph_module: What `convert_fx` or `Lab.convert` returned.

    Returns:
        Bytes that `load_quantized` takes, on any machine and device.

    Raises:
        UnsupportedError: The graph holds something that a checkpoint may not name.
    """
    described = program.describe(graph_module)
    packed_types = _packed_types(graph_module)
    tensors: dict[str, Tensor] = {}
    packed: dict[str, Any] = {}
    for key, tensor in graph_module.state_dict().items():
        tensors[key] = tensor.detach().cpu().contiguous().clone()
        if key in packed_types:
            dtype = packed_types[key]
            packed[key] = {"dtype": dtype.name, "shape": list(tensor.shape)}
            tensors[key] = pack(tensor, dtype)
    header = {"version": VERSION, "packed": packed, **described}
    text = json.dumps(header, separators=(",", ":"))
    return _ordered(save(tensors, {"format": FORMAT, "qlab": text}))


def _ordered(content: bytes) -> bytes:
    """The same file with its metadata in alphabetical order, which safetensors leaves to chance.

    So equal models give equal bytes.
    """
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # tensors are aligned to 8 bytes
    return len(text).to_bytes(8, "little") + text + content[8 + size :]


def _packed_types(graph_module: fx.GraphModule) -> dict[str, QDType]:
    found = {}
    for path, module in graph_module.named_modules():
        for name, dtype in code_buffers(module).items():
            if is_packed(dtype):
                found[f"{path}.{name}"] = dtype
    return found


def save_quantized(graph_module: fx.GraphModule, path: str | os.PathLike[str]) -> Path:
    """Writes a converted graph to ``path``, whole or not at all.

    Raises:
        ArgumentError: The path does not end in ``.safetensors``, or no file can be written there.
        DTypeError: It is no path.
        UnsupportedError: As `checkpoint_bytes`.
    """
    target = path_with_suffix(path, ".safetensors", "save_quantized")
    write_atomically(target, checkpoint_bytes(graph_module))
    return target


def load_quantized(
    source: str | os.PathLike[str] | bytes, device: torch.device | str = "cpu"
) -> fx.GraphModule:
    """Reads a checkpoint that `save_quantized` or ``Lab.export`` wrote.

    Args:
        source: A path, or the file's bytes.
        device: Where the tensors are put.

    Returns:
        The converted graph, in eval mode; float inputs in, float outputs out.

    Raises:
        FormatError: Not such a file, truncated, or naming something qlab does not run.
        ArgumentError: No file can be read there, or no such device.
        DTypeError: Neither a path nor bytes.
    """
    place, content = usable_device(device), read_bytes(source, "load_quantized")
    header = read_header(content, FORMAT, VERSION, "a quantized model of qlab")
    try:
        tensors = load(content)
    except (SafetensorError, ValueError, KeyError) as error:
        raise FormatError(f"The checkpoint's tensors are not readable: {error}") from error
    try:
        for key, entry in header["packed"].items():
            shape = tuple(int(n) for n in entry["shape"])
            tensors[key] = unpack(tensors[key], as_qdtype(entry["dtype"]), shape)
        graph_module = program.build(header, tensors)
        graph_module.load_state_dict(tensors, strict=True)
    except QlabError:
        raise
    except MALFORMED as error:
        raise FormatError(f"The checkpoint does not describe a model: {error}") from error
    return graph_module.eval().to(place)


#: What torch and Python raise where a file holds something else than what is read from it.
MALFORMED = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
)


def read_bytes(source: Any, caller: str) -> bytes:
    """A file's bytes, from its path or as they are.

    Raises:
        ArgumentError: No file can be read there.
        DTypeError: Neither a path nor bytes.
    """
    if isinstance(source, bytes | bytearray | memoryview):
        return bytes(source)
    if not isinstance(source, str | os.PathLike):
        raise DTypeError(
            f"{caller} reads a file",
            expected="a path, or the file's bytes",
            received=type(source).__name__,
        )
    try:
        return Path(source).read_bytes()
    except OSError as error:
        raise ArgumentError(
            "The file cannot be read", received=f"{str(source)!r} ({error.strerror})"
        ) from error


def read_header(
    content: bytes, form: str, version: int | tuple[int, ...], what: str
) -> dict[str, Any]:
    """The JSON that qlab keeps in a safetensors file's metadata.

    Args:
        content: The file.
        form: The format that the metadata must name.
        version: The version that it must have, or those that it may have.
        what: What such a file holds, in words.

    Raises:
        FormatError: Another file, a truncated one, or another version.
    """
    size = int.from_bytes(content[:8], "little") if len(content) >= 8 else 0
    if not 2 <= size <= min(len(content) - 8, _LARGEST_HEADER):
        raise FormatError(
            "Not a safetensors file, or a truncated one",
            expected=what,
            received=f"{len(content)} bytes",
        )
    try:
        metadata = json.loads(content[8 : 8 + size])["__metadata__"]
        header = json.loads(metadata["qlab"])
        found = header["version"]
        foreign = metadata["format"] != form
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise FormatError(
            f"A safetensors file, but not {what}",
            fix="Weights of a float model are loaded into their architecture instead.",
        ) from error
    if foreign:
        raise FormatError(
            f"A file of qlab, but not {what}",
            expected=f"the format {form!r}",
            received=repr(metadata["format"])[:80],
            fix="qlab.load_quantized reads quantized models, qlab.load_lab Labs.",
        )
    known = version if isinstance(version, tuple) else (version,)
    if found not in known:
        raise FormatError(
            "The file has another version",
            expected=f"version {' or '.join(map(str, known))}",
            received=f"version {found!r}",
            fix="Load it with the qlab that wrote it, or export it again.",
        )
    return header
