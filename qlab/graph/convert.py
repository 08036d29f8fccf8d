"""Convert: executes a plan. Operators become integer modules, codes flow between them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from qlab import registry
from qlab.errors import ArgumentError, QlabError, UnsupportedError
from qlab.graph.backend import half_static
from qlab.graph.finite import check_parameters
from qlab.graph.generated import write_for_speed
from qlab.graph.lift import attribute, shape_nodes
from qlab.graph.plan import Plan, Step, Value, uncalibrated
from qlab.graph.prepare import device_of
from qlab.graph.special import CodesToQTensor, QTensorToCodes
from qlab.nn.intrinsic.fold import core
from qlab.nn.quantized import DeQuantize, Output, Quantize
from qlab.nn.quantized.holder import OUTPUT, QParamsHolder
from qlab.nn.quantized.weighted import WeightedModule
from qlab.nn.stubs import QuantStub
from qlab.qparams import QParams, quantize
from qlab.ranges import TensorSpec
from qlab.registry import Row
from qlab.registry.references import HALF_WEIGHT, reference_form
from qlab.stats import TensorStats

WeightScales = Callable[[str, TensorSpec], QParams]


def convert(
    graph_module: fx.GraphModule,
    plan: Plan,
    qparams: Mapping[str, QParams],
    *,
    weights: Mapping[str, QParams] | None = None,
    weight_scales: WeightScales | None = None,
    replaced: Mapping[str, nn.Module] | None = None,
    like: fx.GraphModule | None = None,
    writer: type[Conversion] | None = None,
) -> fx.GraphModule:
    """The quantized graph that a plan describes. Plain tensors of codes flow between its modules.

    Floating point is turned into codes where it enters a step on codes, and back where codes enter
    a float operator or leave the graph; parameters that are operands are stored as codes. A node
    that stands for an operator keeps the name it has in the float graph and its ``meta["name"]``;
    ``meta["source"]`` of every node names the float node whose value it carries, and
    ``meta["qparams"]``, where its value is codes, how to read them.

    Args:
        graph_module: The float graph, made by `trace` and `fuse`; it stays as it is.
        plan: What `annotate` decided for it.
        qparams: Scale and zero point of the observed tensors, by node, as `Plan.qparams` gives.
        weights: Scale and zero point of weights, by step, where they shall not be what the step's
            spec gives for the weight.
        weight_scales: Gives what a spec makes of a step's weight, for who keeps it.
        replaced: Modules to put in place of custom and standalone ones, by node.
        like: What `convert` made of the same graph under another plan. Its modules serve here too
            wherever they would be equal: they are shared, not copied.
        writer: What writes the graph, where it shall not be `Conversion`.

    Returns:
        A graph in evaluation mode that takes and gives what the float graph does; its
        ``meta["plan"]`` is the plan.

    Raises:
        ArgumentError: The plan was made for another graph.
        UncalibratedError: An observed tensor has no scale; names it.
        NonFiniteError: NaN or infinity in a parameter of a layer to be quantized; names it.
    """
    known = {node.name for node in graph_module.graph.nodes}
    if foreign := sorted({step.node for step in plan.steps} - known):
        raise ArgumentError(
            "convert: the plan was made for another graph",
            expected="a plan that annotate made for this graph",
            received=f"steps at nodes it does not have: {', '.join(foreign[:5])}",
        )
    check_parameters(graph_module, plan, None if like is None else like.meta["plan"])
    made = (writer or Conversion)(graph_module, plan, (qparams, weights or {}), replaced or {})
    made.weight_scales = weight_scales
    if like is not None:
        made.like = like.meta["plan"], dict(like.named_modules(remove_duplicate=False))
    return made.run()


def is_converted(graph_module: fx.GraphModule) -> bool:
    """Whether a graph is what `convert` returns."""
    return any("source" in node.meta for node in graph_module.graph.nodes)


class Conversion:
    """The graph being written, and for each float node the nodes that carry its value."""

    def __init__(
        self,
        graph_module: fx.GraphModule,
        plan: Plan,
        qparams: tuple[Mapping[str, QParams], Mapping[str, QParams]],
        replaced: Mapping[str, nn.Module],
    ) -> None:
        self.source = graph_module
        self.plan = plan
        self.given, self.weights = qparams
        self.replaced = replaced
        self.steps = {step.node: step for step in plan.steps}
        self.shapes = shape_nodes(graph_module)
        self.device = device_of(graph_module)
        self.names = {node.name for node in graph_module.graph.nodes}
        self.graph = fx.Graph()
        self.targets: dict[str, nn.Module | Tensor] = {}
        self.reals: dict[fx.Node, fx.Node] = {}
        self.codes: dict[fx.Node, fx.Node] = {}
        self.rounded: dict[fx.Node, fx.Node] = {}
        self.copies: dict[int, Any] = {}
        self.resolved: dict[str, QParams] = {}
        self.shared_weights: dict[Any, Any] = {}
        self.weight_scales: WeightScales | None = None
        self.like: tuple[Plan, dict[str, nn.Module]] | None = None

    def run(self) -> fx.GraphModule:
        for node in self.source.graph.nodes:
            if node.op in ("placeholder", "output"):
                self.reals[node] = self._copy(node, self._real)
            elif node.op != "get_attr":
                self._write_step(node, self.steps[node.name])
        self.graph.lint()
        write_for_speed(self.graph, self.targets)
        converted = fx.GraphModule(self.targets, self.graph, type(self.source).__name__)
        converted.meta["plan"] = self.plan
        return converted.eval()

    def _write_step(self, node: fx.Node, step: Step) -> None:
        if node in self.shapes:
            of_codes = "dtype" not in node.args  # which would not be the float network's
            self.reals[node] = self._copy(node, self._any_form if of_codes else self._real)
        elif node.name in self.replaced:
            self._write_replaced(node, step)
        elif step.execution == "dynamic":
            self._write_dynamic(node, step)
        elif step.execution == "simulated" and not step.quantized and half_static(step.requested):
            self.reals[node] = self._write_half(node, step)
        elif step.weight is None and step.output is None:
            self.reals[node] = self._copy(node, self._real)
        elif self._row(step).static is None:
            self._codes(node.all_input_nodes[0])
            self.codes[node] = self._carries(self._copy(node, self._any_form), node)
        elif step.weight is None and self._row(step).weight:
            self.codes[node] = self._quantized(node, self._copy(node, self._rounded))
        else:
            self._write_module(node, step)

    # Operators

    def _row(self, step: Step) -> Row:
        row = next((row for row in registry.ROWS if row.name == step.row), None)
        assert row is not None, f"step {step.name!r} has no row {step.row!r}"
        return row

    def _write_module(self, node: fx.Node, step: Step) -> None:
        """Puts the integer module of an operator into the graph."""
        on_codes = step.output is not None
        operands = [argument for argument in node.args if isinstance(argument, fx.Node)]
        inputs = [self._qparams(o) if on_codes else None for o in operands]
        made = self._module_like(node, step, inputs)
        if made is None:
            made = self._integer_module(node, step).bind_inputs(*inputs)
            if self.plan.integer_biases and isinstance(made, WeightedModule):
                made.hold_integer_bias()
        self.targets[step.name] = made
        read = self._codes if on_codes else self._real
        args = fx.map_arg(node.args, read)
        kwargs = fx.map_arg(node.kwargs, read)
        written = self.graph.create_node("call_module", step.name, args, kwargs, name=node.name)
        written.meta = {**node.meta, "source": node.name}
        if on_codes:
            self.codes[node] = self._carries(written, node)
        else:
            self.reals[node] = written

    def _write_replaced(self, node: fx.Node, step: Step) -> None:
        """Puts a person's own module into the graph; on codes it takes and gives a `QTensor`."""
        self.targets[step.name] = self.replaced[node.name]
        on_codes = step.output is not None
        written = self.graph.node_copy(node, self._as_qtensor if on_codes else self._real)
        written.meta["source"] = node.name
        if on_codes:
            module = QTensorToCodes().bind_inputs(self._qparams(node))
            self.codes[node] = self._carries(self._border(node, written, "codes", module), node)
        else:
            self.reals[node] = written

    def _as_qtensor(self, node: fx.Node) -> fx.Node:
        if node.name not in self.plan.by_node:
            return self._real(node)
        module = CodesToQTensor().bind_inputs(self._qparams(node))
        return self._border(node, self._codes(node), "qtensor", module)

    def _write_half(self, node: fx.Node, step: Step) -> fx.Node:
        """Puts a float operator whose weight and result are rounded to float16 into the graph."""
        written = self._copy(node, self._real)
        if self._row(step).reference is not None:
            module = self.source.get_submodule(str(node.target))
            self.targets[str(node.target)] = reference_form(self._row(step), module, HALF_WEIGHT)
        written = self.graph.call_method("to", (written, torch.float16))
        written = self.graph.call_method("float", (written,))
        written.meta["source"] = written.all_input_nodes[0].meta["source"] = node.name
        return self._as_in_float(node, written)

    def _write_dynamic(self, node: fx.Node, step: Step) -> None:
        """Puts the module that quantizes its input as it comes into the graph."""
        module = copy.copy(self.source.get_submodule(str(node.target)))
        dynamic: Any = self._row(step).dynamic
        vars(module)["qconfig"] = step.requested
        try:
            self.targets[step.name] = dynamic.from_float(module)
        except QlabError as error:
            raise cannot_convert(step, error) from error
        written = self.graph.node_copy(node, self._real)
        written.meta["source"] = node.name
        self.reals[node] = written

    def _integer_module(self, node: fx.Node, step: Step) -> Any:
        static: Any = self._row(step).static
        module = self.source.get_submodule(str(node.target))
        own_output = step.output is not None and static.output_of is not Output.INPUT
        output = self._qparams(node) if own_output else None
        weight, twin = None, None
        try:
            if step.weight is not None:
                weight = self.weights.get(step.name)
                twin = None if weight else (id(core(module).weight), step.weight)
                if weight is None and self.weight_scales is not None:
                    weight = self.weight_scales(step.name, step.weight)
                weight = weight or step.weight.qparams_of(static.weight_of(module)).whole_range()
            made = static.from_qparams(module, weight=weight, output=output)
        except QlabError as error:
            raise cannot_convert(step, error) from error
        if twin in self.shared_weights:
            made.set_weight_bias(self.shared_weights[twin].weight(), made.bias())
        elif twin is not None:
            self.shared_weights[twin] = made
        return made

    def _copy(self, node: fx.Node, read: Callable[[fx.Node], fx.Node]) -> fx.Node:
        """Writes an operator as it stands in the float graph."""
        if node.op == "call_module":
            module = self.source.get_submodule(str(node.target))
            copied = self._of_like(str(node.target), type(module))
            if copied is None:
                copied = copy.deepcopy(module, self.copies)
            self.targets[str(node.target)] = copied
        written = self.graph.node_copy(node, read)
        written.meta["source"] = node.name
        return written

    # Modules of a graph that was converted before

    def _of_like(self, path: str, kind: type[nn.Module]) -> Any:
        """The module of that graph at a path, if it is of a class."""
        found = self.like[1].get(path) if self.like is not None else None
        return found if type(found) is kind else None

    def _module_like(self, node: fx.Node, step: Step, inputs: list[QParams | None]) -> Any:
        """The integer module that that graph has for an equal step, or None."""
        if self.like is None or step.name in self.weights:
            return None
        if self.like[0].integer_biases != self.plan.integer_biases:
            return None
        before = self.like[0].step(step.name)
        if (before.execution, before.weight) != (step.execution, step.weight):
            return None
        static: Any = self._row(step).static
        found = self._of_like(step.name, static)
        own_output = step.output is not None and static.output_of is not Output.INPUT
        output = self._qparams(node) if own_output else None
        return found if found is not None and _same_bound(found, inputs, output) else None

    # Values

    def _any_form(self, node: fx.Node) -> fx.Node:
        return self.codes[node] if node in self.codes else self._real(node)

    def _real(self, node: fx.Node) -> fx.Node:
        """The node that carries a value as real numbers."""
        if node not in self.reals:
            if node.op == "get_attr":
                path, value = str(node.target), self._value_of(node)
                self.reals[node] = self._attribute(node, path, value, node.name)
            else:
                self.reals[node] = self._rounded(node)
        return self.reals[node]

    def _rounded(self, node: fx.Node) -> fx.Node:
        """The node that carries as real numbers what a value's codes stand for."""
        if node.name not in self.plan.by_node:
            return self._real(node)
        if node not in self.rounded:
            module = DeQuantize().bind_inputs(self._qparams(node))
            real = self._border(node, self._codes(node), "dequantize", module)
            self.rounded[node] = self._as_in_float(node, real)
        return self.rounded[node]

    def _as_in_float(self, node: fx.Node, real: fx.Node) -> fx.Node:
        """Real numbers in the dtype that the float graph has them in."""
        dtype = node.meta.get("dtype")
        if dtype not in (torch.float16, torch.bfloat16, torch.float64):
            return real
        cast = self.graph.call_method("to", (real, dtype))
        cast.meta["source"] = node.name
        return cast

    def _codes(self, node: fx.Node) -> fx.Node:
        """The node that carries a value as codes."""
        if node not in self.codes:
            if node.op == "get_attr":
                codes = quantize(self._value_of(node), self._qparams(node))
                path = self._free(f"{node.target}_codes", self.targets)
                name = self._free(f"{node.name}_codes", self.names)
                written = self._attribute(node, path, codes, name)
                self.codes[node] = self._carries(written, node)
            else:
                self.codes[node] = self._quantized(node, self._real(node))
        return self.codes[node]

    def _quantized(self, node: fx.Node, real: fx.Node) -> fx.Node:
        module = Quantize.from_qparams(QuantStub(), output=self._qparams(node)).bind_inputs()
        return self._carries(self._border(node, real, "quantize", module), node)

    def _border(self, node: fx.Node, given: fx.Node, what: str, module: QParamsHolder) -> fx.Node:
        """Writes a node that turns a value into its other form."""
        name = self._free(f"{node.name}_{what}", self.names)
        self.names.add(name)
        path = self._free(name, self.targets)
        twin = self._of_like(path, type(module))
        if twin is None or not _same_bound(twin, module.input_qparams, module.get_qparams(OUTPUT)):
            twin = module.to(self.device)
        self.targets[path] = twin
        written = self.graph.create_node("call_module", path, (given,), {}, name=name)
        written.meta["source"] = node.name
        return written

    def _attribute(self, node: fx.Node, path: str, value: Tensor, name: str) -> fx.Node:
        self.targets[path] = value
        written = self.graph.create_node("get_attr", path, (), {}, name=name)
        written.meta["source"] = node.name
        return written

    def _value_of(self, node: fx.Node) -> Tensor:
        return copy.deepcopy(attribute(self.source, node), self.copies)

    def _free(self, name: str, taken: Collection[str]) -> str:
        while name in taken:
            name += "_"
        return name

    def _carries(self, written: fx.Node, node: fx.Node) -> fx.Node:
        written.meta["qparams"] = self._qparams(node)
        return written

    def _qparams(self, node: fx.Node) -> QParams:
        """How the codes of a value are read."""
        value = self.plan.by_node[node.name]
        if value.source not in self.resolved:
            self.resolved[value.source] = self._resolve(self.plan.by_node[value.source])
        return self.resolved[value.source]

    def _resolve(self, value: Value) -> QParams:
        found = self.given.get(value.node)
        if found is None and value.fixed:
            found = value.spec.qparams(TensorStats())
        elif found is None and value.constant:
            node = next(n for n in self.source.graph.nodes if n.name == value.node)
            found = value.spec.qparams_of(attribute(self.source, node))
        if found is None:
            raise uncalibrated(value)
        return found.whole_range().to(self.device)


def _same_bound(
    module: QParamsHolder, inputs: Sequence[QParams | None] | None, output: QParams | None
) -> bool:
    """Whether a module reads its inputs and writes its output with these parameters."""
    bound = module.input_qparams
    if (bound is None) != (inputs is None) or len(bound or ()) != len(inputs or ()):
        return False
    pairs = [*zip(bound or (), inputs or (), strict=True), (module.get_qparams(OUTPUT), output)]
    return all(a is b or (a is not None and b is not None and a.same_as(b)) for a, b in pairs)


def cannot_convert(step: Step, error: Exception) -> UnsupportedError:
    return UnsupportedError(f"The layer {step.name!r} ({step.type}) cannot be converted: {error}")
