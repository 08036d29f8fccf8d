"""Models and data from files, by the words of the command line; nothing in a file is run."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from qlab.errors import ArgumentError, QlabError, UnsupportedError
from qlab.io.uploads import (
    Limits,
    Preprocessing,
    Stop,
    UploadedData,
    UploadedModel,
    batch_of,
    made_up,
    matched,
    open_model,
    read_data,
)
from qlab.io.uploads.matching import inputs_of

#: What stands for random inputs in place of a file.
MADE_UP = "random"
MADE_UP_SAMPLES = 256
NOTHING_REAL = "Random numbers: ranges and errors say nothing about real data."
BATCH = 32
_SUFFIXES = (
    ".pt2", ".safetensors", ".npz", ".npy", ".zip", ".pt", ".pth", ".bin", ".ckpt", ".pkl", ".onnx",
)  # fmt: skip


def is_file(name: str) -> bool:
    """Whether a word of the command line means a file rather than a name or code."""
    return name.lower().endswith(_SUFFIXES) or Path(name).is_file() or _is_path(name)


def _is_path(name: str) -> bool:
    return "/" in name and ":" not in name


@dataclass(frozen=True, eq=False)
class FileData:
    """Data of a file, as a model takes them.

    Attributes:
        calibration: Batches.
        evaluation: Batches with labels; None where the file has none.
        about: What they are, in words.
        made_up: Whether they are random.
        batch: How many samples the model takes at once; None for any number.
        samples: How many there are.
        rows: Of each input, its name, what it takes and what it is given.
    """

    calibration: list[Any]
    evaluation: list[Any] | None
    about: str
    made_up: bool = False
    batch: int | None = None
    samples: int = 0
    rows: tuple[tuple[str, str, str], ...] = ()


def open_model_file(path: str, architecture: str | None) -> UploadedModel:
    """A model from a ``.pt2`` archive or from weights.

    Raises:
        ArgumentError: Weights without an architecture, or no such file.
        UnsupportedError: A pickle, ONNX, or an archive that holds more than data.
    """
    if path.lower().endswith(".onnx"):
        raise UnsupportedError(
            "qlab reads no ONNX models",
            expected="a .pt2 archive, or weights in .safetensors with their architecture",
            received=path,
            fix="Export the PyTorch model: torch.export.save(torch.export.export(model, inputs), "
            "'model.pt2').",
        )
    try:
        return open_model(path, architecture, limits=Limits.from_environment())
    except ArgumentError as error:
        if architecture is not None or "no model" not in error.problem:
            raise
        fix = "Name it: --architecture resnet18 (a sample model, or a name of torchvision or timm)."
        raise ArgumentError(error.problem, expected=error.expected, fix=fix) from error


def known_model(model: nn.Module, example_inputs: tuple[Any, ...]) -> UploadedModel:
    """A model at hand, with what its example inputs say that it takes."""
    return UploadedModel(model, inputs_of(model, example_inputs), example_inputs)


def preprocessing_for(
    model: UploadedModel, images: Preprocessing | Mapping[str, Any] | None
) -> Preprocessing:
    """What is done to images, with as many channels as the model takes where that is known."""
    asked = images if isinstance(images, Preprocessing) else Preprocessing.of(images or {})
    shape = model.inputs[0].shape if len(model.inputs) == 1 else ()
    if asked.channels is None and len(shape) == 4 and shape[1] in (1, 3):
        return replace(asked, channels=shape[1])
    return asked


def data_for(
    model: UploadedModel,
    name: str,
    images: Preprocessing | Mapping[str, Any] | None = None,
    *,
    content: bytes | None = None,
    limits: Limits | None = None,
    should_stop: Stop | None = None,
) -> FileData:
    """A file's data, or random ones, for a model that says what it takes.

    Args:
        model: The model.
        name: The file, or `MADE_UP`.
        images: What is done to images.
        content: The file's bytes where it is not to be opened by its name.
        limits: Those of the environment if not given.
        should_stop: Asked while it is read.

    Raises:
        StoppedError: It was asked to stop.
        QlabError: They do not fit, or the model does not run on them.
    """
    batch = batch_of(model.inputs)
    if name == MADE_UP:
        _must_say(model, name)
        data, about = made_up(model, MADE_UP_SAMPLES), NOTHING_REAL
    else:
        asked = preprocessing_for(model, images)
        data = read_data(
            name if content is None else content,
            name,
            limits or Limits.from_environment(),
            images=asked,
            should_stop=should_stop,
        )
        if model.inputs:
            data = matched(data, model.inputs)
        about = described(name, data, asked)
    whole = batch is not None
    calibration = data.batches(batch or BATCH, whole=whole)
    evaluation = None
    if data.labels is not None:
        evaluation = data.batches(batch or BATCH, labelled=True, whole=whole)
    try_out(model, calibration[0])
    rows = tuple(
        (each.name, str(each).removeprefix(f"{each.name} "), _given(data.inputs[each.name]))
        for each in model.inputs
        if each.name in data.inputs
    )
    return FileData(calibration, evaluation, about, name == MADE_UP, batch, len(data), rows)


def _given(x: Tensor) -> str:
    return f"{str(x.dtype).removeprefix('torch.')} {tuple(x.shape)}"


def _must_say(model: UploadedModel, name: str) -> None:
    if not model.inputs:
        raise ArgumentError(
            "What the model takes is not known, so no inputs can be made up for it",
            expected="data from a file or from package.module:loader",
            received=f"--data {name}",
        )


def data_by_name(
    model: nn.Module, name: str | None, images: Preprocessing | Mapping[str, Any] | None
) -> FileData:
    """A file's data for a person's own model, by the names of its forward's arguments.

    Raises:
        ArgumentError: Made-up data, or arrays that its arguments do not name.
    """
    if name is None or name == MADE_UP:
        _must_say(UploadedModel(model, (), ()), str(name))
    asked = preprocessing_for(UploadedModel(model, (), ()), images)
    data = read_data(str(name), limits=Limits.from_environment(), images=asked)
    arguments = list(inspect.signature(model.forward).parameters)
    if len(data.inputs) == 1:
        (x,) = data.inputs.values()
        data = replace(data, inputs={arguments[0] if arguments else "input": x})
    named = {key: data.inputs[key] for key in arguments if key in data.inputs}
    if not named:
        raise ArgumentError(
            "The data's names are none of the model's arguments",
            expected=", ".join(arguments),
            received=", ".join(data.inputs),
            fix="Name the arrays as the arguments of forward.",
        )
    data = replace(data, inputs=named)
    labelled = None if data.labels is None else data.batches(BATCH, labelled=True)
    return FileData(data.batches(BATCH), labelled, described(str(name), data, asked))


def described(name: str, data: UploadedData, images: Preprocessing) -> str:
    """What was found in a file and, of images, what was done to them, in words."""
    arrays = ", ".join(
        f"{key} {str(x.dtype).removeprefix('torch.')} {tuple(x.shape[1:])}"
        for key, x in data.inputs.items()
    )
    labels = "without labels" if data.labels is None else "with labels"
    done = f"; images {images}" if data.image_sizes else ""
    return f"{Path(name).name}: {len(data)} samples {labels}, {arrays}{done}"


def try_out(model: UploadedModel, batch: Any) -> None:
    """Runs a model on one batch, so that data which it cannot take are told of at once.

    Raises:
        ArgumentError: It does not run on them; with what it said.
    """
    inputs: Iterable[Any] = batch.values() if isinstance(batch, Mapping) else (batch,)
    try:
        with torch.no_grad():
            model.model(*inputs)
    except QlabError:
        raise
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ArgumentError(
            f"The model does not run on this data: {lines[0][:300]}",
            expected=", ".join(map(str, model.inputs)) or None,
            received=_shapes(batch),
            fix="Give data of the size and kind that the model was made for.",
        ) from error


def _shapes(batch: Any) -> str:
    parts = batch if isinstance(batch, Mapping) else {"a batch": batch}
    return ", ".join(f"{k} {tuple(v.shape)}" for k, v in parts.items() if isinstance(v, Tensor))
