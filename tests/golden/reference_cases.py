"""Models that are converted to reference form, by torch's quantization or by qlab's."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Network(nn.Module):
    """Convolutions with batch norm, a residual, pooling, a linear layer, sigmoid."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.second, self.pool = nn.Conv2d(4, 4, 3, padding=1), nn.MaxPool2d(2)
        self.linear, self.sigmoid = nn.Linear(4 * 9, 5), nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm(self.conv(x)))
        y = self.pool(self.second(y) + y)
        return self.sigmoid(self.linear(torch.flatten(y, 1)))


class Recurrent(nn.Module):
    """Layers and a cell, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.gru = nn.LSTM(3, 4, 2, bidirectional=True), nn.GRU(8, 4)
        self.cell, self.linear = nn.LSTMCell(4, 4), nn.Linear(4, 4)
        self.gated, self.plain = nn.GRUCell(4, 4), nn.RNNCell(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.gru(self.lstm(x)[0])
        h, _ = self.cell(y[0])
        return self.plain(self.gated(self.linear(h)))


def convolutions(rank: int) -> nn.Module:
    """A convolution, ReLU and a transposed convolution."""
    first: Any = getattr(nn, f"Conv{rank}d")
    second: Any = getattr(nn, f"ConvTranspose{rank}d")
    return nn.Sequential(first(2, 4, 3, padding=1), nn.ReLU(), second(4, 2, 3, stride=2, padding=1))


def mapping_of(q: ModuleType, weight: str) -> Any:
    """Min-max observers, which are exact where histograms would differ."""
    makes = getattr(q, weight)
    fixed = q.QConfig(q.default_fixed_qparams_range_0to1_observer, makes)
    mapping = q.QConfigMapping().set_global(q.QConfig(q.default_observer, makes))
    return mapping.set_object_type(nn.Sigmoid, fixed)


def default(q: ModuleType) -> Any:
    return mapping_of(q, "default_weight_observer")


def per_channel(q: ModuleType) -> Any:
    return mapping_of(q, "default_per_channel_weight_observer")


def dynamic(q: ModuleType) -> Any:
    return q.QConfigMapping().set_global(q.default_dynamic_qconfig)


def float16(q: ModuleType) -> Any:
    return q.QConfigMapping().set_global(q.float16_static_qconfig)


def embedding(q: ModuleType) -> Any:
    return q.QConfigMapping().set_global(q.float_qparams_weight_only_qconfig)


@dataclass(frozen=True)
class Case:
    """One model, how it is quantized, and the shape of its input."""

    name: str
    model: Callable[[], nn.Module]
    mapping: Callable[[ModuleType], Any]
    shape: tuple[int, ...]
    indices: bool = False
    half: bool = False

    def inputs(self) -> Tensor:
        """Two batches: to calibrate with, and beyond its range to convert."""
        if self.indices:
            return torch.randint(0, 9, (2, *self.shape))
        x = torch.randn(2, *self.shape)
        x[1] *= 1.5
        return x


CASES = (
    Case("network", Network, default, (2, 3, 6, 6)),
    Case("network_per_channel", Network, per_channel, (2, 3, 6, 6)),
    *(Case(f"conv{n}d", lambda n=n: convolutions(n), default, (2, 2, *[5] * n)) for n in (1, 2, 3)),
    Case("float16", Network, float16, (2, 3, 6, 6), half=True),
    Case("recurrent", Recurrent, dynamic, (5, 2, 3)),
    Case("embedding", lambda: nn.Sequential(nn.Embedding(9, 4)), embedding, (2, 3), True),
    Case("bag", lambda: nn.Sequential(nn.EmbeddingBag(9, 4, mode="sum")), embedding, (2, 3), True),
)


def run(q: ModuleType, fx: ModuleType, case: Case, model: nn.Module, x: Tensor) -> list[Tensor]:
    """Outputs for the second batch of the model in reference form, and of the integer model.

    Args:
        q: The module ``quantization``.
        fx: Its module ``quantize_fx``.
        case: The case.
        model: Its float model.
        x: What `Case.inputs` gave.
    """
    native = importlib.import_module(f"{q.__name__}.backend_config.native")
    backend = native.get_test_only_legacy_native_backend_config() if case.half else None
    prepared = fx.prepare_fx(model.eval(), case.mapping(q), (x[0],), backend_config=backend)
    with torch.no_grad():
        prepared(x[0])
        twin = copy.deepcopy(prepared)
        reference = fx.convert_to_reference_fx(twin, backend_config=backend)(x[1])
        return [reference, fx.convert_fx(prepared, backend_config=backend)(x[1])]
