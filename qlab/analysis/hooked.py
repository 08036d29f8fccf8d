"""`ModuleStudy`: what is known of a model that could not be turned into a graph."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from functools import partial
from typing import Any

from pandas import DataFrame
from torch import Tensor, fx, nn

from qlab.analysis.batches import Batch, Batches
from qlab.analysis.calibration import Calibration, channel_axes, collect
from qlab.analysis.channels import ChannelSums, not_quantized
from qlab.analysis.hooked_compare import compare_modules
from qlab.analysis.hooked_run import DynamicLayer, HookedRun, QuantizedOnItsOwn, run_layer
from qlab.analysis.hooked_sensitivity import is_replaced, measure_modules, refuse_executor
from qlab.analysis.layers import Layer, describe_layers
from qlab.analysis.networks import first_tensor
from qlab.analysis.observed import samples_in
from qlab.analysis.parts import with_halves
from qlab.analysis.probe import LayerProbe, QuantizedLayer
from qlab.analysis.report import Report
from qlab.analysis.sensitivity import Sensitivity, check_question
from qlab.analysis.study import Study
from qlab.errors import NonFiniteError, TraceError, UnsupportedError
from qlab.graph import Plan, fuse, trace
from qlab.graph.inputs import Call
from qlab.graph.islands import islands
from qlab.graph.plan import Step
from qlab.graph.shapes import tensors_in
from qlab.qconfig import QConfigMapping
from qlab.registry import PATTERNS, Pattern
from qlab.stats import TensorStats


class ModuleStudy(Study):
    """A `Study` of a model's layers through hooks, where there is no graph between them.

    Every layer takes and gives real numbers and is quantized on its own. A layer that is called
    several times in one forward pass has one set of statistics, over all its calls. What the model
    does between its layers stays in float.

    Args:
        model: The model on the device where everything runs, in evaluation mode.
        call: How it is called, with inputs on that device.
        data: Calibration data.
        error: Why it has no graph.
    """

    def __init__(self, model: nn.Module, call: Call, data: Batches, error: TraceError) -> None:
        self.islands = islands(model, call)
        super().__init__(self.islands.graph, call.values, data)
        self.model = model
        self.trace_error = self._error = error
        self.runs = HookedRun(model, self.graph, call)
        self.nodes = {path: node.name for path, node in self.runs.nodes.items()}
        self.inputs = {
            path: tuple(a.name for a in node.args if isinstance(a, fx.Node))
            for path, node in self.runs.nodes.items()
        }

    def plan(self, mapping: QConfigMapping) -> Plan:
        """The plan of a configuration; what calibration never called stays in float."""
        plan = super().plan(mapping)
        seen = self.calibration.statistics if self.calibration is not None else None
        missed = {
            node
            for path, node in self.nodes.items()
            if seen is not None and not any(n in seen for n in (node, *self.inputs[path]))
        }
        missed &= {step.node for step in plan.steps if step.quantized}
        if not missed:
            return plan
        names = {n for p, node in self.nodes.items() if node in missed for n in self.inputs[p]}
        return Plan(
            steps=tuple(_in_float(s) if s.node in missed else s for s in plan.steps),
            values=tuple(v for v in plan.values if v.node not in missed | names),
            unmatched=plan.unmatched,
            integer_biases=plan.integer_biases,
        )

    def whole_graph(self, what: str) -> fx.GraphModule:
        """Raises `UnsupportedError`: there is none; says what it was needed for, and why."""
        raise UnsupportedError(
            f"{what} needs the model as one graph, and it has none: {self._error.problem}",
            received=self._error.why or None,
            fix="Rewrite that line, or ask what works layer by layer: calibrate, what_if, causes, "
            "compare, sensitivity, convert.",
        )

    @property
    def floating(self) -> nn.Module:
        """The model itself; not to be changed."""
        return self.model

    def layers(self, plan: Plan) -> tuple[Layer, ...]:
        """The layers that are called, then those that are not, then what runs as Python."""
        called = (replace(layer, inputs=()) for layer in describe_layers(self.graph, plan))
        return (*called, *self._idle())

    def _idle(self) -> Iterator[Layer]:
        """The layers that hooks see nothing of."""
        yield from (
            _unquantizable(path, kind, "never called for the example inputs")
            for path, kind in self.islands.uncalled
        )
        reason = "not traced: what its forward does between its layers stays in float"
        yield from (_unquantizable(p or "forward", k, reason) for p, k in self.islands.python)

    def probe(self, name: str) -> LayerProbe:
        """A layer by name.

        Raises:
            UnknownNameError: No such layer; lists those that are called.
            UnsupportedError: Hooks see nothing of it; says why.
        """
        for layer in self._idle():
            if layer.name == name and name not in self.probes:
                raise UnsupportedError(
                    f"Nothing is known of the layer {name!r}", received=layer.reason
                )
        return super().probe(name)

    def _collect(
        self,
        sources: Sequence[Batches],
        start: Calibration | None,
        called: str = "calibration",
        **hooks: Any,
    ) -> Calibration:
        """Statistics of what every layer takes and gives, over all its calls."""
        order = [node.name for node in self.graph.graph.nodes]
        describe = partial(self._describe, called)
        return collect(sources, describe, order, start=start, **hooks)

    def _describe(
        self, called: str, batch: Batch, index: int, statistics: dict[str, TensorStats]
    ) -> None:
        where = f"batch {index} of the {called} data"
        axes = channel_axes(self.graph)

        def note(node: str, name: str, value: Any) -> bool:
            """Adds a tensor; whether it holds infinity."""
            if not (isinstance(value, Tensor) and value.is_floating_point()):
                return False
            axis = axes.get(self.nodes[name])  # else a shared layer may see any number
            stats = statistics.setdefault(node, TensorStats(channel_axis=axis))
            infinite = stats.inf_count
            stats.update(value, index)
            if stats.nan_count:
                verb = "produces" if node == self.nodes[name] else "is given"
                raise _not_finite("NaN", verb, name, where)
            return stats.inf_count > infinite

        last = ""

        def observe(name: str, given: Any, output: Any) -> None:
            nonlocal last
            last = name
            tensors = [value for value in given if isinstance(value, Tensor)]
            pairs = zip(self.inputs[name], tensors, strict=False)
            before = [note(node, name, value) for node, value in pairs]
            if note(self.nodes[name], name, output) and not any(before):
                raise _not_finite("Infinity", "produces", name, where)

        for output in tensors_in(self.runs.run(batch.inputs, observe)):
            if output.is_floating_point() and bool((output.isnan() | output.isposinf()).any()):
                what = "NaN" if bool(output.isnan().any()) else "Infinity"
                raise _made_between(what, last, where)

    def _take_sample(self) -> tuple[dict[str, Any], int]:
        """What every layer takes and gives in its first call, for a small sample of the data."""
        if self.sample_inputs is None:
            size = 4 * sum(node.meta.get("numel", 0) for node in self.graph.graph.nodes)
            self.sample_inputs = self._first_samples(size)
        values: dict[str, Any] = {}

        def keep(name: str, given: Any, output: Any) -> None:
            if self.nodes[name] not in values and isinstance(output, Tensor):
                values.update(self._around(name, given, output))

        self.runs.run(self.sample_inputs, keep)
        self.runs.run(self.example_inputs, keep)  # for layers that the sample does not reach
        return values, samples_in(self.sample_inputs)

    def _around(self, name: str, given: Any, output: Any) -> dict[str, Any]:
        """Copies of what a layer takes and gives, by node; what follows may write to them."""
        copies = [value.clone() for value in given if isinstance(value, Tensor)]
        named = dict(zip(self.inputs[name], copies, strict=False))
        return {**named, self.nodes[name]: output.clone()}

    def float_values(
        self,
        probe: LayerProbe,
        few: bool = False,
        samples: Iterable[tuple[Any, ...]] | None = None,
    ) -> Iterator[dict[str, Any]]:
        """The float values around a layer for all calibration data, call by call."""
        for inputs in self._inputs(few) if samples is None else samples:
            calls: list[dict[str, Any]] = []

            def keep(name: str, given: Any, output: Any, calls: Any = calls) -> None:
                if isinstance(output, Tensor):
                    calls.append(self._around(name, given, output))

            self.runs.run(inputs, keep, watch=[probe.name])
            yield from calls

    def quantized_layers(self, mapping: QConfigMapping) -> dict[str, QuantizedLayer]:
        """The layers that a configuration quantizes, as they are deployed, by name."""
        graph, found = self.converted(mapping), {}
        plan = self.plan(mapping)
        coded = {n.meta["source"]: n for n in graph.graph.nodes if "qparams" in n.meta}
        for step in plan.steps:
            if is_replaced(step):
                module = graph.get_submodule(step.name)
                qparams = coded[step.node].meta["qparams"] if step.node in coded else None
                dynamic = step.execution == "dynamic"
                layer = DynamicLayer(module, None) if dynamic else QuantizedLayer(module, qparams)
                found[step.name] = layer
        return found

    def compare(
        self, mapping: QConfigMapping, data: Batches, *, parts: bool = False, **hooks: Any
    ) -> Report:
        """As `Lab.compare`: local error of each layer, accumulated error, and the output's."""
        mappings = with_halves(mapping) if parts else (mapping,)
        with self._lock:
            return compare_modules(self, mappings, data, **hooks)

    def channels(self, name: str, mapping: QConfigMapping, data: Batches) -> DataFrame:
        """As `Lab.channels`, over all calls of the layer."""
        self.probe(name)
        layer = self.quantized_layers(mapping).get(name)
        step = self.plan(mapping).step(name)
        if layer is None:
            raise not_quantized(step)
        sums = ChannelSums(step, layer, channel_axes(self.graph).get(step.node))

        def add(_: str, given: Any, output: Any) -> None:
            sums.add(first_tensor(output), first_tensor(run_layer(layer, given)))

        with self._lock:
            for batch in data:
                self.runs.run(batch.inputs, add, watch=[name])
        return sums.to_frame()

    def sensitivity(
        self,
        candidates: dict[str, QConfigMapping],
        data: Batches,
        ways: tuple[str, ...] | None = None,
        executor: Executor | None = None,
        since: Sensitivity | None = None,
        **hooks: Any,
    ) -> Sensitivity:
        """As `Lab.sensitivity`, by running the model once per layer and way, one after the other.

        Raises:
            UnsupportedError: The gradient estimate is asked for, which needs a graph, or an
                executor is given.
        """
        ways = ("on", "off") if ways is None else tuple(ways)
        check_question(ways, candidates, since)
        refuse_executor(executor)
        if "estimate" in ways:
            self.whole_graph("The gradient estimate of sensitivity")
        with self._lock:
            return measure_modules(self, candidates, data, ways=ways, since=since, **hooks)

    def callables(self, mapping: QConfigMapping) -> tuple[Callable[..., Any], Callable[..., Any]]:
        """The float and the quantized network, for the inputs of a batch; not to be changed."""

        def call(model: nn.Module) -> Callable[..., Any]:
            return lambda *inputs: self.runs.call.run(model, inputs)

        return call(self.model), call(self.network(mapping))

    def network(self, mapping: QConfigMapping) -> nn.Module:
        """A copy of the model in which every quantized layer is its quantized self.

        Each takes and gives real numbers: it quantizes what comes and dequantizes what it gives.
        """
        layers = self.quantized_layers(mapping)
        model = copy.deepcopy(self.model)
        floats = {path: model.get_submodule(path) for path in layers}
        made = {id(m): QuantizedOnItsOwn(m, layers[path]) for path, m in floats.items()}
        for path, module in list(model.named_modules(remove_duplicate=False)):
            if id(module) in made:
                model.set_submodule(path, made[id(module)])
        return model.eval()


