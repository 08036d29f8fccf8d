"""Decisions computed from what calibration saw of a float graph, and what they cost."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import replace
from functools import cached_property, partial
from typing import Any, Self

import torch
from pandas import DataFrame
from torch import Tensor, fx, nn

from qlab.analysis.batches import Batches
from qlab.analysis.cache import LastResults
from qlab.analysis.calibration import Calibration
from qlab.analysis.channels import channel_errors
from qlab.analysis.compare import compare_graphs
from qlab.analysis.layers import Layer, describe_layers
from qlab.analysis.networks import Networks
from qlab.analysis.observed import Observed
from qlab.analysis.parts import with_halves
from qlab.analysis.probe import LayerProbe
from qlab.analysis.report import Report
from qlab.analysis.sensitivity import WAYS, Sensitivity, measure_sensitivity
from qlab.analysis.stability import Stability, measure_stability
from qlab.errors import TraceError, UnknownNameError
from qlab.execution import Program, RunStore
from qlab.graph import Plan, annotate, convert
from qlab.graph.lift import attribute
from qlab.qconfig import QConfigMapping
from qlab.qparams import QParams
from qlab.ranges import MSE, MinMax, QuantizationError, TensorSpec, expected_error, measured_error

_KEPT_GRAPHS = 4
_KEPT_PLANS = 32
_KEPT_QPARAMS = 10_000
_KEPT_WEIGHTS = 1_000


class Study(Observed):
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
        super().__init__(graph, example_inputs, data, reference)
        self.floats = RunStore(Program.of(self.reference), memory_budget)
        self.original = self.floats
        self.trace_error: TraceError | None = None
        self._version = 0
        self._plans: LastResults[Plan] = LastResults(_KEPT_PLANS)
        self._converted: LastResults[fx.GraphModule] = LastResults(_KEPT_GRAPHS)
        self._qparams: LastResults[QParams] = LastResults(_KEPT_QPARAMS)
        self._weights: LastResults[QParams] = LastResults(_KEPT_WEIGHTS)
        self._weight_errors: LastResults[QuantizationError] = LastResults(_KEPT_WEIGHTS)

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

    def _forget(self) -> None:
        """Drops what was computed from older statistics; `_version` keeps it from coming back."""
        self._version += 1
        self._qparams.clear()
        self._converted.clear()

    def copied(self) -> Self:
        """The same, to be shown more data while this one stays as it is."""
        made = copy.copy(self)
        made.sources = list(self.sources)  # the lock is shared, as the model with its hooks is
        for name in ("_plans", "_converted", "_qparams", "_weights", "_weight_errors"):
            setattr(made, name, getattr(self, name).emptied())
        return made

    def whole_graph(self, what: str) -> fx.GraphModule:
        """The float graph, for what needs it whole.

        Args:
            what: What needs it, for the error where there is none.

        Raises:
            UnsupportedError: The model has no graph; says why.
        """
        return self.graph

    @property
    def floating(self) -> nn.Module:
        """The float network whose layers are quantized; not to be changed."""
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

    def compare(
        self, mapping: QConfigMapping, data: Batches, *, parts: bool = False, **hooks: Any
    ) -> Report:
        """Every layer's error and the network's; see `compare_graphs` for the ``hooks``."""
        whole, *others = map(self._networks, with_halves(mapping) if parts else [mapping])
        given: Any = {"parts": others, "original": self.original, **hooks}
        return compare_graphs(whole, (data, self.floats), self.ideal_sqnr, **given)

    def channels(self, name: str, mapping: QConfigMapping, data: Batches) -> DataFrame:
        """The local error of each channel of a layer; see `channel_errors`."""
        return channel_errors(self._networks(mapping), name, (data, self.floats))

    def _networks(self, mapping: QConfigMapping) -> Networks:
        return Networks(self.graph, self.converted(mapping), self.plan(mapping))

    def sensitivity(
        self,
        candidates: dict[str, QConfigMapping],
        data: Batches,
        ways: tuple[str, ...] | None = None,
        executor: Executor | None = None,
        **hooks: Any,
    ) -> Sensitivity:
        """What each layer costs the network, in all ways if none is given.

        See `measure_sensitivity`.
        """
        given: Any = {"ways": WAYS if ways is None else ways, "executor": executor, **hooks}
        return measure_sensitivity(self, candidates, (data, self.floats), **given)

    def plan(self, mapping: QConfigMapping) -> Plan:
        """The plan of a configuration."""
        masks = self.masks
        return self._plans.get((mapping, masks), lambda: annotate(self.graph, mapping, masks=masks))

    def converted(self, mapping: QConfigMapping) -> fx.GraphModule:
        """The quantized graph of a configuration; shared, not to be changed."""
        plan = self.plan(mapping)
        if self.calibration is None:
            self.calibrate()
            plan = self.plan(mapping)  # it may leave in float what was never called
        version = self._version
        return self._converted.get((mapping, version), lambda: self.execute(plan))

    def execute(
        self, plan: Plan, like: fx.GraphModule | None = None, *, sized: bool = False
    ) -> fx.GraphModule:
        """The quantized graph of a plan.

        Args:
            plan: The plan.
            like: Another graph, whose equal modules are shared.
            sized: Whether only its size matters: weights then get the range from their least to
                their largest value, at once, whatever their specs search for.
        """
        scales = {
            value.node: self.activation_qparams(value.node, value.spec)
            for value in plan.values
            if value.observed
        }
        found = self._sizing_scales if sized else self.weight_scales
        return convert(self.graph, plan, scales, weight_scales=found, like=like)

    def _sizing_scales(self, name: str, spec: TensorSpec) -> QParams:
        return self.weight_scales(name, replace(spec, policy=MinMax()))

    def scales(self, plan: Plan) -> Iterator[tuple[str, Callable[[], object]]]:
        """What `execute` computes first, in pieces that take less than a batch: whose, and how.

        Who runs them before `converted` may ask in between whether to stop.
        """
        for step in plan.quantized_steps:
            if step.weight is not None:
                yield step.name, partial(self.weight_scales, step.name, step.weight)
        for value in plan.values:
            if value.observed:
                yield value.node, partial(self.activation_qparams, value.node, value.spec)

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

        def measure() -> QuantizationError:
            return measured_error(self.probe(name).weight(), scales)

        scales = self.weight_scales(name, spec)
        return scales, self._weight_errors.get((name, spec), measure)

    def weight_scales(self, name: str, spec: TensorSpec) -> QParams:
        """Scale and zero point that a spec gives a layer's weight, as converted."""
        return self._weights.get(
            (name, spec), lambda: spec.qparams_of(self.probe(name).weight()).whole_range()
        )

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
