"""One golden case for every public name that no other golden file exercises.

A case is a function that makes the same calls on whichever library it is handed, torch's own
quantization or qlab, and returns what came out: tensors, quantized tensors, numbers, names, nested
as they come. Inputs and weights are fractions computed here, so that only results are stored.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Library:
    """Where a library has its names.

    Attributes:
        top: Module with ``quantize_per_tensor``, ``quint8``, …
        root: Package of ``quantization`` and ``nn``.
    """

    top: str
    root: str

    def __getitem__(self, path: str) -> Any:
        """``"nn.quantized.Linear"`` → that class; a path without a dot is a name of ``top``."""
        if "." not in path:
            return getattr(importlib.import_module(self.top), path)
        module, _, name = path.rpartition(".")
        return getattr(importlib.import_module(f"{self.root}.{module}"), name)

    @cached_property
    def quantization(self) -> ModuleType:
        """The module ``quantization``."""
        return importlib.import_module(f"{self.root}.quantization")

    @cached_property
    def quantize_fx(self) -> ModuleType:
        """The module ``quantization.quantize_fx``."""
        return importlib.import_module(f"{self.root}.quantization.quantize_fx")

    def codes(self, *shape: int, seed: int = 0, dtype: str = "quint8") -> Any:
        """A quantized tensor with one scale."""
        zero_point = 100 if dtype == "quint8" else -3
        x = numbers(*shape, seed=seed) * 4
        return self["quantize_per_tensor"](x, 0.03125, zero_point, self[dtype])


QLAB = Library("qlab", "qlab")

Case = Callable[[Library], Any]
"""Calls a library and returns what came out."""


def numbers(*shape: int, seed: int = 0) -> Tensor:
    """Float32 numbers between -1 and 1, scattered, the same on any machine."""
    count = torch.Size(shape).numel()
    places = torch.arange(count) + seed * 1009
    return ((places * places * 7919 + places * 13) % 2003 / 1001 - 1).reshape(shape)


def filled(module: nn.Module, seed: int = 1) -> nn.Module:
    """The module with every parameter and statistic set to `numbers`; variances positive."""
    with torch.no_grad():
        for number, (name, value) in enumerate(module.state_dict(keep_vars=True).items()):
            if value.is_floating_point():
                fresh = numbers(*value.shape, seed=seed + number)
                value.copy_(fresh.abs() + 0.5 if name.endswith("_var") else fresh * 0.7)
    return module


def classes(model: nn.Module) -> dict[str, str]:
    """Class name of every module, by path; without the one in which the reference packs weights."""
    return {
        path or "-": type(module).__name__
        for path, module in model.named_modules()
        if not path.endswith("_packed_params")
    }


def flat(value: Any, key: str = "") -> dict[str, Any]:
    """Nested results as one level: tensors, numbers and strings by path."""
    if isinstance(value, Tensor) and value.is_quantized:
        return flat(_taken_apart(value), key)
    if isinstance(value, Tensor):
        return {key: value.detach().clone().contiguous()}
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    else:
        return {key: value}
    prefix = f"{key}." if key else ""
    return {k: v for name, item in items for k, v in flat(item, f"{prefix}{name}").items()}


def _taken_apart(q: Any) -> dict[str, Any]:
    """Codes, parameters and type of a quantized tensor of either library."""
    scheme = str(q.qscheme()).rpartition(".")[2]
    told = {"codes": q.int_repr(), "scheme": scheme, "dtype": dtype_of(q)}
    if scheme.startswith("per_tensor"):
        return told | {"scale": q.q_scale(), "zero_point": q.q_zero_point()}
    return told | {
        "scale": q.q_per_channel_scales(),
        "zero_point": q.q_per_channel_zero_points().double(),
        "axis": q.q_per_channel_axis(),
    }


def dtype_of(value: Any) -> str:
    """``"quint8"`` for a quantized tensor, or an observer, of either library."""
    name = str(getattr(value, "qdtype", value.dtype)).rpartition(".")[2]
    return "quint4" if name == "quint4x2" else name
