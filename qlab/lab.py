"""`Lab`: one model, its calibration data, and every question about quantizing it."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from pandas import DataFrame
from torch import Tensor, fx, nn

from qlab import presets
from qlab.analysis.batches import Batches
from qlab.analysis.calibration import Calibration, Progress, Stop
from qlab.analysis.causes import Cause
from qlab.analysis.channels import channel_errors
from qlab.analysis.compare import compare_graphs
from qlab.analysis.diagnosis import causes_of, remedied
from qlab.analysis.fidelity import Fidelity, measure_fidelity
from qlab.analysis.fingerprint import combined, data_fingerprint, graph_fingerprint
from qlab.analysis.latency import Latency, measure_latency
from qlab.analysis.layers import Layer, describe_layers, types_of
from qlab.analysis.networks import Networks
from qlab.analysis.parts import only
from qlab.analysis.report import Report
from qlab.analysis.search import Candidate, Measure, Search, Space, search_mappings
from qlab.analysis.sensitivity import WAYS, Sensitivity, measure_sensitivity, names_of
from qlab.analysis.stability import Stability
from qlab.analysis.study import Study
from qlab.analysis.what_if import WhatIf, compare_policies, what_if
from qlab.errors import DTypeError, UnknownNameError
from qlab.execution import Program, RunStore, usable_device
from qlab.graph import Plan, fuse, trace
from qlab.io.exports import export
from qlab.io.float_graph import is_float_graph
from qlab.io.lab_file import LabFile, save_lab
from qlab.io.replay import Origin
from qlab.object_types import ObjectType
from qlab.qconfig import QConfigMapping
from qlab.qparams import QParams
from qlab.ranges import QuantizationError, TensorSpec
from qlab.runs import Runs, record_report
from qlab.stats import TensorStats

Mapping = QConfigMapping | str | None
DEFAULT_PRESET = "int8"


class Lab:
    """What-ifs about one model, answered from one calibration pass.

    Args:
        model: A float model that traces; it is copied, never changed.
        example_inputs: Inputs of one call: a tensor or a tuple of positional inputs.
        calibration: Batches of inputs (see `qlab.analysis.batches.Batches`).
        evaluation: Batches of (inputs, labels) on which `compare` measures; the calibration data
            if not given.
        device: Where everything runs; the model's own device if not given.
        memory_budget: How many bytes of the float network's activations on the evaluation data are
            kept, so that a change of one layer runs only what follows it. A model that needs more
            works, slower; 0 keeps none.
        runs: Where what `compare` measures is kept: a `Runs`, or the path of its SQLite file, which
            several Labs may share. None: a private file, gone with the Lab.

    Attributes:
        runs: Every configuration that was measured.
        mapping: A configuration that `save` keeps; the default preset until somebody sets it.

    Raises:
        TraceError: The model cannot be turned into a graph; names module, file and line.
        ArgumentError: Example inputs that do not fit the model, no such device, or a budget that is
            no number of bytes.
    """

    def __init__(
        self,
        model: nn.Module,
        example_inputs: Tensor | tuple[Any, ...],
        calibration: Any,
        evaluation: Any = None,
        device: torch.device | str | None = None,
        *,
        memory_budget: int = 2**30,
        runs: str | os.PathLike[str] | Runs | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise DTypeError(
                "Lab needs a model", expected="a torch.nn.Module", received=type(model).__name__
            )
        home = _device_of(model)
        self.device = usable_device(home if device is None else device)
        inputs = example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)
        traced = is_float_graph(model)
        graph = model if traced else fuse(trace(model, tuple(_to(x, home) for x in inputs)))
        graph = graph.to(self.device)
        names = [str(n.target) for n in graph.graph.nodes if n.op == "placeholder"]
        self._arguments = names[: len(inputs)]
        self._calibration_data = self._batches(calibration, "calibration")
        self._evaluation_data = (
            self._batches(evaluation, "evaluation")
            if evaluation is not None
            else self._calibration_data
        )
        example = tuple(_to(x, self.device) for x in inputs)
        self._study = Study(graph, example, self._calibration_data)
        self._float_runs = RunStore(Program.of(graph), memory_budget)
        self.layers: tuple[Layer, ...] = describe_layers(graph, self.plan())
        self.runs = runs if isinstance(runs, Runs) else Runs(runs)
        self.mapping = resolve_mapping(None)
        self._data: str | None = None

    def _batches(self, source: Any, name: str) -> Batches:
        names = self._arguments
        return Batches(source, len(names), self.device, name, inputs=names)

    @property
    def graph(self) -> fx.GraphModule:
        """The float graph after fusion; not to be changed."""
        return self._study.graph

    @property
    def types(self) -> dict[str, ObjectType]:
        """The operators' types by what people call them, for `QConfigMapping.set_object_type`."""
        return types_of(self.graph)

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
        A stopped pass keeps what it saw, and the next call goes on from there, to the same result
        as a pass that was not stopped, as long as the data comes in the same order again.

        Args:
            on_progress: Called as ``(done, total, label)`` after each batch.
            should_stop: Asked after each batch.

        Raises:
            NonFiniteError: NaN in the float model, or infinity made of finite numbers; names the
                first layer that produced it, or the input that came so. The Lab is left as it
                was before the call.
        """
        return self._study.calibrate(on_progress, should_stop)

    def add_data(
        self, batches: Any, on_progress: Progress | None = None, should_stop: Stop | None = None
    ) -> Calibration:
        """Takes in more calibration data: it is merged with what was seen, nothing runs twice.

        Ranges, converted models and what-ifs are computed anew from then on; runs stay. Where it
        is stopped, `calibrate` goes on from there.

        Args:
            batches: As ``calibration`` of the constructor.
            on_progress: As in `calibrate`; counts all batches, old and new.
            should_stop: Asked after each batch.

        Raises:
            NonFiniteError: As in `calibrate`; none of the new data is kept then.
        """
        return self._study.add_data(self._batches(batches, "added"), on_progress, should_stop)

    def merge(self, other: Calibration) -> Calibration:
        """Takes in what a Lab of the same model saw of other data, in any process or machine.

        Args:
            other: Its ``calibrated``; its batches count as coming after those seen here.

        Raises:
            ArgumentError: It is of another model.
        """
        return self._study.merge(other)

    def stability(self) -> Stability:
        """How far each layer's range still moves with more data, and whether there was enough.

        Computed from what calibration kept of every batch, without another pass.
        """
        return self._study.stability()

    def statistics(
        self, name: str, kind: str = "activation", mapping: Mapping = None
    ) -> TensorStats:
        """What one tensor of a layer looked like in float.

        Of an output that a configuration only ever reads clamped (a convolution in front of
        ReLU6) that is the clamped tensor: what lies outside is never represented.

        Args:
            name: A layer.
            kind: ``"activation"`` (its output), ``"input"`` (its first tensor input) or
                ``"weight"``.
            mapping: The configuration that decides what is clamped.

        Raises:
            UnknownNameError: No such layer or kind, or the layer has no such tensor.
        """
        probe = self._study.probe(name)
        if kind == "weight":
            return probe.weight_stats()
        if kind == "activation":
            plan = self.plan(mapping)
            clamped = plan.step(name).bounds is not None
            return self._study.stats(plan.range_node(probe.node) if clamped else probe.node)
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

    def convert(self, mapping: Mapping = None) -> fx.GraphModule:
        """The quantized model of a configuration, with ranges from the cached statistics.

        Args:
            mapping: A `QConfigMapping`, a preset's name, or None for the default preset.

        Returns:
            The same type as ``convert_fx`` gives; a copy that the caller may change.
        """
        return copy.deepcopy(self._study.converted(resolve_mapping(mapping)))

    def compare(
        self,
        mapping: Mapping = None,
        *,
        parts: bool = False,
        name: str | None = None,
        parent: int | None = None,
        on_progress: Progress | None = None,
        should_stop: Stop | None = None,
    ) -> Report:
        """Every layer's local and accumulated error, and the network's own, measured.

        The quantized network that is measured is the one that `convert` returns and `export`
        writes, run on the evaluation data beside the float network. What was measured is kept in
        `runs`; measuring an equal mapping again updates its run.
        A comparison that was stopped, or a mapping with an unregistered callable, is not kept.

        Args:
            mapping: A `QConfigMapping`, a preset's name, or None for the default preset.
            parts: Whether to measure two more networks: with the weights alone quantized, and with
                the activations alone.
            name: What its run is called; a preset's name, or by its number, if not given.
            parent: The run that it was made from; the latest if not given.
            on_progress: Called as ``(done, total, label)`` after each batch.
            should_stop: Asked after each batch; the report then covers what was seen.

        Raises:
            NonFiniteError: NaN or infinity in a layer; names it.
        """
        resolved = resolve_mapping(mapping)
        if self.calibrated is None:
            self.calibrate(on_progress)
        began = time.monotonic()
        measured = self._measured(resolved, on_progress, should_stop)
        seconds = time.monotonic() - began
        told: Any = {"subject": self.subject, "name": name, "parent": parent}
        record_report(self.runs, resolved, measured, seconds=seconds, **told)
        if not parts:
            return measured
        weight, activation = (
            self._measured(only(resolved, part), on_progress, should_stop)
            for part in ("weight", "activation")
        )
        complete = measured.complete and weight.complete and activation.complete
        return replace(
            measured,
            complete=complete,
            weight_only=weight.layers,
            activation_only=activation.layers,
        )

    def _measured(
        self, mapping: QConfigMapping, on_progress: Progress | None, should_stop: Stop | None
    ) -> Report:
        return compare_graphs(
            self._networks(mapping),
            (self._evaluation_data, self._float_runs),
            self._study.ideal_sqnr,
            on_progress=on_progress,
            should_stop=should_stop,
        )

    @cached_property
    def subject(self) -> str:
        """A fingerprint of model and evaluation data: runs with the same one are comparable."""
        return combined(graph_fingerprint(self.graph), data_fingerprint(self._evaluation_data))

    def channels(self, name: str, mapping: Mapping = None) -> DataFrame:
        """The local error of each channel of a layer's output, on the evaluation data.

        Args:
            name: A layer.
            mapping: A `QConfigMapping`, a preset's name, or None for the default preset.

        Returns:
            One row per channel: the metrics of `qlab.analysis.metrics`, ``rmse_scale``,
            ``nmse_rounding``, ``nmse_clipping`` and ``clipped_share`` [%].

        Raises:
            UnknownNameError: No such layer.
            UnsupportedError: The configuration leaves the layer in float.
        """
        networks = self._networks(resolve_mapping(mapping))
        return channel_errors(networks, name, (self._evaluation_data, self._float_runs))

    def _networks(self, mapping: QConfigMapping) -> Networks:
        return Networks(self.graph, self._study.converted(mapping), self._study.plan(mapping))

    def sensitivity(
        self,
        mappings: Mapping | dict[str, Mapping] | Sequence[Mapping] = None,
        *,
        ways: Sequence[str] = WAYS,
        executor: Executor | None = None,
        on_progress: Progress | None = None,
        should_stop: Stop | None = None,
    ) -> Sensitivity:
        """What each layer's quantization alone costs the network, and what leaving it out wins.

        Args:
            mappings: The candidate configurations: one, a sequence of them, or a dict by name.
            ways: Which of ``"on"`` (the layer alone is quantized), ``"off"`` (it alone is not) and
                ``"estimate"`` (``"on"`` to first order, for all layers in one pass) to answer.
            executor: Any `concurrent.futures.Executor`, of threads, processes or a cluster; it
                changes when the answer comes, not what it says.
            on_progress: Called as ``(done, total, label)`` after each task.
            should_stop: Asked after each task, which takes less than a batch; what was measured
                until then is kept.

        Raises:
            UnknownNameError: No such preset or way.
            ArgumentError: Nothing to measure.
        """
        named = [(DEFAULT_PRESET, None)] if mappings is None else names_of(mappings)
        candidates = {name: resolve_mapping(mapping) for name, mapping in named}
        if self.calibrated is None:
            self.calibrate(on_progress, should_stop)
        return measure_sensitivity(
            self._study,
            candidates,
            (self._evaluation_data, self._float_runs),
            ways=tuple(ways),
            executor=executor,
            on_progress=on_progress,
            should_stop=should_stop,
        )

    def search(
        self,
        budget: float,
        *,
        by: Measure = "size",
        candidates: Sequence[Candidate] | None = None,
        mapping: Mapping = None,
        sensitivity: Sensitivity | None = None,
        executor: Executor | None = None,
        points: int | None = 64,
        on_progress: Progress | None = None,
        should_stop: Stop | None = None,
    ) -> Search:
        """Mixed precision: how many bits each layer gets, solved exactly under a budget.

        Args:
            budget: A whole number of bytes or bit operations, or a fraction of what ``mapping``
                takes: 0.5 is half the size of 8 bits.
            by: ``"size"`` or ``"bit_ops"`` (MACs × weight bits × activation bits).
            candidates: What layers may become; see `default_candidates`.
            mapping: What everything else gets.
            sensitivity: That of an earlier search with these candidates (``Search.sensitivity``);
                measured if not given.
            executor: Runs that measurement.
            points: How many points the front has at most, the 20 nearest the budget without gaps;
                None for all that there are.
            on_progress: Called as ``(done, total, label)``.
            should_stop: Asked after each task; the front then holds what was found.

        Raises:
            ArgumentError: An impossible budget; states the smallest possible.
        """
        resolved = resolve_mapping(mapping)
        self.calibrate(on_progress)
        space = Space(self._study, resolved, candidates, by)
        hooks: Any = {"on_progress": on_progress, "should_stop": should_stop}
        if sensitivity is None:
            uniform = space.configurations()
            sensitivity = self.sensitivity(uniform, ways=("on",), executor=executor, **hooks)
        before = self.runs.latest(self.subject)
        compare = partial(self.compare, parent=None if before is None else before.id)
        return search_mappings(space, budget, sensitivity, compare, points=points, **hooks)

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
        """Why a layer loses precision: what gains most first, what gains nothing last.

        ``cause.apply(mapping)`` is a configuration with the remedy in it, ``cause.gain`` what that
        was measured to gain.

        Args:
            name: The layer.
            mapping: The configuration under which it is judged.

        Raises:
            UnknownNameError: No such layer.
        """
        return causes_of(self._study, resolve_mapping(mapping), name)

    def remedy(self, cause: Cause, mapping: Mapping = None) -> QConfigMapping:
        """A configuration with a cause's remedy in every layer that has the same cause.

        `Cause.apply` changes the one layer that the cause was found in; this changes all of its
        kind, such as the scales of every weight whose channels differ too much to share one.

        Args:
            cause: What `causes` found.
            mapping: The configuration to change; it stays as it is.

        Raises:
            UnsupportedError: No configuration avoids this cause; says what would.
        """
        return remedied(self._study, resolve_mapping(mapping), cause)

    def fidelity(
        self,
        mapping: Mapping = None,
        *,
        on_progress: Progress | None = None,
        should_stop: Stop | None = None,
    ) -> Fidelity:
        """Float, simulated (fake-quantized) and integer network side by side, layer by layer.

        Args:
            mapping: A `QConfigMapping`, a preset's name, or None for the default preset.
            on_progress: Called as ``(done, total, label)`` after each batch.
            should_stop: Asked after each batch; the result then covers what was seen.

        Raises:
            NonFiniteError: NaN or infinity in a layer.
        """
        resolved = resolve_mapping(mapping)
        if self.calibrated is None:
            self.calibrate(on_progress, should_stop)
        return measure_fidelity(
            (self.graph, self._study.converted(resolved)),
            self._study.plan(resolved),
            self._evaluation_data,
            on_progress=on_progress,
            should_stop=should_stop,
        )

    def latency(
        self,
        mapping: Mapping = None,
        batch: Tensor | tuple[Any, ...] | None = None,
        repeats: int = 30,
        *,
        on_progress: Progress | None = None,
        should_stop: Stop | None = None,
    ) -> Latency:
        """How long the fused float and the quantized network take on this machine, in turn.

        Args:
            mapping: A `QConfigMapping`, a preset's name, or None for the default preset.
            batch: Inputs of one call; the first evaluation batch if not given.
            repeats: How often each network is timed, at least 4.
            on_progress: Called as ``(done, total, label)`` after each pair of runs.
            should_stop: Asked after each pair of runs.

        Raises:
            ArgumentError: Fewer than 4 repeats.
        """
        converted = self._study.converted(resolve_mapping(mapping))
        given = next(iter(self._evaluation_data)).inputs if batch is None else batch
        inputs = given if isinstance(given, tuple) else (given,)
        return measure_latency(
            (self.graph, converted),
            tuple(_to(x, self.device) for x in inputs),
            repeats,
            on_progress=on_progress,
            should_stop=should_stop,
        )

    def policies(
        self, name: str, spec: TensorSpec, kind: str = "activation", mapping: Mapping = None
    ) -> dict[str, QuantizationError]:
        """Every range policy on one tensor under an otherwise equal spec, by the policy's label.

        Policies that do not apply to the spec's data type or granularity are left out. An output
        is judged by the tensor that gives its range under ``mapping``: its own, or the clamped
        one, or the one it shares a scale with, as in `what_if`.

        Raises:
            UnknownNameError: No such layer, or it has no weight.
        """
        return compare_policies(self._study, self.plan(mapping), name, spec, kind)

    @property
    def data(self) -> str:
        """A fingerprint of the calibration data that the Lab was made with; reads it once."""
        if self._data is None:
            self._data = data_fingerprint(self._calibration_data)
        return self._data

    def export(
        self,
        path: str | os.PathLike[str],
        mapping: Mapping = None,
        *,
        origin: Origin | None = None,
    ) -> Path:
        """Writes the quantized model, its recipe or what is known of it; whole or not at all.

        ``.safetensors``: codes, scales and graph, read back by `qlab.load_quantized`.
        ``.json``: the `QConfigMapping`, read back by ``QConfigMapping.from_json``.
        ``.py``: a script that repeats the conversion and checks that it ends in the same integers.
        ``.html``: a report that opens offline: configuration, errors, causes, versions.

        Args:
            path: Where to; its suffix decides what.
            mapping: A `QConfigMapping`, a preset's name, or None for the default preset.
            origin: How the script finds the model; without, its command line says it.

        Raises:
            ArgumentError: Another suffix, or no file can be written there.
            UnknownNameError: The mapping holds something unregistered, which no file can name.
        """
        return export(self, path, resolve_mapping(mapping), origin)

    def save(self, path: str | os.PathLike[str], mapping: Mapping = None) -> Path:
        """Writes the Lab to one file, whole or not at all; `qlab.load_lab` reads it. No pickle.

        It holds the float model, the statistics (calibrating first where that has not happened),
        the example inputs, the sample that `what_if` runs on, the runs, and a configuration.

        Args:
            path: The file.
            mapping: The configuration to keep as `mapping`; the present one if not given.

        Raises:
            ArgumentError: No file can be written there.
            UnknownNameError: The mapping holds something unregistered.
        """
        self.calibrate()
        self._study.sample()
        return save_lab(
            LabFile(
                graph=self.graph,
                fingerprint=graph_fingerprint(self.graph),
                data=self.data,
                subject=self.subject,
                example_inputs=self._study.example_inputs,
                sample_inputs=self._study.sample_inputs or (),
                calibration=self.calibrate(),
                mapping=self.mapping if mapping is None else resolve_mapping(mapping),
                runs=self.runs.dump(),
            ),
            path,
        )

    def restore(self, stored: LabFile, with_data: bool) -> None:
        """Goes on where a file was saved; `qlab.load_lab` calls it.

        Args:
            stored: The file.
            with_data: Whether the Lab has calibration data of its own, to be checked.

        Raises:
            ArgumentError: The file was saved from another model or other data.
        """
        stored.check_model(self.graph)
        if with_data:
            stored.check_data(data_fingerprint(self._calibration_data))
        self._data, self.mapping = stored.data, stored.mapping
        self._study.calibration = stored.calibration
        self._study.sample_inputs = tuple(_to(x, self.device) for x in stored.sample_inputs)
        self.runs.restore(stored.runs)


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
