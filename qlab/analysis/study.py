"""A fused float graph, what calibration saw of it, and the decisions computed from that."""

from __future__ import annotations

import copy
import threading
from functools import cached_property
from typing import Any

import torch
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
from qlab.analysis.compare import Networks, compare_graphs
from qlab.analysis.layers import Layer, describe_layers
from qlab.analysis.probe import LayerProbe
from qlab.analysis.report import Report
from qlab.errors import TraceError, UncalibratedError, UnknownNameError
from qlab.execution import GraphRunner
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


class Study:
    """Statistics are collected once; plans, scales and quantized graphs are computed from them.

    Args:
        graph: The float graph after fusion, on the device where everything runs.
        example_inputs: Inputs of one call, on that device.
        data: Calibration data.
    """

    def __init__(self, graph: fx.GraphModule, example_inputs: tuple[Any, ...], data: Batches):
        self.graph = graph
        self.example_inputs = example_inputs
        self._data = data
        self.calibration: Calibration | None = None
        self._sampled: tuple[dict[str, Any], int] | None = None
        self.trace_error: TraceError | None = None
        self._lock = threading.RLock()
        self._plans: LastResults[Plan] = LastResults(_KEPT_PLANS)
        self._converted: LastResults[fx.GraphModule] = LastResults(_KEPT_GRAPHS)
        self._qparams: LastResults[QParams] = LastResults(_KEPT_QPARAMS)
        self._weights: LastResults[tuple[QParams, QuantizationError]] = LastResults(_KEPT_WEIGHTS)

    def calibrate(
        self, on_progress: Progress | None = None, should_stop: Stop | None = None
    ) -> Calibration:
        """One float pass over the calibration data; returns at once where it was completed."""
        with self._lock:
            if self.calibration is None or not self.calibration.complete:
                self._qparams.clear()
                self._converted.clear()
                self.calibration = self._collect(on_progress, should_stop)
            return self.calibration

    def _collect(self, on_progress: Progress | None, should_stop: Stop | None) -> Calibration:
        names = {n.name: str(n.meta.get("name", n.name)) for n in self.graph.graph.nodes}
        return collect_statistics(
            self.graph, self._data, names, on_progress=on_progress, should_stop=should_stop
        )

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

    def compare(
        self,
        mapping: QConfigMapping,
        data: Batches,
        *,
        on_progress: Progress | None = None,
        should_stop: Stop | None = None,
    ) -> Report:
        """Every layer's local and accumulated error, and the network's own; see `Lab.compare`."""
        if self.calibration is None:
            self.calibrate(on_progress)
        return compare_graphs(
            Networks(self.graph, self.converted(mapping), self.plan(mapping)),
            data,
            self.ideal_sqnr,
            on_progress=on_progress,
            should_stop=should_stop,
        )

    def plan(self, mapping: QConfigMapping) -> Plan:
        """The plan of a configuration."""
        return self._plans.get(mapping, lambda: annotate(self.graph, mapping))

    def converted(self, mapping: QConfigMapping) -> fx.GraphModule:
        """The quantized graph of a configuration; shared, not to be changed."""
        plan = self.plan(mapping)
        if self.calibration is None:
            self.calibrate()
        scales = {
            value.node: self.activation_qparams(value.node, value.spec)
            for value in plan.values
            if value.observed
        }
        return self._converted.get(mapping, lambda: convert(self.graph, plan, scales))

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

    def activation_qparams(self, node: str, spec: TensorSpec) -> QParams:
        """Scale and zero point that a spec gives the tensor of a node."""
        stats = self.stats(node)
        device = self.graph_device
        return self._qparams.get((node, spec), lambda: spec.qparams(stats).to(device))

    @cached_property
    def graph_device(self) -> torch.device:
        """Where the graph's tensors live."""
        tensors = [*self.graph.parameters(), *self.graph.buffers()]
        inputs = [x for x in self.example_inputs if isinstance(x, Tensor)]
        return (tensors or inputs)[0].device

    def weight_qparams(self, name: str, spec: TensorSpec) -> tuple[QParams, QuantizationError]:
        """Scale and zero point that a spec gives a layer's weight, and the error they cost."""

        def measure() -> tuple[QParams, QuantizationError]:
            weight = self.probe(name).weight()
            scales = spec.qparams_of(weight)
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
                found.append(value.spec.qparams_of(attribute(self.graph, self._node(node))))
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
        per_sample = activation_bytes(self.graph, self.example_inputs)
        inputs = sample_inputs(self._data, largest_sample(per_sample, self.example_inputs))
        names = [node.name for node in self.graph.graph.nodes if node.op != "output"]
        _, values = GraphRunner(self.graph, names).collect(inputs)
        return values, samples_in(inputs)


def largest_sample(example_bytes: int, example_inputs: tuple[Any, ...]) -> int:
    """How many samples fit 64 MiB of activations, at most 32.

    Args:
        example_bytes: Bytes of all activations for the example inputs.
        example_inputs: Those inputs.
    """
    per_sample = max(example_bytes // samples_in(example_inputs), 1)
    return min(_LARGEST_SAMPLE, max(_SAMPLE_BYTES // per_sample, 1))


def samples_in(inputs: tuple[Any, ...]) -> int:
    """Length of the first tensor's first axis; 1 where there is none."""
    sizes = (x.shape[0] for x in inputs if isinstance(x, Tensor) and x.ndim)
    return max(next(sizes, 1), 1)
