"""Weights in safetensors, put into an architecture that code on this machine builds."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from qlab.errors import ArgumentError, FormatError, UnknownNameError
from qlab.io.uploads.arrays import read_safetensors
from qlab.io.uploads.limits import Limits
from qlab.io.uploads.strict_json import shown

Architecture = str | nn.Module | Callable[[], nn.Module]


@dataclass(frozen=True, eq=False)
class Built:
    """A model without weights of its own yet.

    Attributes:
        model: The architecture.
        example_inputs: Of one call; None where only its author knows.
    """

    model: nn.Module
    example_inputs: tuple[Tensor, ...] | None = None


@dataclass(frozen=True)
class Source:
    """A library that knows architectures by name.

    Attributes:
        names: All of them.
        build: One of them, without downloading anything.
    """

    names: Callable[[Any], Iterable[str]]
    build: Callable[[Any, str], Built]


def _sample(library: Any, name: str) -> Built:
    sample = library.load(name)
    return Built(sample.model, sample.example_inputs)


def _torchvision_names(library: Any) -> Iterable[str]:
    # Classification alone: other tasks take lists of images, or fetch the weights of a backbone.
    return library.models.list_models(module=library.models)


def _torchvision(library: Any, name: str) -> Built:
    models = library.models
    transforms = models.get_model_weights(name).DEFAULT.transforms()
    return Built(models.get_model(name, weights=None), (torch.zeros(1, 3, *_side(transforms)),))


def _side(transforms: Any) -> tuple[int, int]:
    side = transforms.crop_size
    return (side[0], side[-1]) if isinstance(side, list | tuple) else (side, side)


def _timm(library: Any, name: str) -> Built:
    model = library.create_model(name, pretrained=False)
    return Built(model, (torch.zeros(1, *model.default_cfg["input_size"]),))


#: Modules that know architectures by name, asked in this order where they can be imported.
SOURCES: dict[str, Source] = {
    "sample_models": Source(lambda library: library.names(), _sample),
    "torchvision": Source(_torchvision_names, _torchvision),
    "timm": Source(lambda library: library.list_models(), _timm),
}


def architecture_names() -> dict[str, tuple[str, ...]]:
    """Names of architectures by the library that knows them, of those that are installed."""
    return {name: tuple(source.names(library)) for name, source, library in _installed()}


def _installed() -> Iterator[tuple[str, Source, Any]]:
    for name, source in SOURCES.items():
        try:
            library = importlib.import_module(name)
        except ImportError:
            continue
        yield name, source, library


def load_weights(content: bytes, architecture: Architecture, limits: Limits) -> Built:
    """A float model: the architecture with the file's weights in it.

    Args:
        content: A safetensors file.
        architecture: A sample model's name, a name of torchvision or timm where they are
            installed, a module (which is filled), or a function that makes one. Nothing is
            downloaded.
        limits: Bounds on the file.

    Returns:
        The model in eval mode, no parameter requiring gradients, and inputs of one call.

    Raises:
        FormatError: Damaged, or weights of another architecture: lists what is missing, what is
            left over, what has another shape, and what holds integers in place of floats.
        UnknownNameError: No source knows the name.
    """
    tensors = read_safetensors(content, limits)
    built = _built(architecture)
    _check_fit(built.model, tensors, architecture)
    built.model.load_state_dict(tensors, strict=True)
    built.model.eval().requires_grad_(False)
    return built


def _built(architecture: Architecture) -> Built:
    if isinstance(architecture, nn.Module):
        return Built(architecture)
    if isinstance(architecture, str):
        return _by_name(architecture)
    model = architecture() if callable(architecture) else architecture
    if not isinstance(model, nn.Module):
        raise ArgumentError(
            "The architecture is no model",
            expected="a name, a torch.nn.Module, or a function that returns one",
            received=type(model).__name__,
        )
    return Built(model)


def _by_name(name: str) -> Built:
    """The model that a source makes of a name; the global random state is left alone."""
    known: list[str] = []
    for _, source, library in _installed():
        names = list(source.names(library))
        if name in names:
            with torch.random.fork_rng(devices=[]):
                return source.build(library, name)
        known += names
    raise UnknownNameError.of("architecture", name, known)


def _check_fit(model: nn.Module, tensors: dict[str, Any], architecture: Architecture) -> None:
    expected = model.state_dict()
    shapes = [
        f"{key}: {tuple(tensors[key].shape)} instead of {tuple(value.shape)}"
        for key, value in expected.items()
        if key in tensors and tensors[key].shape != value.shape
    ]
    kinds = [
        f"{key}: {_kind(tensors[key])} instead of {_kind(value)}"
        for key, value in expected.items()
        if key in tensors and tensors[key].is_floating_point() != value.is_floating_point()
    ]
    problems = {
        "missing": [key for key in expected if key not in tensors],
        "not of this architecture": [key for key in tensors if key not in expected],
        "of another shape": shapes,
        "of another dtype": kinds,
    }
    found = [f"{len(v)} {k} ({shown(v)})" for k, v in problems.items() if v]
    if found:
        title = architecture if isinstance(architecture, str) else type(model).__name__
        raise FormatError(
            f"The weights are not those of {title}",
            expected=f"the {len(expected)} tensors of its state dict",
            received="; ".join(found),
            fix="Choose the architecture that the weights were saved from; save them as floats.",
        )


def _kind(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
