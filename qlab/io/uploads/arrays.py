"""Calibration data: arrays, named tensors, or a zip of images."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from qlab.errors import ArgumentError, FormatError, ShapeError, UnsupportedError
from qlab.io.uploads import strict_json
from qlab.io.uploads.archive import Archive
from qlab.io.uploads.images import Preprocessing, read_images
from qlab.io.uploads.limits import Limits
from qlab.io.uploads.recognise import Kind, pickled, recognise
from qlab.io.uploads.strict_json import shown

LABELS = ("labels", "label", "targets", "target", "y")
_HEADER = 10_000
_SAFETENSORS = {
    "BOOL": 1, "U8": 1, "I8": 1, "I16": 2, "I32": 4, "I64": 8, "F16": 2, "BF16": 2, "F32": 4,
    "F64": 8,
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class UploadedData:
    """Samples to calibrate with, or to evaluate on where there are labels.

    Attributes:
        inputs: Tensors by name, all with the samples along the first axis.
        labels: int64, one per sample, or None.
        classes: What the labels stand for, where folders of images named them.
        label: What the labels are called in the file; empty where there are none.
        image_sizes: (height, width, channels) of images as their files have them, each once.
    """

    inputs: dict[str, Tensor]
    labels: Tensor | None = None
    classes: tuple[str, ...] = ()
    label: str = ""
    image_sizes: tuple[tuple[int, ...], ...] = ()

    def __len__(self) -> int:
        """Number of samples."""
        return len(next(iter(self.inputs.values())))

    def batches(self, size: int = 32, *, labelled: bool = False, whole: bool = False) -> list[Any]:
        """Batches as `Lab` takes them: a tensor, a dict of several, or a pair with the labels.

        Args:
            size: Samples per batch; the last may have fewer.
            labelled: Whether each batch has labels.
            whole: Whether to leave out a last batch that has fewer, for a model that takes batches
                of one size alone.

        Raises:
            ArgumentError: Labels are asked for and there are none, or no whole size above 0, or
                there are fewer samples than one whole batch has.
        """
        if labelled and self.labels is None:
            raise ArgumentError("The data has no labels", expected="an array called 'labels'")
        if size < 1:
            raise ArgumentError("A batch has at least one sample", received=size)
        end = len(self) // size * size if whole else len(self)
        if not end:
            raise ArgumentError(
                "The data has fewer samples than one batch", expected=size, received=len(self)
            )
        found: list[Any] = []
        for start in range(0, end, size):
            part = {k: v[start : start + size] for k, v in self.inputs.items()}
            labels = None if self.labels is None else self.labels[start : start + size]
            if len(part) > 1:
                found.append({**part, "labels": labels} if labelled else part)
            else:
                (x,) = part.values()
                found.append((x, labels) if labelled else x)
        return found


def read_arrays(
    content: bytes, name: str, limits: Limits, preprocessing: Preprocessing | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads calibration data; for the reading process.

    Returns:
        What `collect` takes: what is known of classes and images, and tensors by name, labels
        among them.

    Raises:
        FormatError: Damaged, or not what its header says.
        UnsupportedError: Pickled objects, or dtypes that no model takes.
        ShapeError: Arrays of different numbers of samples, or none.
    """
    kind = recognise(content, name)
    told: dict[str, Any] = {"classes": [], "sizes": []}
    if kind is Kind.ARRAY:
        tensors = {"input": read_npy(content, name, limits)}
    elif kind is Kind.SAFETENSORS:
        tensors = read_safetensors(content, limits)
    else:
        archive = Archive(content, limits)
        names = list(archive)
        if names and all(n.endswith(".npy") for n in names):
            limits.check("tensors", len(names), "The archive has too many arrays")
            tensors = {n[:-4]: read_npy(archive.read(n), n, limits) for n in names}
        else:
            tensors, told = read_images(archive, preprocessing or Preprocessing(), limits)
    _check(tensors)
    return told, tensors


def collect(data: Any, tensors: dict[str, Tensor]) -> UploadedData:
    """`read_arrays`'s result as what people work with."""
    classes = tuple(map(str, strict_json.field(data, "classes", list, "the result")))
    _check(tensors)
    label = next((n for n in LABELS if n in tensors and len(tensors) > 1), None)
    labels = None if label is None else tensors[label]
    if labels is not None and (labels.ndim != 1 or labels.is_floating_point()):
        label = labels = None
    inputs = {k: v for k, v in tensors.items() if k != label}
    sizes = strict_json.field(data, "sizes", list, "the result")
    found = tuple(tuple(map(int, strict_json.of(s, list, "an image's size"))) for s in sizes)
    labels = None if labels is None else labels.long()
    return UploadedData(inputs, labels, classes, label or "", found)


