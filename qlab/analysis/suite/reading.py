"""What the numeric suite reads off a model: its graph, and what each node is."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import fx, nn
from torch.nn.utils.parametrize import type_before_parametrizations

from qlab.analysis.suite.loggers import OutputLogger
from qlab.analysis.suite.types import NSNodeTargetType
from qlab.errors import DTypeError
from qlab.graph.trace import is_library_leaf, trace
from qlab.nn import functions
from qlab.nn.intrinsic import FusedModule
from qlab.nn.quantized import Cat, QuantizedModule, Stack
from qlab.observers import ActivationPostProcess


class NSTracer(fx.Tracer):
    """Symbolic tracer that keeps library modules, observers and fake quantizers whole.

    The graphs of the numeric suite are made by `qlab.graph.trace`; this is for code that traces by
    itself.

    Args:
        skipped_module_names: Paths of further modules to keep whole.
        skipped_module_classes: Classes of such.
    """

    def __init__(
        self,
        skipped_module_names: Collection[str] = (),
        skipped_module_classes: Collection[type[nn.Module]] = (),
    ) -> None:
        super().__init__()
        self.skipped_module_names = skipped_module_names
        self.skipped_module_classes = tuple(skipped_module_classes)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether a module's call is one node of the graph."""
        return (
            isinstance(m, ActivationPostProcess)
            or module_qualified_name in self.skipped_module_names
            or isinstance(m, self.skipped_module_classes)
            or is_library_leaf(m)
        )


def as_graph(model: nn.Module) -> fx.GraphModule:
    """A model as a graph of its own that shares what `prepare_fx` and `convert_fx` made.

    A prepared or converted graph is taken as it stands: the copy has its modules. Any other model
    is traced, observers and loggers kept whole, and copied.

    Raises:
        DTypeError: Not a module.
        TraceError: The model has no single graph.
    """
    if not isinstance(model, nn.Module):
        raise DTypeError("Not a model", expected="a torch.nn.Module", received=type(model).__name__)
    if isinstance(model, fx.GraphModule) and "plan" in model.meta:
        return fx.GraphModule(model, copy.deepcopy(model.graph), type(model).__name__)
    whole = {type(m) for m in model.modules() if isinstance(m, ActivationPostProcess)}
    return trace(model, leaves=whole, training=True)


def module_of(graph_module: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    """The module that a node calls; None for functions and methods."""
    return graph_module.get_submodule(str(node.target)) if node.op == "call_module" else None


def target_of(graph_module: fx.GraphModule, node: fx.Node) -> NSNodeTargetType | None:
    """What a node calls: a module's class, a function or a method's name."""
    if node.op in ("call_function", "call_method"):
        return node.target
    module = module_of(graph_module, node)
    return None if module is None else type_before_parametrizations(module)


def target_name(graph_module: fx.GraphModule, node: fx.Node) -> str:
    """What a node calls, in words; for a function that became a module the function.

    Empty for inputs and parameters.
    """
    target = target_of(graph_module, node)
    module = module_of(graph_module, node)
    kind = node.meta.get("kind")
    own = isinstance(module, QuantizedModule | FusedModule) or isinstance(kind, type)
    if module is not None and kind is not None and not own:
        target = kind
    if target is None or isinstance(target, str):
        return target or ""
    return torch.typename(target)


def is_observer(graph_module: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node only watches or rounds what another one gives."""
    if "observes" in node.meta:
        return True
    module = module_of(graph_module, node)
    return isinstance(module, ActivationPostProcess | OutputLogger)


def inputs_of(graph_module: fx.GraphModule, node: fx.Node) -> Iterator[tuple[fx.Node, int, int]]:
    """Each node that an operator reads, with its index within its argument and the argument's.

    What a concatenation joins is one argument.
    """
    joins = isinstance(module_of(graph_module, node), functions.Cat | functions.Stack | Cat | Stack)
    arguments: tuple[Any, ...] = (*node.args, *node.kwargs.values())
    for index, argument in enumerate((arguments,) if joins else arguments):
        if isinstance(argument, fx.Node):
            yield argument, 0, index
        elif isinstance(argument, tuple | list):
            for position, part in enumerate(argument):
                if isinstance(part, fx.Node):
                    yield part, position, index
