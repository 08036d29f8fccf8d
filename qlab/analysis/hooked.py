"""`ModuleStudy`: what is known of a model that could not be turned into a graph."""

from __future__ import annotations

import copy
import inspect
from dataclasses import replace
from typing import Any

from torch import Tensor, fx, nn

from qlab.analysis.batches import Batches
from qlab.analysis.calibration import (
    Calibration,
    Progress,
    Stop,
    channel_axes,
    sample_inputs,
)
from qlab.analysis.hooked_compare import compare_modules
from qlab.analysis.hooked_run import DynamicLayer, HookedRun, run_layer
from qlab.analysis.hooked_sensitivity import ModuleSensitivity, one_by_one
from qlab.analysis.layers import Layer, describe_layers
from qlab.analysis.probe import QuantizedLayer
from qlab.analysis.report import Report
from qlab.analysis.study import Study, largest_sample, samples_in
from qlab.errors import NonFiniteError, TraceError, UnsupportedError
from qlab.graph import Plan, fuse, trace
from qlab.graph.islands import islands
from qlab.graph.plan import Step
from qlab.qconfig import QConfigMapping
from qlab.stats import TensorStats


class ModuleStudy(Study):
    """A `Study` of a model's layers through hooks, where there is no graph between them.

    Every layer takes and gives real numbers and is quantized on its own. A layer that is called
    several times in one forward pass has one set of statistics, over all its calls. What the model
    does between its layers stays in float.

    Args:
        model: The model on the device where everything runs, in evaluation mode.
        example_inputs: Inputs of one call, on that device.
        data: Calibration data.
        error: Why it has no graph.
    """

    def __init__(
        self,
        model: nn.Module,
        example_inputs: tuple[Any, ...],
        data: Batches,
        error: TraceError,
    ) -> None:
        self.islands = islands(model, example_inputs)
        super().__init__(self.islands.graph, example_inputs, data)
        self.model = model
        self.trace_error = self._error = error
        self.runs = HookedRun(model, self.graph)
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
        )

    def whole_graph(self, what: str) -> fx.GraphModule:
        """Raises `UnsupportedError`: there is none; says what it was needed for, and why."""
        raise UnsupportedError(
            f"{what} needs the model as one graph, and it has none: {self._error.problem}",
            received=self._error.why or None,
            fix="Rewrite that line, or ask what works layer by layer: calibrate, what_if, causes, "
            "compare, sensitivity, convert.",
        )

    def layers(self, plan: Plan) -> tuple[Layer, ...]:
        """The layers that are called, then those that are not, then what runs as Python."""
        called = describe_layers(self.graph, plan)
        uncalled = (
            _unquantizable(path, kind, "never called for the example inputs")
            for path, kind in self.islands.uncalled
        )
        reason = "not traced: what its forward does between its layers stays in float"
        python = (_unquantizable(p or "forward", k, reason) for p, k in self.islands.python)
        return (*called, *uncalled, *python)

    def _collect(self, on_progress: Progress | None, should_stop: Stop | None) -> Calibration:
        """One float pass; statistics of what every layer takes and gives, over all its calls."""
        axes, result, total = channel_axes(self.graph), Calibration(), len(self._data)
        for index, batch in enumerate(self._data):

            def note(node: str, name: str, value: Any, index: int = index) -> None:
                if not (isinstance(value, Tensor) and value.is_floating_point()):
                    return
                axis = axes.get(self.nodes[name])  # else a shared layer may see any number
                stats = result.statistics.setdefault(node, TensorStats(channel_axis=axis))
                stats.update(value, index)
                if stats.nan_count:
                    verb = "produces" if node == self.nodes[name] else "is given"
                    raise NonFiniteError(
                        f"NaN in the float model: the first layer that {verb} it is {name!r}",
                        received=f"{stats.nan_count} NaN in batch {index} of the calibration data",
                        fix="Check that layer's weights and the data of this batch.",
                    )

            def observe(name: str, given: Any, output: Any, note: Any = note) -> None:
                tensors = [value for value in given if isinstance(value, Tensor)]
                for node, value in zip(self.inputs[name], tensors, strict=False):
                    note(node, name, value)
                note(self.nodes[name], name, output)

            self.runs.run(batch.inputs, observe)
            result.batches += 1
            result.samples += batch.samples
            if on_progress is not None:
                on_progress(result.batches, total, "calibrating")
            if should_stop is not None and should_stop():
                break
        result.complete = result.batches >= total
        order = {node.name: i for i, node in enumerate(self.graph.graph.nodes)}
        result.statistics = dict(sorted(result.statistics.items(), key=lambda kv: order[kv[0]]))
        return result

    def _take_sample(self) -> tuple[dict[str, Any], int]:
        """What every layer takes and gives in its first call, for a small sample of the data."""
        example_bytes = 4 * sum(n.meta.get("numel", 0) for n in self.graph.graph.nodes)
        inputs = sample_inputs(self._data, largest_sample(example_bytes, self.example_inputs))
        values: dict[str, Any] = {}

        def keep(name: str, given: Any, output: Any) -> None:
            if self.nodes[name] not in values and isinstance(output, Tensor):
                copies = [value.clone() for value in given if isinstance(value, Tensor)]
                values.update(zip(self.inputs[name], copies, strict=False))
                values[self.nodes[name]] = output.clone()

        self.runs.run(inputs, keep)
        self.runs.run(self.example_inputs, keep)  # for layers that the sample does not reach
        return values, samples_in(inputs)

    def quantized_layers(self, mapping: QConfigMapping) -> dict[str, QuantizedLayer]:
        """The layers that a configuration quantizes, as they are deployed, by name."""
        plan, found = self.plan(mapping), {}
        graph = self.converted(mapping)
        coded = {n.meta["source"]: n for n in graph.graph.nodes if "qparams" in n.meta}
        for step in plan.steps:
            if step.execution in ("integer", "simulated", "dynamic"):
                module = graph.get_submodule(step.name)
                qparams = coded[step.node].meta["qparams"] if step.node in coded else None
                dynamic = step.execution == "dynamic"
                layer = DynamicLayer(module, None) if dynamic else QuantizedLayer(module, qparams)
                found[step.name] = layer
        return found

    def compare(
        self,
        mapping: QConfigMapping,
        data: Batches,
        *,
        on_progress: Progress | None = None,
        should_stop: Stop | None = None,
    ) -> Report:
        """As `Lab.compare`: local error of each layer, accumulated error, and the output's."""
        if self.calibration is None:
            self.calibrate(on_progress)
        with self._lock:
            return compare_modules(
                self, mapping, data, on_progress=on_progress, should_stop=should_stop
            )

    def sensitivity(
        self,
        candidates: dict[str, QConfigMapping],
        data: Batches,
        *,
        ways: tuple[str, ...] = ("on", "off"),
        on_progress: Progress | None = None,
        should_stop: Stop | None = None,
    ) -> ModuleSensitivity:
        """As `Lab.sensitivity`, by running the model once per layer and way, one after the other.

        Raises:
            UnsupportedError: Only the gradient estimate is asked for, which needs a graph.
        """
        if ways == ("estimate",):
            self.whole_graph("The gradient estimate of sensitivity")
        if self.calibration is None:
            self.calibrate(on_progress)
        layers = {name: self.quantized_layers(mapping) for name, mapping in candidates.items()}
        with self._lock:
            return one_by_one(
                self.runs, layers, data, ways=ways, on_progress=on_progress, should_stop=should_stop
            )

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


