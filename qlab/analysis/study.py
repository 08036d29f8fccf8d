"""A fused float graph, what calibration saw of it, and the decisions computed from that."""

from __future__ import annotations

import copy
import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from pandas import DataFrame
from torch import Tensor, fx, nn

from qlab.analysis.batches import Batches
from qlab.analysis.cache import LastResults
from qlab.analysis.calibration import (
    Calibration,
    Progress,
    Stop,
    activation_bytes,
    collect_statistics,
    sample_inputs,
)
from qlab.analysis.channels import channel_errors
from qlab.analysis.compare import compare_graphs
from qlab.analysis.layers import Layer, describe_layers
from qlab.analysis.networks import Networks
from qlab.analysis.probe import LayerProbe
from qlab.analysis.report import Report
from qlab.analysis.sensitivity import WAYS, Sensitivity, measure_sensitivity
from qlab.analysis.stability import Stability, measure_stability
from qlab.errors import DTypeError, TraceError, UncalibratedError, UnknownNameError
from qlab.execution import GraphRunner, Program, RunStore
from qlab.graph import Plan, annotate, convert
from qlab.graph.lift import attribute
from qlab.qconfig import QConfigMapping
from qlab.qparams import QParams
from qlab.ranges import MSE, QuantizationError, TensorSpec, expected_error, measured_error
from qlab.stats import TensorStats

_KEPT_GRAPHS = 4
_KEPT_PLANS = 32
_KEPT_QPARAMS = 10_000
_KEPT_WEIGHTS = 1_000
_SAMPLE_BYTES = 64 * 2**20
_LARGEST_SAMPLE = 32
_LAYER_ELEMENTS = 2**21


