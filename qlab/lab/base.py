"""What a Lab is about: a model, its data, what calibration saw of it, and where that is kept."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Sequence
from collections.abc import Mapping as Named
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from qlab.algorithms import RepairReport
from qlab.analysis.batches import Batches
from qlab.analysis.calibration import Calibration, Progress, Stop
from qlab.analysis.fingerprint import combined, data_fingerprint, graph_fingerprint, joined
from qlab.analysis.hooked import study_of
from qlab.analysis.layers import Layer, types_of
from qlab.analysis.stability import Stability
from qlab.analysis.study import Study
from qlab.analysis.tasks import checked_hooks
from qlab.errors import DTypeError, NonFiniteError, TraceError, UnknownNameError
from qlab.execution import usable_device
from qlab.graph import Plan
from qlab.graph.inputs import Call, Inputs
from qlab.io.float_graph import is_float_graph
from qlab.io.lab_file import LabFile, RepairFile, save_lab
from qlab.lab.arguments import Mapping, resolve_mapping, tensors_alone
from qlab.object_types import ObjectType
from qlab.registry import PATTERNS, Pattern, patterns_of
from qlab.runs import Runs


class LabBase:
    """A model, its data, and what calibration saw; `Lab` asks the questions.

    See `Lab` for the arguments.
    """

    def __init__(
        self,
        model: nn.Module,
        example_inputs: Inputs,
        calibration: Any,
        evaluation: Any = None,
        device: torch.device | str | None = None,
        *,
        memory_budget: int = 2**30,
        patterns: Sequence[Pattern | str] = PATTERNS,
        runs: str | os.PathLike[str] | Runs | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise DTypeError(
                "Lab needs a model", expected="a torch.nn.Module", received=type(model).__name__
            )
        home = _device_of(model)
        self.device = usable_device(home if device is None else device)
        inputs = example_inputs
        if isinstance(model, fx.GraphModule) and is_float_graph(model):
            inputs = tensors_alone(inputs)
        self._call = Call.of(model, _to(inputs, self.device))
        chains = patterns_of(patterns)
        data = self._batches(calibration, "calibration")
        self._evaluation_data = (
            data if evaluation is None else self._batches(evaluation, "evaluation")
        )
        if is_float_graph(model):
            graph = model.to(self.device)
            self._study = Study(graph, self._call.values, data, memory_budget)
        else:
            here = model if home == self.device else copy.deepcopy(model).to(self.device)
            self._study = study_of(here, self._call, data, memory_budget, chains)
        self.layers: tuple[Layer, ...] = self._study.layers(self.plan())
        self.runs = runs if isinstance(runs, Runs) else Runs(runs)
        self.mapping = resolve_mapping(None)
        self._data: list[str] = []
        self.repairs: tuple[RepairReport, ...] = ()
        self.before: Self | None = None

    @contextmanager
    def _finding_the_first(self) -> Iterator[None]:
        """Where measuring met NaN or infinity: names the layer of the float model to blame."""
        try:
            yield
        except NonFiniteError:
            self._study.check_finite(self._evaluation_data, "evaluation")
            raise  # finite in float: only the quantized network is not

    def _batches(self, source: Any, name: str) -> Batches:
        names = self._call.names
        return Batches(source, len(names), self.device, name, inputs=names)

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

    @property
    def example_values(self) -> tuple[Any, ...]:
        """Inputs of one call of the graph, as batches give them."""
        return self._call.values

    @property
    def example_call(self) -> tuple[Any, ...] | dict[str, Any]:
        """The same by name where the example inputs were given by name, as the model is called."""
        return self._call.example

    @property
    def types(self) -> dict[str, ObjectType]:
        """The operators' types by what people call them, for `QConfigMapping.set_object_type`."""
        return types_of(self._study.graph)

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
            DTypeError: A hook that cannot be called.
            NonFiniteError: NaN in the float model, or infinity made of finite numbers; names the
                first layer that produced it, or the input that came so. The Lab is left as it
                was before the call.
            UnfinishedError: The loader failed; names the batch. What was seen before is kept, and
                the next call goes on from there.
        """
        checked_hooks(on_progress, should_stop)
        return self._study.calibrate(on_progress, should_stop)

    def _calibrated_whole(
        self, on_progress: Progress | None = None, should_stop: Stop | None = None
    ) -> bool:
        """Calibrates what is left of the data; False where it was stopped: then no answer is
        complete."""
        return self.calibrate(on_progress, should_stop).complete

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
            UnfinishedError: As in `calibrate`, which goes on from there.
        """
        checked_hooks(on_progress, should_stop)
        return self._study.add_data(self._batches(batches, "added"), on_progress, should_stop)

    def with_data(
        self, batches: Any, on_progress: Progress | None = None, should_stop: Stop | None = None
    ) -> Self:
        """A Lab that has seen more data as by `add_data`; this one stays as it is."""
        made = copy.copy(self)
        made._study, made._data = self._study.copied(), list(self._data)
        made.add_data(batches, on_progress, should_stop)
        return made

    def merge(self, other: Calibration) -> Calibration:
        """Takes in what a Lab of the same model saw of other data, in any process or machine.

        Who comes first matters to the policy `qlab.ranges.MovingAverage` alone, which follows the
        order of the batches.

        Args:
            other: Its ``calibrated``; its batches count as coming after those seen here.

        Raises:
            ArgumentError: It is of another model, or of data that this Lab has seen: its own, one
                that was merged before, or an equal copy of one.
        """
        return self._study.merge(other)

    def stability(self, mapping: Mapping = None) -> Stability:
        """How far each layer's range still moves with more data, and whether there was enough.

        Computed from what calibration kept of every batch, without another pass; of the same
        tensors as `statistics`.

        Args:
            mapping: The configuration that decides what is clamped.
        """
        return self._study.stability(self.plan(mapping))

    @cached_property
    def subject(self) -> str:
        """A fingerprint of model and evaluation data: runs with the same one are comparable.

        A repaired model has its own; its first run has one of the model before as its parent.
        """
        if self.before is not None:
            study = self._study
            graphs = (study.graph, study.reference)
            return combined(self.original.subject, *map(graph_fingerprint, graphs))
        return combined(
            graph_fingerprint(self._study.graph), data_fingerprint(self._evaluation_data)
        )

    @property
    def original(self) -> Self:
        """The Lab of the model before any repair; itself where there was none."""
        return self if self.before is None else self.before.original

    def repaired(
        self,
        graph: fx.GraphModule,
        reference: fx.GraphModule | None = None,
        reports: tuple[RepairReport, ...] = (),
        calibration: Calibration | None = None,
    ) -> Self:
        """A Lab of a changed float graph whose reference stays the original model.

        `Lab.apply` calls it. Data, runs and this Lab's statistics are shared, not copied.

        Args:
            graph: What is quantized from now on; nodes keep their names.
            reference: As `Study.repaired`.
            reports: What was done, added to `repairs`.
            calibration: As `Study.repaired`.
        """
        made = copy.copy(self)
        vars(made).pop("subject", None)
        made._study = self._study.repaired(graph, reference, calibration)
        made.repairs, made.before = (*self.repairs, *reports), self
        made._data = list(self._data)
        made.layers = made._study.layers(made.plan())
        return made

    def save(self, path: str | os.PathLike[str], mapping: Mapping = None) -> Path:
        """Writes the Lab to one file, whole or not at all; `qlab.load_lab` reads it. No pickle.

        It holds the float model, the statistics (calibrating first where that has not happened),
        the example inputs, the sample that `what_if` runs on, the runs, and a configuration. A
        model that has no graph stays outside: `qlab.load_lab` asks for it.

        Args:
            path: The file.
            mapping: The configuration to keep as `mapping`; the present one if not given.

        Raises:
            ArgumentError: No file can be written there.
            UnknownNameError: The mapping holds something unregistered.
        """
        self.calibrate()
        self._study.sample()
        error, original = self.trace_error, self.original._study.graph
        return save_lab(
            LabFile(
                graph=original if error is None else None,
                without_graph="" if error is None else str(error),
                fingerprint=graph_fingerprint(original),
                data=self.data,
                subject=self.subject,
                example_inputs=self._call.example_inputs,
                sample_inputs=self._study.sample_inputs or (),
                calibration=self.calibrate(),
                mapping=self.mapping if mapping is None else resolve_mapping(mapping),
                runs=self.runs.dump(),
                repair=self._repair(),
            ),
            path,
        )

    def _repair(self) -> RepairFile | None:
        if self.before is None:
            return None
        study, original = self._study, self.original._study.graph
        reference = None if study.reference is original else study.reference
        return RepairFile(study.graph, reference, [report.to_dict() for report in self.repairs])

    @property
    def data(self) -> str:
        """Of all calibration data, added data included."""
        for batches in self._study.sources[len(self._data) :]:
            self._data.append(data_fingerprint(batches))
        return joined(self._data)

    def restore(self, stored: LabFile, with_data: bool) -> Self:
        """Goes on where a file was saved; `qlab.load_lab` calls it.

        Args:
            stored: The file.
            with_data: Whether the Lab has calibration data of its own, to be checked.

        Returns:
            This Lab; where the file was saved from a repaired one, a Lab of the repaired model.

        Raises:
            ArgumentError: The file was saved from another model or other data.
        """
        stored.check_model(self._study.graph)
        if with_data:
            stored.check_data(data_fingerprint(self._study.sources[0]))
        self._data, self.mapping = [stored.data], stored.mapping
        self.runs.restore(stored.runs)
        lab, repair = self, stored.repair
        if repair is not None:
            reports = tuple(map(RepairReport.from_dict, repair.reports))
            graph, reference = (
                None if graph is None else graph.to(self.device)
                for graph in (repair.graph, repair.reference)
            )
            lab = self.repaired(graph or self._study.graph, reference, reports)
        lab._study.restore(stored.calibration, _to(stored.sample_inputs, self.device))
        return lab


def _device_of(model: nn.Module) -> torch.device:
    tensors = [*model.parameters(), *model.buffers()]
    return tensors[0].device if tensors else torch.device("cpu")


def _to(value: Any, device: torch.device) -> Any:
    """A value with all tensors inside it on a device."""
    value = dict(value) if isinstance(value, Named) else value
    return pytree.tree_map_only(Tensor, lambda tensor: tensor.to(device), value)
