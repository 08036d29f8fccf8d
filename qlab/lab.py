"""`Lab`: one model, its calibration data, and every question about quantizing it."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from qlab import presets
from qlab.analysis.batches import Batches
from qlab.analysis.calibration import Calibration, Progress, Stop
from qlab.analysis.causes import Cause
from qlab.analysis.hooked import study_of
from qlab.analysis.layers import Layer
from qlab.analysis.report import Report
from qlab.analysis.what_if import WhatIf, causes_of, compare_policies, what_if
from qlab.errors import ArgumentError, DTypeError, TraceError, UnknownNameError
from qlab.execution import usable_device
from qlab.graph import Plan
from qlab.io.checkpoint import save_quantized
from qlab.io.files import write_atomically
from qlab.qconfig import QConfigMapping
from qlab.qparams import QParams
from qlab.ranges import QuantizationError, TensorSpec
from qlab.stats import TensorStats

Mapping = QConfigMapping | str | None
DEFAULT_PRESET = "int8"


class Lab:
    """What-ifs about one model, answered from one calibration pass.

    Args:
        model: A float model; it is copied, never changed. One that cannot become a graph is worked
            on layer by layer, through hooks (`traced`, `trace_error`).
        example_inputs: Inputs of one call: a tensor or a tuple of positional inputs.
        calibration: Batches of inputs (see `qlab.analysis.batches.Batches`).
        evaluation: Batches of (inputs, labels) on which `compare` measures; the calibration data
            if not given.
        device: Where everything runs; the model's own device if not given.

    Raises:
        ArgumentError: Example inputs that do not fit the model, or no such device.
    """

    def __init__(
        self,
        model: nn.Module,
        example_inputs: Tensor | tuple[Any, ...],
        calibration: Any,
        evaluation: Any = None,
        device: torch.device | str | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise DTypeError(
                "Lab needs a model", expected="a torch.nn.Module", received=type(model).__name__
            )
        home = _device_of(model)
        self.device = usable_device(home if device is None else device)
        inputs = example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)
        self._calibration_data = Batches(calibration, len(inputs), self.device, "calibration")
        self._evaluation_data = (
            Batches(evaluation, len(inputs), self.device, "evaluation")
            if evaluation is not None
            else self._calibration_data
        )
        example = tuple(_to(x, self.device) for x in inputs)
        here = model if home == self.device else copy.deepcopy(model).to(self.device)
        self._study = study_of(here, example, self._calibration_data)
        self.layers: tuple[Layer, ...] = self._study.layers(self.plan())

    @property
    def traced(self) -> bool:
        """Whether the model is a graph; else it is quantized layer by layer, through hooks."""
        return self._study.trace_error is None

    @property
    def trace_error(self) -> TraceError | None:
        """What kept the model from becoming a graph: module, file, line, why; None if nothing."""
        return self._study.trace_error

    @property
    def graph(self) -> fx.GraphModule:
        """The float graph after fusion; not to be changed.

        Raises:
            UnsupportedError: The model has no graph; says why.
        """
        return self._study.whole_graph("Lab.graph")

    def layer(self, name: str) -> Layer:
        """One layer by name.

        Raises:
            UnknownNameError: No layer has this name; lists them.
        """
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise UnknownNameError.of("layer", name, [layer.name for layer in self.layers])

    def plan(self, mapping: Mapping = None) -> Plan:
        """The truth table of a configuration: what was asked for each layer, what it gets, why.

        Args:
            mapping: A `QConfigMapping`, a preset's name, or None for the default preset.

        Raises:
            UnknownNameError: No preset has this name.
            DTypeError: Neither a mapping nor a name.
        """
        return self._study.plan(resolve_mapping(mapping))

    @property
    def calibrated(self) -> Calibration | None:
        """What calibration saw, or None before it ran."""
        return self._study.calibration

    def calibrate(
        self, on_progress: Progress | None = None, should_stop: Stop | None = None
    ) -> Calibration:
        """Runs the float model over the calibration data once; later calls return at once.

        Every other question asks for it on its own; call it to show progress or to stop early.
        A stopped pass keeps what it saw, and the next call starts anew over all data.

        Args:
            on_progress: Called as ``(done, total, label)`` after each batch.
            should_stop: Asked after each batch.

        Raises:
            NonFiniteError: NaN in the float model; names the first layer that produced it.
        """
        return self._study.calibrate(on_progress, should_stop)

    def statistics(self, name: str, kind: str = "activation") -> TensorStats:
        """What one tensor of a layer looked like in float.

        Args:
            name: A layer.
            kind: ``"activation"`` (its output), ``"input"`` (its first tensor input) or
                ``"weight"``.

        Raises:
            UnknownNameError: No such layer or kind, or the layer has no such tensor.
        """
        probe = self._study.probe(name)
        if kind == "weight":
            return probe.weight_stats()
        if kind == "activation":
            return self._study.stats(probe.node)
        if kind == "input":
            return self._study.stats(probe.inputs[0])
        raise UnknownNameError.of("kind of tensor", kind, ["activation", "input", "weight"])

    def weight(self, name: str) -> Tensor:
        """A layer's float weight after fusion, output channels first.

        Raises:
            UnknownNameError: No such layer, or it has no weight.
        """
        return self._study.probe(name).weight()

    def qparams(self, name: str, spec: TensorSpec, kind: str = "activation") -> QParams:
        """Scale and zero point that a spec gives a tensor of a layer, from cached statistics.

        Args:
            name: A layer.
            spec: How to quantize.
            kind: ``"activation"`` (its output), ``"input"`` or ``"weight"``.

        Raises:
            UnknownNameError: As `statistics`.
        """
        probe = self._study.probe(name)
        if kind == "weight":
            return spec.qparams_of(probe.weight())
        self.statistics(name, kind)
        node = probe.node if kind == "activation" else probe.inputs[0]
        return self._study.activation_qparams(node, spec)

    def convert(self, mapping: Mapping = None) -> nn.Module:
        """The quantized model of a configuration, with ranges from the cached statistics.

        Args:
            mapping: A `QConfigMapping`, a preset's name, or None for the default preset.

        Returns:
            The same type as ``convert_fx`` gives; a copy that the caller may change. Of a model
            that has no graph, a copy whose quantized layers each take and give real numbers.
        """
        return self._study.network(resolve_mapping(mapping))

    def compare(
        self,
        mapping: Mapping = None,
        *,
        on_progress: Progress | None = None,
        should_stop: Stop | None = None,
    ) -> Report:
        """Every layer's local and accumulated error, and the network's own, measured.

        The quantized network that is measured is the one that `convert` returns and `export`
        writes, run on the evaluation data beside the float network.

        Args:
            mapping: A `QConfigMapping`, a preset's name, or None for the default preset.
            on_progress: Called as ``(done, total, label)`` after each batch.
            should_stop: Asked after each batch; the report then covers what was seen.

        Raises:
            NonFiniteError: NaN or infinity in a layer; names it.
        """
        return self._study.compare(
            resolve_mapping(mapping),
            self._evaluation_data,
            on_progress=on_progress,
            should_stop=should_stop,
        )

    def what_if(
        self,
        name: str,
        weight: TensorSpec | None = None,
        activation: TensorSpec | None = None,
        *,
        mapping: Mapping = None,
    ) -> WhatIf:
        """What one layer would lose if it were quantized in another way; nothing is applied.

        Tensor errors come from the weight itself and from the output's cached statistics; the
        output SQNR from running the layer alone on the float inputs of a small cached sample.

        Args:
            name: The layer.
            weight: How to quantize its weight; as ``mapping`` has it if not given.
            activation: How to quantize its output; as ``mapping`` has it if not given.
            mapping: The configuration that the layer's inputs and unchanged parts come from.

        Raises:
            UnknownNameError: No such layer.
            ArgumentError: A weight spec for a layer that has no weight.
            UnsupportedError: The layer has no quantized form.
        """
        return what_if(self._study, self.plan(mapping), name, weight, activation)

    def causes(self, name: str, mapping: Mapping = None) -> tuple[Cause, ...]:
        """Why a layer loses precision, largest gain first, each gain measured by its remedy.

        Args:
            name: The layer.
            mapping: The configuration under which it is judged.

        Raises:
            UnknownNameError: No such layer.
        """
        return causes_of(self._study, self.plan(mapping), name)

    def policies(
        self, name: str, spec: TensorSpec, kind: str = "activation"
    ) -> dict[str, QuantizationError]:
        """Every range policy on one tensor under an otherwise equal spec, by the policy's label.

        Policies that do not apply to the spec's data type or granularity are left out.

        Raises:
            UnknownNameError: No such layer, or it has no weight.
        """
        return compare_policies(self._study, name, spec, kind)

    def export(self, path: str | os.PathLike[str], mapping: Mapping = None) -> Path:
        """Writes the quantized model or its recipe, by suffix; whole or not at all.

        ``.safetensors``: codes, scales and graph, read back by `qlab.load_quantized`.
        ``.json``: the `QConfigMapping`, read back by ``QConfigMapping.from_json``.

        Raises:
            ArgumentError: Another suffix.
            UnsupportedError: A checkpoint of a model that has no graph.
        """
        target, resolved = Path(path), resolve_mapping(mapping)
        if target.suffix == ".safetensors":
            self._study.whole_graph("A checkpoint")
            return save_quantized(self._study.converted(resolved), target)
        if target.suffix == ".json":
            write_atomically(target, resolved.to_json().encode())
            return target
        raise ArgumentError(
            "Lab.export writes by suffix",
            expected="a path that ends in .safetensors or .json",
            received=str(path),
        )


def resolve_mapping(mapping: Mapping) -> QConfigMapping:
    """A configuration from any of its spellings.

    Raises:
        UnknownNameError: No preset has this name.
        DTypeError: Neither a `QConfigMapping`, a preset's name nor None.
    """
    if isinstance(mapping, QConfigMapping):
        return mapping
    if mapping is None or isinstance(mapping, str):
        return presets.get(DEFAULT_PRESET if mapping is None else mapping).mapping()
    raise DTypeError(
        "Not a configuration",
        expected="a QConfigMapping, the name of a preset, or None",
        received=type(mapping).__name__,
    )


def _device_of(model: nn.Module) -> torch.device:
    tensors = [*model.parameters(), *model.buffers()]
    return tensors[0].device if tensors else torch.device("cpu")


def _to(value: Any, device: torch.device) -> Any:
    return value.to(device) if isinstance(value, Tensor) else value


def _first_axis(inputs: tuple[Any, ...]) -> int:
    return next((x.shape[0] for x in inputs if isinstance(x, Tensor) and x.ndim), 1)
