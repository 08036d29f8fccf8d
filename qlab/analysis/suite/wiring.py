"""Putting modules into a copy of a graph."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn

from qlab.analysis.suite.matching import NSSubgraph
from qlab.analysis.suite.reading import inputs_of, is_observer, target_name
from qlab.analysis.suite.types import Values
from qlab.errors import check_callable
from qlab.graph.lift import shape_nodes
from qlab.graph.special import CodesToQTensor
from qlab.qtensor import QTensor


class Shown(CodesToQTensor):
    """Plain codes as a `QTensor`, also several in a tuple or list."""

    def forward(self, codes: Any) -> Any:
        """Codes as bound, alone or in a tuple → the same as `QTensor`; others as they are."""
        if isinstance(codes, tuple | list):
            return type(codes)(self.forward(part) for part in codes)
        plain = isinstance(codes, Tensor) and not isinstance(codes, QTensor)
        return super().forward(codes) if plain else codes


@dataclass(frozen=True)
class Label:
    """Whose values a logger keeps.

    Attributes:
        model: What the caller calls the model.
        ref_name: The name of the matching operators.
        ref_kind: What the operator calls, as text.
        ref_node: Name of its node.
        fqn: Path of its module.
    """

    model: str
    ref_name: str
    ref_kind: str
    ref_node: str
    fqn: str | None


class Wiring:
    """A graph that loggers and shadows are put into, beside what it computes.

    Nothing in the graph reads what they give: the graph's results stay as they are.

    Args:
        graph_module: A graph of its own; changed in place.
    """

    def __init__(self, graph_module: fx.GraphModule) -> None:
        self.module = graph_module
        self.graph = graph_module.graph
        self.nodes: dict[str, fx.Node] = {node.name: node for node in self.graph.nodes}
        self.last: dict[fx.Node, fx.Node] = {}
        self.shown: dict[fx.Node, fx.Node] = {}
        self.plain = shape_nodes(graph_module)

    def call(
        self, prefix: str, module: nn.Module, args: tuple[Any, ...], behind: fx.Node
    ) -> fx.Node:
        """Calls a module behind a node, and behind what was put there before.

        Args:
            prefix: Beginning of the name of the module and its node; a number follows.
            module: What is called.
            args: Nodes, or values that a graph can hold.
            behind: The last node that the call depends on.
        """
        name = self.free(prefix)
        self.module.add_submodule(name, module)
        return self.create("call_module", name, name, args, behind)

    def create(
        self, op: str, target: Any, name: str, args: tuple[Any, ...], behind: fx.Node, **kwargs: Any
    ) -> fx.Node:
        """Puts any node behind another."""
        with self.graph.inserting_after(self.last.get(behind, behind)):
            made = self.graph.create_node(op, target, args, kwargs, name)
        self.last[behind] = made
        self.nodes[made.name] = made
        return made

    def free(self, prefix: str) -> str:
        """A name that neither a node nor an attribute has."""
        names = (f"{prefix}{number}" for number in itertools.count())
        return next(n for n in names if n not in self.nodes and not hasattr(self.module, n))

    def readable(self, node: fx.Node, behind: fx.Node) -> fx.Node:
        """The node that gives a value as it means: real numbers, or a `QTensor`."""
        qparams = node.meta.get("qparams")
        if qparams is None:
            return node
        if node not in self.shown:
            module = Shown().bind_inputs(qparams)
            self.shown[node] = self.call(f"{node.name}_qtensor_", module, (node,), behind)
        return self.shown[node]

    def log(
        self,
        logger_cls: Callable[..., nn.Module],
        node: fx.Node,
        label: Label,
        *,
        behind: fx.Node | None = None,
        suffix: str = "_ns_logger_",
        place: tuple[str, int, int] = (Values.NODE_OUTPUT.value, 0, 0),
    ) -> nn.Module:
        """Lets a new logger keep what a node gives.

        Args:
            logger_cls: Made with the arguments of `OutputLogger`.
            node: Gives the value.
            label: Whose value it is.
            behind: Where the logger is put; behind the node itself if None.
            suffix: Ends the logger's name.
            place: Type of the value, index within its argument and of it.
        """
        check_callable("Loggers", "logger_cls", logger_cls)
        behind = node if behind is None else behind
        results_type, index_within_arg, index_of_arg = place
        logger = logger_cls(
            label.ref_node,
            node.name,
            label.model,
            label.ref_name,
            target_name(self.module, node),
            label.ref_kind,
            results_type,
            index_within_arg,
            index_of_arg,
            label.fqn,
        )
        self.call(f"{node.name}{suffix}", logger, (self.readable(node, behind),), behind)
        return logger

    def inputs(self, node: fx.Node) -> list[tuple[fx.Node, int, int]]:
        """The tensors that an operator reads: see `inputs_of`; sizes are none."""
        return [found for found in inputs_of(self.module, node) if found[0] not in self.plain]

    def done(self) -> fx.GraphModule:
        """The graph, ready to be called."""
        self.graph.lint()
        self.module.recompile()
        return self.module


def label_of(graph: fx.GraphModule, subgraph: NSSubgraph, model: str, ref_name: str) -> Label:
    """The label of an operator's output; its last layer stands for it."""
    last = subgraph.end_node
    while is_observer(graph, last):
        last = last.all_input_nodes[0]
    base = subgraph.base_op_node
    kind = target_name(graph, base)
    return Label(model, ref_name, kind, last.name, base.meta.get("path"))
