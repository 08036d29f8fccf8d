"""Weights in safetensors, put into an architecture that code on this machine builds."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from qlab.errors import ArgumentError, FormatError, UnknownNameError
from qlab.io.uploads.arrays import read_safetensors
from qlab.io.uploads.limits import Limits
from qlab.io.uploads.strict_json import shown

Architecture = str | nn.Module | Callable[[], nn.Module]


def _from_samples(library: Any, name: str) -> nn.Module | None:
    return library.load(name).model if name in library.names() else None


def _from_torchvision(library: Any, name: str) -> nn.Module | None:
    models = library.models
    return models.get_model(name, weights=None) if name in models.list_models() else None


def _from_timm(library: Any, name: str) -> nn.Module | None:
    return library.create_model(name, pretrained=False) if name in library.list_models() else None


def _names(library: Any) -> list[str]:
    if hasattr(library, "list_models"):
        return list(library.list_models())
    return list(library.models.list_models() if hasattr(library, "models") else library.names())


#: Modules that know architectures by name, asked in this order where they can be imported.
SOURCES: dict[str, Callable[[Any, str], nn.Module | None]] = {
    "sample_models": _from_samples,
    "torchvision": _from_torchvision,
    "timm": _from_timm,
}


def load_weights(content: bytes, architecture: Architecture, limits: Limits) -> nn.Module:
    """A float model: the architecture with the file's weights in it.

    Args:
        content: A safetensors file.
        architecture: A sample model's name, a name of torchvision or timm where they are
            installed, a module (which is filled), or a function that makes one. Nothing is
            downloaded.
        limits: Bounds on the file.

    Returns:
        The model in eval mode, no parameter requiring gradients.

    Raises:
        FormatError: Damaged, or weights of another architecture: lists what is missing, what is
            left over and what has another shape.
        UnknownNameError: No source knows the name.
    """
    tensors = read_safetensors(content, limits)
    model = _built(architecture)
    _check_fit(model, tensors, architecture)
    model.load_state_dict(tensors, strict=True)
    return model.eval().requires_grad_(False)


def _built(architecture: Architecture) -> nn.Module:
    if isinstance(architecture, nn.Module):
        return architecture
    if isinstance(architecture, str):
        return _by_name(architecture)
    model = architecture()
    if not isinstance(model, nn.Module):
        raise ArgumentError(
            "The architecture is no model",
            expected="a name, a torch.nn.Module, or a function that returns one",
            received=type(model).__name__,
        )
    return model


def _by_name(name: str) -> nn.Module:
    """The model that a source makes of a name; the global random state is left alone."""
    known: list[str] = []
    for source, build in SOURCES.items():
        try:
            library = importlib.import_module(source)
        except ImportError:
            continue
        with torch.random.fork_rng(devices=[]):
            model = build(library, name)
        if model is not None:
            return model
        known += _names(library)
    raise UnknownNameError.of("architecture", name, known)


def _check_fit(model: nn.Module, tensors: dict[str, Any], architecture: Architecture) -> None:
    expected = model.state_dict()
    shapes = [
        f"{key}: {tuple(tensors[key].shape)} instead of {tuple(value.shape)}"
        for key, value in expected.items()
        if key in tensors and tensors[key].shape != value.shape
    ]
    problems = {
        "missing": [key for key in expected if key not in tensors],
        "not of this architecture": [key for key in tensors if key not in expected],
        "of another shape": shapes,
    }
    found = [f"{len(v)} {k} ({shown(v)})" for k, v in problems.items() if v]
    if found:
        title = architecture if isinstance(architecture, str) else type(model).__name__
        raise FormatError(
            f"The weights are not those of {title}",
            expected=f"the {len(expected)} tensors of its state dict",
            received="; ".join(found),
            fix="Choose the architecture that the weights were saved from.",
        )
