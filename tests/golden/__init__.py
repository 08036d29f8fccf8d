"""Golden vectors: what torch 2.13's own, deprecated quantization computes.

The ``make_*.py`` scripts wrote the files of vectors beside them and are the only files of the
suite that call it. A ``.npz`` file holds one flat array per number type and ``index``, JSON: a
list of cases whose tensors name their place in those arrays. (``observers.safetensors`` is read
by its own test.)
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qlab.dtypes import as_qdtype
from qlab.granularity import PerAxis, PerTensor
from qlab.qparams import QParams

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Case:
    """One call of the reference.

    Attributes:
        op: The operator or class called.
        tensors: Inputs and results by name; of quantized ones the codes.
        qparams: Parameters of the quantized ones.
        kwargs: Everything else that was passed.
    """

    op: str
    tensors: dict[str, Tensor]
    qparams: dict[str, QParams]
    kwargs: dict[str, Any]

    def pair(self, name: str) -> tuple[Tensor, QParams]:
        """Codes and parameters of a quantized tensor."""
        return self.tensors[name], self.qparams[name]

    def __repr__(self) -> str:
        return f"{self.op}({self.kwargs})"


@cache
def load(family: str) -> tuple[Case, ...]:
    """Every case of ``tests/golden/<family>.npz``."""
    with np.load(FOLDER / f"{family}.npz", allow_pickle=False) as file:
        flat = {name: file[name] for name in file.files if name != "index"}
        index = json.loads(bytes(file["index"]))
    return tuple(_case(entry, flat) for entry in index)


def _case(entry: dict[str, Any], flat: dict[str, np.ndarray]) -> Case:
    tensors = {name: _tensor(place, flat) for name, place in entry["tensors"].items()}
    qparams = {name: _qparams(stored, flat) for name, stored in entry["qparams"].items()}
    return Case(entry["op"], tensors, qparams, entry["kwargs"])


def _tensor(place: dict[str, Any], flat: dict[str, np.ndarray]) -> Tensor:
    start, shape = place["start"], place["shape"]
    values = flat[place["dtype"]][start : start + prod(shape)]
    tensor = torch.from_numpy(values.copy()).reshape(shape)
    if place.get("channels_last"):
        formats = {4: torch.channels_last, 5: torch.channels_last_3d}
        tensor = tensor.contiguous(memory_format=formats[tensor.dim()])
    return tensor


def _qparams(stored: dict[str, Any], flat: dict[str, np.ndarray]) -> QParams:
    axis = stored["axis"]
    return QParams(
        _tensor(stored["scale"], flat),
        _tensor(stored["zero_point"], flat),
        as_qdtype(stored["dtype"]),
        PerTensor() if axis is None else PerAxis(axis),
    )
