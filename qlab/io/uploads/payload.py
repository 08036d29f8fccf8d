"""Raw tensors of an archive: bytes, a dtype, sizes, strides and an offset, each checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from qlab.errors import FormatError, UnsupportedError
from qlab.io.uploads import strict_json
from qlab.io.uploads.archive import Archive
from qlab.io.uploads.limits import Limits
from qlab.io.uploads.recognise import pickled
from qlab.io.uploads.strict_json import shown
from qlab.io.uploads.symbols import Size, read_size

#: Numbers that `torch.export` gives the dtypes (its schema 8).
DTYPES: dict[int, torch.dtype] = {
    1: torch.uint8,
    2: torch.int8,
    3: torch.int16,
    4: torch.int32,
    5: torch.int64,
    6: torch.float16,
    7: torch.float32,
    8: torch.float64,
    12: torch.bool,
    13: torch.bfloat16,
}
_STRIDED = 7
_MOST_AXES = 32


@dataclass(frozen=True)
class TensorInfo:
    """What an archive says of a tensor."""

    dtype: torch.dtype
    sizes: tuple[Size, ...]
    strides: tuple[Size, ...]
    offset: Size

    @property
    def shape(self) -> tuple[int | None, ...]:
        """Sizes for the inputs that the program was made from; None where they are not known."""
        return tuple(size.example for size in self.sizes)


def read_info(data: Any, what: str, limits: Limits) -> TensorInfo:
    """The description of a tensor from its JSON.

    Raises:
        FormatError: Incomplete, or sizes and strides that do not go together.
        UnsupportedError: A dtype or layout that is not read.
    """
    number = strict_json.field(data, "dtype", int, what)
    if number not in DTYPES:
        known = ", ".join(str(d).removeprefix("torch.") for d in DTYPES.values())
        raise UnsupportedError(
            f"The dtype of {what} is not read", expected=known, received=f"number {number}"
        )
    if strict_json.field(data, "layout", int, what) != _STRIDED:
        raise UnsupportedError(
            f"{what} is not a dense tensor", expected="a strided layout", received=shown(data)
        )
    sizes, strides = (
        tuple(read_size(s, f"a size of {what}", limits) for s in _axes(data, name, what))
        for name in ("sizes", "strides")
    )
    if len(sizes) != len(strides):
        raise FormatError(
            f"Sizes and strides of {what} do not go together",
            received=f"{len(sizes)} sizes, {len(strides)} strides",
        )
    offset = strict_json.field(data, "storage_offset", dict, what)
    return TensorInfo(
        DTYPES[number], sizes, strides, read_size(offset, f"the offset of {what}", limits)
    )


def _axes(data: Any, name: str, what: str) -> list[Any]:
    axes = strict_json.field(data, name, list, what)
    if len(axes) > _MOST_AXES:
        raise FormatError(f"{what} has too many axes", expected=_MOST_AXES, received=len(axes))
    return axes


@dataclass(frozen=True)
class Payloads:
    """Tensors by name, the parameters' names, and for a name of the same tensor the first one."""

    tensors: dict[str, Tensor]
    parameters: frozenset[str]
    shared: dict[str, str]


def read_payloads(archive: Archive, root: str, model: str, limits: Limits) -> Payloads:
    """Every weight, buffer and constant of a program.

    Args:
        archive: The upload.
        root: The folder in it.
        model: The program's name.
        limits: Bounds on their number and bytes.

    Raises:
        FormatError: Damaged, or sizes that do not fit the bytes.
        UnsupportedError: A pickled or opaque payload.
    """
    tensors: dict[str, Tensor] = {}
    parameters, shared, first = set(), {}, {}
    for folder in ("weights", "constants"):
        place = f"{root}/data/{folder}"
        index = f"{place}/{model}_{folder}_config.json"
        config = strict_json.load(archive.read(index), index, limits)
        entries = strict_json.field(config, "config", dict, index)
        limits.check("tensors", len(entries) + len(tensors), "The archive has too many tensors")
        for name, entry in entries.items():
            if name in tensors:
                raise FormatError("Two tensors have one name", received=shown(name))
            info, member = _payload(entry, name, place, limits)
            key = (member, info)
            if key in first:
                shared[name] = first[key]
                tensors[name] = tensors[first[key]]
            else:
                first[key] = name
                tensors[name] = _tensor(archive, member, info, name)
            if folder == "weights" and strict_json.field(entry, "is_param", bool, name):
                parameters.add(name)
    return Payloads(tensors, frozenset(parameters), shared)


def _payload(entry: Any, name: str, place: str, limits: Limits) -> tuple[TensorInfo, str]:
    what = f"the tensor {shown(name)}"
    path = strict_json.field(entry, "path_name", str, what)
    if strict_json.field(entry, "use_pickle", bool, what):
        raise pickled(f"{place}/{path}")
    if not path.startswith(("weight_", "tensor_")) or "/" in path:
        raise UnsupportedError(
            f"{what} is an object of Python, not a plain tensor",
            expected="a member weight_N or tensor_N",
            received=shown(path),
            fix="Keep custom and opaque objects out of the model.",
        )
    return read_info(entry.get("tensor_meta"), what, limits), f"{place}/{path}"


def _tensor(archive: Archive, member: str, info: TensorInfo, name: str) -> Tensor:
    what = f"the tensor {shown(name)}"
    numbers = [*info.sizes, *info.strides, info.offset]
    if not all(number.fixed for number in numbers):
        raise FormatError(f"{what} has a size that is not a number")
    shape = [int(size.example or 0) for size in info.sizes]
    strides = [int(stride.example or 0) for stride in info.strides]
    start, width = int(info.offset.example or 0), info.dtype.itemsize
    elements = archive.size(member) // width if member in archive else 0
    empty = 0 in shape
    last = start + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    count = 1
    for size in shape:
        count *= size
    if not empty and (last >= elements or count > elements):
        raise FormatError(
            f"The sizes of {what} do not fit its bytes",
            expected=f"at most {elements} elements of {info.dtype}",
            received=f"sizes {shape}, strides {strides}, offset {start}",
        )
    if empty:
        return torch.zeros(shape, dtype=info.dtype)
    content = bytearray(archive.read(member)[: elements * width])
    flat = torch.frombuffer(content, dtype=info.dtype)
    if info.dtype == torch.bool:  # a bool of another byte than 0 and 1 is undefined behaviour
        flat = torch.frombuffer(content, dtype=torch.uint8) != 0
    return flat.as_strided(shape, strides, start).clone(memory_format=torch.contiguous_format)