class Study:
    """Statistics are collected once; plans, scales and quantized graphs are computed from them.

    Args:
        graph: The float graph after fusion, on the device where everything runs.
        example_inputs: Inputs of one call, on that device.
        data: Calibration data.
        memory_budget: How many bytes of the float network's activations are kept.
        reference: The float graph whose values layers are compared with and ranges come from, where
            a repair changed ``graph``: its nodes have the same names. ``graph`` if not given.

    Attributes:
        original: The model's own float values, which the network's output is compared with.
    """

    def __init__(
        self,
        graph: fx.GraphModule,
        example_inputs: tuple[Any, ...],
        data: Batches,
        memory_budget: int = 0,
        reference: fx.GraphModule | None = None,
    ) -> None:
        self.graph = graph
        self.reference = graph if reference is None else reference
        self.example_inputs = example_inputs
        self.sources = [data]
        self.floats = RunStore(Program.of(self.reference), memory_budget)
        self.original = self.floats
        self.calibration: Calibration | None = None
        self.sample_inputs: tuple[Any, ...] | None = None
        self._version = 0
        self._sampled: tuple[dict[str, Any], int] | None = None
        self.trace_error: TraceError | None = None
        self._lock = threading.RLock()
        self._plans: LastResults[Plan] = LastResults(_KEPT_PLANS)
        self._converted: LastResults[fx.GraphModule] = LastResults(_KEPT_GRAPHS)
        self._qparams: LastResults[QParams] = LastResults(_KEPT_QPARAMS)
        self._weights: LastResults[tuple[QParams, QuantizationError]] = LastResults(_KEPT_WEIGHTS)

    def repaired(
        self,
        graph: fx.GraphModule,
        reference: fx.GraphModule | None = None,
        calibration: Calibration | None = None,
    ) -> Study:
        """The same model and data after a repair; the original's outputs stay what counts.

        Args:
            graph: What is quantized from now on. Nodes keep their names.
            reference: A float graph that computes what the original does, where the repair changed
                what its inner tensors look like; it is calibrated anew, with one float pass. Not
                given, inner tensors are compared with those of the present reference, whose
                statistics are kept: no pass.
            calibration: What a pass over a given reference saw, so that none is needed where it saw
                the data that this study did.
        """
        made = Study(
            graph,
            self.example_inputs,
            self.sources[0],
            self.floats.budget,
            self.reference if reference is None else reference,
        )
        made.sources = list(self.sources)
        made.original = self.original
        if reference is None:
            made.floats, made.calibration = self.floats, self.calibration
            made.sample_inputs, made._sampled = self.sample_inputs, self._sampled
        elif calibration and self.calibration and calibration.seen == self.calibration.seen:
            made.calibration = calibration
        return made

    def calibrate(
        self, on_progress: Progress | None = None, should_stop: Stop | None = None
    ) -> Calibration:
        """One float pass over the data not seen so far; returns at once where there is none."""
        with self._lock:
            if self.calibration is None or not self.calibration.complete:
                self.calibration = self._collect(
                    self.sources, self.calibration, on_progress=on_progress, should_stop=should_stop
                )
                self._forget()
            return self.calibration

    def add_data(
        self, data: Batches, on_progress: Progress | None = None, should_stop: Stop | None = None
    ) -> Calibration:
        """Takes in more calibration data, after all that is there; nothing is seen twice."""
        with self._lock:
            sources = [*self.sources, data]
            self.calibration = self._collect(
                sources, self.calibration, on_progress=on_progress, should_stop=should_stop
            )
            self.sources = sources
            self._forget()
            return self.calibration

    def restore(self, calibration: Calibration, sample_inputs: tuple[Any, ...]) -> None:
        """Goes on from saved statistics of all data that is here, however it is batched now."""
        seen = (len(self.sources[0]),) if calibration.complete else calibration.seen
        self.calibration = replace(calibration, seen=seen)
        self.sample_inputs = sample_inputs

    def float_values(self, probe: LayerProbe) -> Iterator[dict[str, Any]]:
        """The float values around a layer for all calibration data, call by call."""
        runner = GraphRunner(self.reference, {probe.node, *probe.inputs})
        for batch in itertools.chain.from_iterable(self.sources):
            yield runner.collect(batch.inputs)[1]

    def check_finite(self, data: Batches, called: str) -> None:
        """Runs the float model over data that is measured on, and keeps nothing.

        Raises:
            NonFiniteError: As `calibrate`; names the first layer, and the data as ``called``.
        """
        with self._lock:
            self._collect([data], None, called)

    def _collect(
        self,
        sources: Sequence[Batches],
        start: Calibration | None,
        called: str = "calibration",
        **hooks: Any,
    ) -> Calibration:
        graph = self.reference
        nodes = [node for node in graph.graph.nodes if node.op != "output"]
        names = {node.name: str(node.meta.get("name", node.name)) for node in nodes}
        return collect_statistics(graph, sources, names, start=start, called=called, **hooks)

    def merge(self, other: Calibration) -> Calibration:
        """Takes in what another Lab of the same model saw, after all that was seen here."""
        if not isinstance(other, Calibration):
            raise DTypeError(
                "Only a calibration can be merged",
                expected="the `calibrated` of another Lab",
                received=type(other).__name__,
            )
        with self._lock:
            mine = self.calibration or self.calibrate()
            merged = mine.merge(other)
            self.calibration = replace(merged, seen=mine.seen, complete=mine.complete)
            self._forget()
            return self.calibration

    def _forget(self) -> None:
        """Drops what was computed from older statistics; `_version` keeps it from coming back."""
        self._version += 1
        self._qparams.clear()
        self._converted.clear()

    def whole_graph(self, what: str) -> fx.GraphModule:
        """The float graph, for what needs it whole.

        Args:
            what: What needs it, for the error where there is none.

        Raises:
            UnsupportedError: The model has no graph; says why.
        """
        return self.graph

    def layers(self, plan: Plan) -> tuple[Layer, ...]:
        """The model's layers as people see them."""
        return describe_layers(self.graph, plan)

    def network(self, mapping: QConfigMapping) -> nn.Module:
        """The quantized network of a configuration, a copy that the caller may change."""
        return copy.deepcopy(self.converted(mapping))

    def callables(self, mapping: QConfigMapping) -> tuple[Callable[..., Any], Callable[..., Any]]:
        """The float and the quantized network, for the inputs of a batch; not to be changed."""
        return self.reference, self.converted(mapping)

    def compare(self, mapping: QConfigMapping, data: Batches, **hooks: Any) -> Report:
        """Every layer's error and the network's; see `compare_graphs` for the ``hooks``."""
        return compare_graphs(
            self._networks(mapping),
            (data, self.floats),
            self.ideal_sqnr,
            original=self.original,
            **hooks,
        )

    def channels(self, name: str, mapping: QConfigMapping, data: Batches) -> DataFrame:
        """The local error of each channel of a layer; see `channel_errors`."""
        return channel_errors(self._networks(mapping), name, (data, self.floats))

    def _networks(self, mapping: QConfigMapping) -> Networks:
        return Networks(self.graph, self.converted(mapping), self.plan(mapping))

    def sensitivity(
        self,
        candidates: dict[str, QConfigMapping],
        data: Batches,
        ways: tuple[str, ...] = WAYS,
        executor: Executor | None = None,
        **hooks: Any,
    ) -> Sensitivity:
        """What each layer costs the network; see `measure_sensitivity`."""
        given: Any = {"ways": ways, "executor": executor, **hooks}
        return measure_sensitivity(self, candidates, (data, self.floats), **given)

    def plan(self, mapping: QConfigMapping) -> Plan:
        """The plan of a configuration."""
        return self._plans.get(mapping, lambda: annotate(self.graph, mapping))

    def converted(self, mapping: QConfigMapping) -> fx.GraphModule:
        """The quantized graph of a configuration; shared, not to be changed."""
        plan = self.plan(mapping)
        if self.calibration is None:
            self.calibrate()
            plan = self.plan(mapping)  # it may leave in float what was never called
        version = self._version
        return self._converted.get((mapping, version), lambda: self.execute(plan))

    def execute(self, plan: Plan, like: fx.GraphModule | None = None) -> fx.GraphModule:
        """The quantized graph of a plan; with ``like``, sharing that graph's equal modules."""
        scales = {
            value.node: self.activation_qparams(value.node, value.spec)
            for value in plan.values
            if value.observed
        }
        return convert(self.graph, plan, scales, like=like)

    @cached_property
    def probes(self) -> dict[str, LayerProbe]:
        """Every layer by name."""
        return {
            str(node.meta["name"]): LayerProbe(self.graph, node)
            for node in self.graph.graph.nodes
            if node.op in ("call_module", "call_function", "call_method")
        }

    def probe(self, name: str) -> LayerProbe:
        """A layer by name.

        Raises:
            UnknownNameError: No such layer; lists those that exist.
        """
        if not isinstance(name, str) or name not in self.probes:
            raise UnknownNameError.of("layer", name, self.probes)
        return self.probes[name]

    def stats(self, node: str) -> TensorStats:
        """What calibration saw at a node; calibrates first where that has not happened.

        Raises:
            UncalibratedError: No tensor of real numbers was seen there.
        """
        seen = self.calibration or self.calibrate()
        if node not in seen.statistics:
            raise UncalibratedError(
                f"Calibration saw no floating-point tensor at node {node!r}",
                fix="Only tensors of real numbers have statistics.",
            )
        return seen.statistics[node]

    def stability(self, plan: Plan) -> Stability:
        """How far the range of every layer's output, and of every input, still moves.

        Args:
            plan: Tells which outputs are only ever read clamped: of those it is the clamped range.
        """
        clamped = {step.name for step in plan.steps if step.bounds is not None}
        nodes = {
            str(node.meta.get("name", node.name)): node.name
            for node in self.graph.graph.nodes
            if node.op not in ("get_attr", "output")
        }
        nodes |= {name: plan.range_node(node) for name, node in nodes.items() if name in clamped}
        return measure_stability(self.calibration or self.calibrate(), nodes)

    def activation_qparams(self, node: str, spec: TensorSpec) -> QParams:
        """Scale and zero point that a spec gives the tensor of a node, as converted."""
        version, stats = self._version, self.stats(node)
        device = self.graph_device
        return self._qparams.get(
            (node, spec, version), lambda: spec.qparams(stats).whole_range().to(device)
        )

    @cached_property
    def graph_device(self) -> torch.device:
        """Where the graph's tensors live."""
        tensors = [*self.graph.parameters(), *self.graph.buffers()]
        inputs = [x for x in self.example_inputs if isinstance(x, Tensor)]
        return (tensors or inputs)[0].device

    def weight_qparams(self, name: str, spec: TensorSpec) -> tuple[QParams, QuantizationError]:
        """Scale and zero point that a spec gives a layer's weight, as converted, and the error."""

        def measure() -> tuple[QParams, QuantizationError]:
            weight = self.probe(name).weight()
            scales = spec.qparams_of(weight).whole_range()
            return scales, measured_error(weight, scales)

        return self._weights.get((name, spec), measure)

    def input_qparams(self, plan: Plan, probe: LayerProbe) -> list[QParams | None]:
        """How a layer's tensor inputs arrive under a plan; None for those that stay float."""
        found: list[QParams | None] = []
        for node in probe.inputs:
            value = plan.by_node.get(node)
            if value is None:
                found.append(None)
            elif value.constant:
                constant = attribute(self.graph, self._node(node))
                found.append(value.spec.qparams_of(constant).whole_range())
            else:
                found.append(self.activation_qparams(value.source, value.spec))
        return found

    def output_qparams(self, plan: Plan, node: str, spec: TensorSpec) -> QParams:
        """Scale and zero point of a layer's output under a spec; its source's where it shares."""
        return self.activation_qparams(plan.range_node(node), spec)

    def _node(self, name: str) -> fx.Node:
        return next(node for node in self.graph.graph.nodes if node.name == name)

    def ideal_sqnr(self, node: str, spec: TensorSpec) -> float:
        """SQNR [dB] that an ideal uniform quantizer of a spec's type reaches on a float tensor."""
        ideal = TensorSpec(spec.dtype, policy=MSE())
        return expected_error(self.stats(node), self.activation_qparams(node, ideal)).sqnr_db

    def sample(self) -> tuple[dict[str, Any], int]:
        """Every float value for a small fixed sample of the calibration data, and its size.

        As many samples of the first batch as fit 64 MiB of activations, at most 32.
        """
        with self._lock:
            if self._sampled is None:
                self._sampled = self._take_sample()
            return self._sampled

    def _take_sample(self) -> tuple[dict[str, Any], int]:
        if self.sample_inputs is None:
            size = activation_bytes(self.reference, self.example_inputs)
            self.sample_inputs = self._first_samples(size)
        names = [node.name for node in self.graph.graph.nodes if node.op != "output"]
        _, values = GraphRunner(self.reference, names).collect(self.sample_inputs)
        return values, samples_in(self.sample_inputs)

    def _first_samples(self, example_bytes: int) -> tuple[Any, ...]:
        """As many as fit 64 MiB of activations, which take so many bytes for the examples."""
        per_sample = max(example_bytes // samples_in(self.example_inputs), 1)
        largest = min(_LARGEST_SAMPLE, max(_SAMPLE_BYTES // per_sample, 1))
        return sample_inputs(self.sources[0], largest)

    def layer_sample(self, probe: LayerProbe) -> tuple[dict[str, Any], int]:
        """Out of `sample` the values of a layer's inputs and output, and for how many samples.

        As many samples as keep the largest of these tensors within 2 million elements, so that a
        what-if takes milliseconds whatever the size of the layer; at least one.
        """
        values, samples = self.sample()
        own = {node: values[node] for node in (*probe.inputs, probe.node)}
        aligned = {
            node: value
            for node, value in own.items()
            if isinstance(value, Tensor) and value.ndim and value.shape[0] == samples
        }
        largest = max((value[0].numel() for value in aligned.values()), default=1)
        fitting = max(1, min(samples, _LAYER_ELEMENTS // max(largest, 1)))
        if probe.node not in aligned or fitting == samples:
            return own, samples
        return own | {node: value[:fitting] for node, value in aligned.items()}, fitting


def samples_in(inputs: tuple[Any, ...]) -> int:
    """Length of the first tensor's first axis; 1 where there is none."""
    sizes = (x.shape[0] for x in inputs if isinstance(x, Tensor) and x.ndim)
    return max(next(sizes, 1), 1)