def study_of(
    model: nn.Module,
    call: Call,
    data: Batches,
    memory_budget: int = 0,
    patterns: Sequence[Pattern] = PATTERNS,
) -> Study:
    """The study of a model: of its graph, or of its modules where it has no graph.

    Args:
        model: A float model on the device where everything runs; it stays as it is.
        call: How it is called, with inputs on that device.
        data: Calibration data.
        memory_budget: How many bytes of the float network's activations are kept.
        patterns: The chains of a graph that are fused.
    """
    try:
        graph = fuse(trace(model, call.example_inputs), patterns)
    except TraceError as error:
        return ModuleStudy(copy.deepcopy(model).eval(), call, data, error)
    return Study(graph, call.values, data, memory_budget)


def _not_finite(what: str, verb: str, name: str, where: str) -> NonFiniteError:
    return NonFiniteError(
        f"{what} in the float model: the first layer that {verb} it is {name!r}",
        received=f"{what} in {where}",
        fix="Check that layer's weights and the data of this batch.",
    )


def _made_between(what: str, last: str, where: str) -> NonFiniteError:
    return NonFiniteError(
        f"{what} in the float model's output: made by its own code behind the layer {last!r}, "
        "which gives finite numbers",
        received=f"{what} in {where}",
        fix="Check what the model's forward does after that layer.",
    )


def _in_float(step: Step) -> Step:
    inputs = tuple(None for _ in step.inputs)
    reason = "never called by the calibration data"
    return replace(step, inputs=inputs, weight=None, output=None, execution="float", reason=reason)


def _unquantizable(name: str, kind: str, reason: str) -> Layer:
    return Layer(name, kind, None, None, 0, (), (), False, reason)