class QuantizedOnItsOwn(nn.Module):
    """A quantized layer in a model without a graph: real numbers in, real numbers out.

    Args:
        module: The float layer whose place it takes.
        layer: The same as it is deployed.
    """

    def __init__(self, module: nn.Module, layer: QuantizedLayer) -> None:
        super().__init__()
        self.layer = copy.deepcopy(layer.module)
        self._deployed = type(layer)
        self.output_qparams = layer.output
        self._float_type = type(module)
        self._in_place = bool(vars(module).get("inplace"))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The float layer's arguments → its output, as its codes stand for it."""
        if kwargs:
            bound = inspect.signature(self._float_type.forward).bind(self, *args, **kwargs)
            args = bound.args[1:]
        result = run_layer(self._deployed(self.layer, self.output_qparams), args)
        return args[0].copy_(result) if self._in_place else result

    def extra_repr(self) -> str:
        return f"instead of {self._float_type.__name__}, real numbers in and out"


def study_of(model: nn.Module, example_inputs: tuple[Any, ...], data: Batches) -> Study:
    """The study of a model: of its graph, or of its modules where it has no graph.

    Args:
        model: A float model on the device where everything runs; it stays as it is.
        example_inputs: Inputs of one call, on that device.
        data: Calibration data.
    """
    try:
        return Study(fuse(trace(model, example_inputs)), example_inputs, data)
    except TraceError as error:
        return ModuleStudy(copy.deepcopy(model).eval(), example_inputs, data, error)


def _in_float(step: Step) -> Step:
    inputs = tuple(None for _ in step.inputs)
    reason = "never called by the calibration data"
    return replace(step, inputs=inputs, weight=None, output=None, execution="float", reason=reason)


def _unquantizable(name: str, kind: str, reason: str) -> Layer:
    return Layer(name, kind, None, None, 0, (), False, reason)
