"""Graphs that the reference converted: its operators become qlab's modules."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable
from typing import Any

from torch import Tensor, fx, nn

from qlab.errors import QlabError, UnsupportedError
from qlab.io.migrate.operators import OPERATORS, Constant, Made
from qlab.io.migrate.tensors import is_quantized, quantized
from qlab.nn.quantized import ReLU

Own = Callable[[nn.Module, str], nn.Module]


def rewritten(source: fx.GraphModule, own: Own, path: str) -> fx.GraphModule:
    """A graph of the reference on qlab's modules.

    Args:
        source: What the reference's ``convert_fx`` returned; it stays as it is.
        own: Migrates a module of it, given its path.
        path: Where the graph stands in the model, for errors.

    Raises:
        UnsupportedError: An operator or a module has no form in qlab; names it.
    """
    new = _Rewriting(source, path)
    for node in source.graph.nodes:
        if node.op == "get_attr":
            continue  # read by what uses it
        if node.op == "call_module":
            name = str(node.target)
            inner = f"{path}.{name}" if path else name
            new.targets[name] = own(source.get_submodule(name), inner)
        found = _operator(node)
        if found is None:
            new.copy(node)
        else:
            new.replace(node, found)
    new.graph.lint()
    made = fx.GraphModule(new.targets, new.graph, type(source).__name__)
    return made.train(source.training)


def has_operators(source: fx.GraphModule) -> bool:
    """Whether a graph calls any of the reference's own operators."""
    return any(_operator(node) is not None for node in source.graph.nodes)


def _operator(node: fx.Node) -> str | None:
    """The name of one of the reference's own operators; None for what is not one."""
    if node.op != "call_function":
        return None
    name = getattr(node.target, "__name__", "")
    if name == "quantize_per_tensor":
        return name
    namespace, dot, rest = str(node.target).partition(".")
    return rest.partition(".")[0] if dot and namespace == "quantized" else None


class _Rewriting:
    """The new graph as it grows."""

    def __init__(self, source: fx.GraphModule, path: str) -> None:
        self.source, self.path = source, path
        self.graph, self.read = fx.Graph(), Constant(source)
        self.values: dict[fx.Node, fx.Node] = {}
        self.targets: dict[str, Any] = {}

    def copy(self, node: fx.Node) -> None:
        """Takes over a node that calls nothing of the reference."""
        for used in node.all_input_nodes:
            self._place(used)
        self.values[node] = self.graph.node_copy(node, self.values.__getitem__)

    def replace(self, node: fx.Node, name: str) -> None:
        """Puts modules in place of an operator."""
        module, inputs, relu = self._made(node, name)
        fx.map_arg(inputs, self._place)
        target = f"migrated_{node.name}"
        arguments = fx.map_arg(inputs, self.values.__getitem__)
        if relu:
            arguments = (self._call(f"{target}_before", module, arguments, None),)
            module = ReLU().eval()
        self.values[node] = self._call(target, module, arguments, node.name)

    def _call(self, target: str, module: nn.Module, arguments: Any, name: str | None) -> fx.Node:
        self.targets[target] = module
        return self.graph.create_node("call_module", target, arguments, {}, name=name)

    def _made(self, node: fx.Node, name: str) -> Made:
        if name not in OPERATORS:
            raise self._refusal(node, f"qlab has no form of {node.target}")
        maker = OPERATORS[name]
        try:
            bound = inspect.signature(maker).bind(self.read, *node.args, **node.kwargs)
        except TypeError as error:
            raise self._refusal(node, f"its arguments are not the operator's: {error}") from error
        try:
            return maker(*bound.args, **bound.kwargs)
        except QlabError as error:
            raise self._refusal(node, str(error)) from error
        except (AttributeError, RuntimeError, TypeError, ValueError) as error:
            raise self._refusal(node, f"an argument is not what it should be: {error}") from error

    def _refusal(self, node: fx.Node, reason: str) -> UnsupportedError:
        where = f" in {self.path!r}" if self.path else ""
        return UnsupportedError(f"migrate: {node.name!r}{where} ({node.target}): {reason}")

    def _place(self, used: fx.Node) -> None:
        """Copies an attribute that a node takes as an input."""
        if used.op != "get_attr" or used in self.values:
            return
        value = operator.attrgetter(str(used.target))(self.source)
        if is_quantized(value):
            value = quantized(value)
        elif isinstance(value, Tensor):
            value = value.detach().clone()
        else:
            raise self._refusal(used, f"qlab has no form of a {type(value).__name__}")
        self.targets[str(used.target)] = value
        self.values[used] = self.graph.node_copy(used)