def _check(tensors: dict[str, Tensor]) -> None:
    lengths = {k: len(v) if v.ndim else 0 for k, v in tensors.items()}
    if not lengths or 0 in lengths.values():
        raise ShapeError(
            "The data holds no samples",
            expected="arrays with the samples along the first axis",
            received=shown(lengths),
        )
    if len(set(lengths.values())) > 1:
        raise ShapeError(
            "The arrays have different numbers of samples",
            expected="the same length of the first axis",
            received=shown(lengths),
        )
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise FormatError(f"The array {shown(name)} has values that are NaN or infinite")


def read_npy(content: bytes, name: str, limits: Limits) -> Tensor:
    """One NumPy array; never a pickled one.

    Raises:
        FormatError: Damaged, or another number of bytes than its header says.
        UnsupportedError: An array of Python objects, or of a dtype that no model takes.
    """
    file = io.BytesIO(content)
    formats = np.lib.format
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            version = formats.read_magic(file)
            if version == (1, 0):
                header = formats.read_array_header_1_0(file, max_header_size=_HEADER)
            else:
                header = formats.read_array_header_2_0(file, max_header_size=_HEADER)
        shape, fortran, dtype = header
    except Exception as error:  # NumPy parses the header as Python, and raises what that raises
        raise FormatError(f"The array {shown(name)} has no readable header: {error}") from error
    if dtype.hasobject:
        raise pickled(name)
    if dtype.kind not in "biuf" or dtype.itemsize > 8:
        raise UnsupportedError(
            f"The array {shown(name)} has a dtype that no model takes",
            expected="bool, integers or floats of at most 64 bits",
            received=str(dtype)[:80],
        )
    start = file.tell()
    if any(not isinstance(n, int) or n < 0 for n in shape) or len(shape) > 32:
        raise FormatError(f"The array {shown(name)} has no valid shape", received=shown(shape))
    expected = prod(shape) * dtype.itemsize
    if expected != len(content) - start:
        raise FormatError(
            f"The array {shown(name)} does not hold what its header says",
            expected=f"{shown(shape)} of {dtype}: {expected} bytes",
            received=f"{len(content) - start} bytes",
        )
    flat = np.frombuffer(content, dtype, offset=start)
    array = flat.reshape(shape, order="F" if fortran else "C")
    native = np.ascontiguousarray(array.astype(_native(dtype)))
    return torch.from_numpy(native.reshape(shape).copy())


def _native(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype in this machine's byte order, and one that tensors have."""
    if dtype.kind == "u" and dtype.itemsize > 1:
        return np.dtype(np.int64)
    return dtype.newbyteorder("=")


def read_safetensors(content: bytes, limits: Limits) -> dict[str, Tensor]:
    """The tensors of a safetensors file, whose header is checked before anything is allocated.

    Raises:
        FormatError: Truncated, or a header that claims other bytes than there are.
    """
    size = int.from_bytes(content[:8], "little")
    if not 2 <= size <= len(content) - 8:
        raise FormatError(
            "The safetensors file is truncated, or its header claims more than there is",
            expected=f"a header of at most {max(len(content) - 8, 0)} bytes",
            received=f"a claim of {size} bytes",
        )
    header = strict_json.load(content[8 : 8 + size], "The safetensors header", limits)
    entries = strict_json.of(header, dict, "the safetensors header")
    limits.check("tensors", len(entries), "The file has too many tensors")
    for name, entry in entries.items():
        if name != "__metadata__":
            _check_entry(name, entry, len(content) - 8 - size)
    try:
        return load(content)
    except (SafetensorError, ValueError, KeyError, RuntimeError, OverflowError) as error:
        raise FormatError(f"The safetensors file is damaged: {error}") from error


def _check_entry(name: str, entry: Any, available: int) -> None:
    what = f"the tensor {shown(name)}"
    dtype = strict_json.field(entry, "dtype", str, what)
    shape = strict_json.field(entry, "shape", list, what)
    offsets = strict_json.field(entry, "data_offsets", list, what)
    if dtype not in _SAFETENSORS:
        raise UnsupportedError(
            f"The dtype of {what} is not read", expected=", ".join(_SAFETENSORS), received=dtype
        )
    numbers = [strict_json.of(n, int, what) for n in (*shape, *offsets)]
    elements = prod(shape) * _SAFETENSORS[dtype]
    fits = len(offsets) == 2 and 0 <= offsets[0] <= offsets[1] <= available
    if min(numbers) < 0 or not fits or offsets[1] - offsets[0] != elements:
        raise FormatError(
            f"The header of {what} does not fit the file",
            expected=f"{elements} bytes for shape {shown(shape)} of {dtype}",
            received=f"offsets {shown(offsets)} in {available} bytes",
        )
