"""What a cause of a layer's error is, what is known of the layer, and how a remedy is applied.

The causes themselves are in `qlab.analysis.cause_finders`, the measuring of what their remedies
gain in `qlab.analysis.diagnosis`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, Protocol

import torch
from torch import Tensor

from qlab import presets
from qlab.errors import DTypeError, UnsupportedError
from qlab.granularity import PerTensor
from qlab.qconfig import Address, QConfig, QConfigMapping, qconfig_of
from qlab.ranges import MSE, Fixed, QuantizationError, TensorSpec
from qlab.stats import TensorStats

Which = Literal["weight", "activation"]
MSE_LABEL = "Choose the range by least squared error"


class Remedy(Protocol):
    """Anything that makes a new configuration of one; it leaves its argument as it is."""

    def __call__(self, mapping: QConfigMapping, /) -> QConfigMapping: ...


@dataclass(frozen=True)
class SpecChange:
    """One tensor of one layer quantized in another way.

    Attributes:
        address: The layer whose rule changes.
        tensor: ``"weight"`` or ``"activation"`` (its output).
        spec: How it is to be quantized.
        found: The layer's qconfig where the cause was found; it gives the other tensor's part
            where the mapping leaves the layer in float.
    """

    address: Address
    tensor: Which
    spec: TensorSpec
    found: QConfig

    @property
    def layer(self) -> str:
        """Its name."""
        return self.address.name

    def __call__(self, mapping: QConfigMapping) -> QConfigMapping:
        """A copy of ``mapping`` in which the layer has it; its other tensor stays as it is."""
        base = self.address.resolve(mapping).qconfig or self.found
        made = qconfig_of(self.spec, self.spec)
        changed = (
            QConfig(base.activation, made.weight)
            if self.tensor == "weight"
            else QConfig(made.activation, base.weight)
        )
        return self.address.give(mapping.copy(), changed)


@dataclass(frozen=True)
class SpecChanges:
    """A remedy made of changes that belong together, such as that of all inputs of a layer.

    Attributes:
        changes: Applied in this order.
    """

    changes: tuple[SpecChange, ...]

    def __call__(self, mapping: QConfigMapping) -> QConfigMapping:
        """A copy of ``mapping`` with a rule for each layer involved."""
        for change in self.changes:
            mapping = change(mapping)
        return mapping


def fixed(spec: TensorSpec) -> bool:
    """Whether the range is given, whatever the data."""
    return isinstance(spec.policy, Fixed)


def can_search(spec: TensorSpec) -> bool:
    """Whether the range of least squared error would be another choice than the spec's own."""
    return not isinstance(spec.policy, MSE | Fixed)


def searched(spec: TensorSpec) -> TensorSpec:
    """The spec with the range of least squared error, where that is another choice."""
    return replace(spec, policy=MSE()) if can_search(spec) else spec


@dataclass(frozen=True)
class Cause:
    """One reason for a layer's error.

    Attributes:
        kind: Short name of the cause, such as ``"channel spread"``.
        layer: The layer that it was found in.
        tensor: ``"weight"``, ``"activation"`` (the layer's output) or ``"input"``.
        value: The measured number.
        threshold: From which value on it counts as a cause.
        sentence: The cause in words, with its number.
        remedy: What would avoid it, as a change of configurations; None where none would.
        remedy_label: What helps, as a button would say; where ``remedy`` is None, what to do
            outside the configuration.
        gain: Change of the layer's output SQNR under the remedy [dB], measured, higher is better;
            None where there is no remedy to measure, or where measuring takes calibration data
            that the Lab was loaded without; 0 without a remedy where the cause costs no precision.
    """

    kind: str
    layer: str
    tensor: str
    value: float
    threshold: float
    sentence: str
    remedy: Remedy | None
    remedy_label: str
    gain: float | None = None
    algorithms: tuple[str, ...] = ()

    def apply(self, mapping: QConfigMapping | str) -> QConfigMapping:
        """The configuration with the remedy in it; ``mapping`` stays as it is.

        Args:
            mapping: The configuration, or a preset's name.

        Raises:
            DTypeError: Neither of them.
            UnknownNameError: No preset has this name.
            UnsupportedError: No configuration avoids this cause; says what would.
        """
        if self.remedy is None:
            raise UnsupportedError(
                f"No change of the configuration avoids the cause {self.kind!r} of {self.layer!r}",
                received=self.sentence.rstrip("."),
                fix=f"{self.remedy_label}.",
            )
        if isinstance(mapping, str):
            mapping = presets.get(mapping).mapping()
        if not isinstance(mapping, QConfigMapping):
            raise DTypeError(
                "Not a configuration",
                expected="a QConfigMapping, or the name of a preset",
                received=type(mapping).__name__,
            )
        return self.remedy(mapping)


@dataclass(frozen=True)
class Quantized:
    """One tensor of a layer together with how it is quantized.

    Attributes:
        kind: ``"weight"`` or ``"activation"``.
        spec: How it is quantized.
        stats: What it looks like, per channel where it has channels.
        error: What quantizing it costs.
        channel_axis: Axis of its channels, for a remedy that gives each its scale.
        channel_size: Number of values of one channel; 0 where that is no parameter to save.
    """

    kind: Which
    spec: TensorSpec
    stats: TensorStats
    error: QuantizationError
    channel_axis: int = 0
    channel_size: int = 0

    @property
    def channel_ranges(self) -> Tensor:
        """Largest magnitude of each channel, float32 (C,); empty where there are no channels."""
        if self.stats.channel_axis is None:
            return torch.zeros(0)
        found = torch.maximum(self.stats.channel_min.abs(), self.stats.channel_max.abs())
        return found[found.isfinite()]

    @property
    def one_scale(self) -> bool:
        """Whether all of the tensor shares one scale."""
        return isinstance(self.spec.granularity, PerTensor)


@dataclass(frozen=True)
class Operand:
    """A tensor that an addition or a concatenation reads.

    Attributes:
        name: The layer that it comes from.
        reach: Its largest magnitude during calibration, real units.
    """

    name: str
    reach: float


@dataclass(frozen=True)
class Source:
    """A quantized tensor that a layer reads, and who decides how it is quantized.

    Attributes:
        asker: Address of the layer whose activation spec decides.
        spec: How the tensor is quantized.
        found: That layer's qconfig.
    """

    asker: Address
    spec: TensorSpec
    found: QConfig


@dataclass(frozen=True)
class Evidence:
    """What is known of a layer under a configuration, for the causes to be found in.

    Attributes:
        address: The layer's.
        row: Its row in the registry, such as ``"conv2d"``.
        found: Its qconfig.
        tensors: Its weight and its output, those that are quantized.
        operands: What an addition or a concatenation reads; empty for other layers.
        sources: Its quantized inputs, whose scales calibration or a parameter gave.
        input_share: Share of the squared error of the layer's output that remains if only its
            inputs are quantized, measured; None where none of them is.
        shift_share: Share of it that is the mean error of each channel, measured; None for a layer
            without a quantized weight.
    """

    address: Address
    row: str
    found: QConfig
    tensors: tuple[Quantized, ...] = ()
    operands: tuple[Operand, ...] = ()
    sources: tuple[Source, ...] = ()
    input_share: float | None = None
    shift_share: float | None = None

    @property
    def name(self) -> str:
        """The layer."""
        return self.address.name

    def change(self, tensor: Which, spec: TensorSpec) -> SpecChange:
        """The layer itself with another spec for one of its tensors."""
        return SpecChange(self.address, tensor, spec, self.found)
