"""Files of strangers as data: models, weights and calibration samples, and nothing that runs.

`torch.export.load` executes what an archive tells it to, so uploaded bytes never reach it. They
are read here: JSON and raw tensors only, operators from a literal list, sizes by a small grammar,
in a process with limits. Pickles are refused.
"""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from qlab.errors import ArgumentError, DTypeError, UnsupportedError
from qlab.io.uploads.architectures import Architecture, Built, architecture_names, load_weights
from qlab.io.uploads.arrays import UploadedData, collect
from qlab.io.uploads.images import Preprocessing
from qlab.io.uploads.limits import Limits
from qlab.io.uploads.matching import batch_of, inputs_of, made_up, matched
from qlab.io.uploads.models import UploadedInput, UploadedModel, assemble
from qlab.io.uploads.process import Stop, StoppedError, read_apart
from qlab.io.uploads.recognise import Kind, recognise

__all__ = [
    "Limits",
    "Preprocessing",
    "Stop",
    "StoppedError",
    "UploadedData",
    "UploadedInput",
    "UploadedModel",
    "architecture_names",
    "batch_of",
    "inputs_of",
    "load_model",
    "load_weights",
    "made_up",
    "matched",
    "open_model",
    "read",
    "read_data",
]

Source = str | os.PathLike[str] | bytes
_DEFAULT = Limits()


def load_model(
    source: Source, architecture: Architecture | None = None, *, limits: Limits = _DEFAULT
) -> nn.Module:
    """A float model from a file that may come from anyone.

    Args:
        source: The path, or the bytes, of a ``.pt2`` archive (`torch.export.save`) or of weights
            in safetensors.
        architecture: For weights, the model that they belong to: the name of a sample model, of
            torchvision or timm where they are installed, a module, or a function that makes one.
        limits: Bounds on the file, and on the process that reads an archive.

    Returns:
        In eval mode. From an archive an `fx.GraphModule`, whose layers are `torch.nn` modules
        under the model's own names; from weights the architecture's own module.

    Raises:
        UnsupportedError: A pickle, code, or an operator that uploads may not call.
        FormatError: Damaged, inconsistent, too large or too slow.
        ArgumentError: No file there; weights without an architecture, or an archive with one.
        UnknownNameError: No architecture has that name.
    """
    name = _name_of(source)
    content = _content(source, limits)
    if _is_weights(content, name, architecture):
        return _weights(content, architecture, limits).model
    return read(content, name, limits).model


def open_model(
    source: Source,
    architecture: Architecture | None = None,
    *,
    name: str = "",
    limits: Limits = _DEFAULT,
    should_stop: Stop | None = None,
) -> UploadedModel:
    """As `load_model`, with what the model takes and inputs of one call.

    Args:
        source: As of `load_model`.
        architecture: As of `load_model`; of a module or a function, the inputs are not known.
        name: What the file is called, for messages.
        limits: Bounds on the file, and on the process that reads an archive.
        should_stop: Asked while an archive is read.

    Raises:
        StoppedError: It was asked to stop.
        QlabError: As `load_model`.
    """
    name = name or _name_of(source)
    content = _content(source, limits)
    if not _is_weights(content, name, architecture):
        return read(content, name, limits, should_stop=should_stop)
    built = _weights(content, architecture, limits)
    examples = built.example_inputs or ()
    return UploadedModel(built.model, inputs_of(built.model, examples), examples)


def _is_weights(content: bytes, name: str, architecture: Architecture | None) -> bool:
    """Whether a file holds weights alone; it must fit whether an architecture is named."""
    kind = recognise(content, name)
    if kind is Kind.SAFETENSORS:
        return True
    if architecture is not None:
        raise ArgumentError(
            "The architecture is for weights in safetensors",
            received=f"{kind.value}, which holds its own architecture",
            fix="Leave architecture out.",
        )
    return False


def _weights(content: bytes, architecture: Architecture | None, limits: Limits) -> Built:
    if architecture is None:
        raise ArgumentError(
            "Weights alone are no model",
            expected="the architecture that they belong to",
            fix="Pass architecture=…: a name, a module, or a function that makes one.",
        )
    return load_weights(content, architecture, limits)


def read(
    source: Source,
    name: str = "",
    limits: Limits = _DEFAULT,
    *,
    should_stop: Stop | None = None,
) -> UploadedModel:
    """An uploaded ``.pt2`` archive: its graph, what it takes, and example inputs.

    Args:
        source: The path or the bytes.
        name: What the file is called, for messages.
        limits: Bounds on the file and on the process that reads it.
        should_stop: Asked while it is read.

    Raises:
        StoppedError: It was asked to stop.
        UnsupportedError: A pickle, code, or an operator that uploads may not call.
        FormatError: Damaged, inconsistent, too large or too slow.
        ArgumentError: No file there.
    """
    name = name or _name_of(source)
    content = _content(source, limits)
    kind = recognise(content, name)
    if kind is not Kind.ARCHIVE:
        raise UnsupportedError(
            "The file is no model with its architecture",
            expected="a .pt2 archive of torch.export.save",
            received=kind.value,
            fix="qlab.load_model(path, architecture=…) reads weights in safetensors.",
        )
    data, tensors = read_apart("model", content, name, limits, should_stop=should_stop)
    return assemble(data, tensors, limits)


def read_data(
    source: Source,
    name: str = "",
    limits: Limits = _DEFAULT,
    *,
    images: Preprocessing | None = None,
    should_stop: Stop | None = None,
) -> UploadedData:
    """Samples to calibrate with: ``.npz``, ``.npy``, ``.safetensors`` or a zip of images.

    Images become float32, shape (N, C, H, W), in the order of their names; where they lie in
    several folders, these are the classes. An integer array called ``labels`` (or ``label``,
    ``targets``, ``target``, ``y``) beside others holds the labels.

    Args:
        source: The path or the bytes.
        name: What the file is called, for messages.
        limits: Bounds on the file and on the process that reads it.
        images: What is done to images; if not given, they are values in [0, 1] of their own size.
        should_stop: Asked while it is read.

    Raises:
        StoppedError: It was asked to stop.
        UnsupportedError: Pickled objects, or a dtype that no model takes.
        FormatError: Damaged, NaN or infinite values, too large or too slow.
        ShapeError: No samples, or different numbers of them.
        ArgumentError: No file there.
    """
    name = name or _name_of(source)
    content = _content(source, limits)
    recognise(content, name)
    options = {} if images is None else asdict(images)
    return collect(
        *read_apart("data", content, name, limits, options=options, should_stop=should_stop)
    )


def _name_of(source: Any) -> str:
    return Path(source).name if isinstance(source, str | os.PathLike) else "upload"


def _content(source: Any, limits: Limits) -> bytes:
    """The file's bytes, if they are not too many."""
    if isinstance(source, bytes | bytearray | memoryview):
        limits.check("file_bytes", len(source), "The file is too large")
        return bytes(source)
    if not isinstance(source, str | os.PathLike):
        raise DTypeError(
            "An upload is a file",
            expected="a path, or the file's bytes",
            received=type(source).__name__,
        )
    try:
        limits.check("file_bytes", Path(source).stat().st_size, "The file is too large")
        return Path(source).read_bytes()
    except OSError as error:
        raise ArgumentError(
            "The file cannot be read", received=f"{str(source)!r} ({error.strerror})"
        ) from error
