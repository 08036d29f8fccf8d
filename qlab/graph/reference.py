"""The quantize–dequantize form of a quantized graph: float operators on rounded numbers."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from qlab.errors import QlabError
from qlab.graph.convert import Conversion, cannot_convert
from qlab.graph.lift import is_tensor
from qlab.graph.plan import Plan, Step
from qlab.nn.intrinsic.fold import core
from qlab.nn.quantized.dynamic.request import DynamicRequest
from qlab.nn.quantized.reference import RNNBase, RNNCellBase
from qlab.nn.quantized.reference.weight import as_dict
from qlab.qtensor import QTensor, quantize_per_tensor, quantize_per_tensor_dynamic
from qlab.registry.references import HALF_WEIGHT, reference_form


class ReferenceConversion(Conversion):
    """Writes the graph that `convert` writes, with every integer operator taken apart.

    Each step on codes becomes ``dequantize`` → the float operator → ``quantize_per_tensor``; a
    weight becomes codes and real numbers again inside a module of
    `qlab.nn.quantized.reference`. Between two steps flow `QTensor`, as in the reference.
    """

    def _write_step(self, node: fx.Node, step: Step) -> None:
        moves = step.output is not None and step.row is not None and self._row(step).static is None
        if moves and not is_tensor(node):
            self.reals[node] = self.rounded[node] = self._copy(node, self._rounded)
        elif moves and node not in self.shapes and node.name not in self.replaced:
            self.codes[node] = self._quantized(node, self._copy(node, self._rounded))
        else:
            super()._write_step(node, step)

    def _write_module(self, node: fx.Node, step: Step) -> None:
        on_codes = step.output is not None
        self.targets[step.name] = self._float_module(node, step)
        read = self._rounded if on_codes else self._real
        args, kwargs = fx.map_arg(node.args, read), fx.map_arg(node.kwargs, read)
        written = self.graph.create_node("call_module", step.name, args, kwargs, name=node.name)
        written.meta = {**node.meta, "source": node.name}
        if on_codes:
            self.codes[node] = self._quantized(node, written)
        else:
            self.reals[node] = written

    def _float_module(self, node: fx.Node, step: Step) -> nn.Module:
        """The float module of a step, its layer in reference form where it has a weight."""
        row, module = self._row(step), self.source.get_submodule(str(node.target))
        if step.weight is None or row.reference is None:
            return copy.deepcopy(module, self.copies)
        static: Any = row.static
        weight = self.weights.get(step.name)
        try:
            weight = weight or step.weight.qparams_of(static.weight_of(module))
            return reference_form(row, module, as_dict(weight))
        except QlabError as error:
            raise cannot_convert(step, error) from error

    def _write_dynamic(self, node: fx.Node, step: Step) -> None:
        module = copy.copy(self.source.get_submodule(str(node.target)))
        vars(module)["qconfig"] = step.requested
        try:
            request = DynamicRequest.of(module)
            half = request.weight_dtype is torch.float16
            dtype = torch.float16 if half else request.input_dtype.name
            self.targets[step.name] = self._dynamic_module(step, module, request)
        except QlabError as error:
            raise cannot_convert(step, error) from error
        first, *rest = node.args
        assert isinstance(first, fx.Node)
        x = self._call(
            node, quantize_per_tensor_dynamic, (self._real(first), dtype, True), "quantize"
        )
        x = self._method(node, "float" if half else "dequantize", x)
        args = (x, *(fx.map_arg(argument, self._real) for argument in rest))
        kwargs = fx.map_arg(node.kwargs, self._real)
        written = self.graph.create_node("call_module", step.name, args, kwargs, name=node.name)
        written.meta = {**node.meta, "source": node.name}
        self.reals[node] = written

    def _dynamic_module(self, step: Step, module: nn.Module, request: DynamicRequest) -> nn.Module:
        reference: Any = self._row(step).reference

        def how(weight: Tensor) -> Mapping[str, Any]:
            quantized = request.quantized(weight)
            return as_dict(quantized.qparams) if isinstance(quantized, QTensor) else HALF_WEIGHT

        if issubclass(reference, RNNBase | RNNCellBase):
            weights = [n for n, _ in module.named_parameters() if n.startswith("weight")]
            given = {name: how(module.get_parameter(name)) for name in weights}
            return reference.from_float(module, given)
        layer: Any = core(module)
        return reference_form(self._row(step), module, how(layer.weight))

    def _as_qtensor(self, node: fx.Node) -> fx.Node:
        return self._codes(node) if node.name in self.plan.by_node else self._real(node)

    def _write_replaced(self, node: fx.Node, step: Step) -> None:
        """A person's own module takes and gives `QTensor`, as everything here."""
        self.targets[step.name] = self.replaced[node.name]
        on_codes = step.output is not None
        written = self.graph.node_copy(node, self._as_qtensor if on_codes else self._real)
        written.meta["source"] = node.name
        (self.codes if on_codes else self.reals)[node] = written

    def _codes(self, node: fx.Node) -> fx.Node:
        if node not in self.codes:
            self.codes[node] = self._quantized(node, self._real(node))
        return self.codes[node]

    def _rounded(self, node: fx.Node) -> fx.Node:
        if node.name not in self.plan.by_node:
            return self._real(node)
        if node not in self.rounded:
            real = self._method(node, "dequantize", self._codes(node))
            self.rounded[node] = self._as_in_float(node, real)
        return self.rounded[node]

    def _quantized(self, node: fx.Node, real: fx.Node) -> fx.Node:
        qparams = self._qparams(node)
        given = [
            self._number(node, "scale", qparams.scale),
            self._number(node, "zero_point", qparams.zero_point),
        ]
        written = self._call(
            node, quantize_per_tensor, (real, *given, qparams.dtype.name), "quantize_per_tensor"
        )
        return self._carries(written, node)

    def _number(self, node: fx.Node, what: str, value: Tensor) -> fx.Node:
        path = self._free(f"{node.name}_{what}_0", self.targets)
        name = self._free(path, self.names)
        self.names.add(name)
        return self._attribute(node, path, value.detach().clone(), name)

    def _call(self, node: fx.Node, function: Any, args: tuple[Any, ...], what: str) -> fx.Node:
        name = self._free(f"{node.name}_{what}", self.names)
        self.names.add(name)
        written = self.graph.create_node("call_function", function, args, {}, name=name)
        written.meta["source"] = node.name
        return written

    def _method(self, node: fx.Node, method: str, x: fx.Node) -> fx.Node:
        name = self._free(f"{node.name}_{method}", self.names)
        self.names.add(name)
        written = self.graph.create_node("call_method", method, (x,), {}, name=name)
        written.meta["source"] = node.name
        return written


def forget_reference(converted: fx.GraphModule, plan: Plan, unseen: Collection[str]) -> None:
    """Makes scales of a graph in reference form unknown (NaN), until a state dict brings them.

    Args:
        converted: The graph, changed in place.
        plan: Which tensor takes its scale from which.
        unseen: The nodes whose observers saw no data.
    """
    for node in converted.graph.nodes:
        source = plan.range_node(str(node.meta.get("source")))
        if node.target is quantize_per_tensor and source in unseen:
            parent, _, name = str(node.args[1].target).rpartition(".")
            owner = converted.get_submodule(parent)
            setattr(owner, name, torch.full_like(owner.get_buffer(name), torch.nan))
