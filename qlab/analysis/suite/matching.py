"""Which operators of two graphs correspond."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from torch import fx, nn

from qlab.analysis.suite.reading import as_graph, is_observer, module_of, target_name, target_of
from qlab.analysis.suite.types import NSNodeTargetType, NSSubgraph, TargetSets
from qlab.errors import ArgumentError, UnknownNameError
from qlab.graph.fuse import chains
from qlab.graph.lift import shape_nodes
from qlab.graph.special import CodesToQTensor, QTensorToCodes
from qlab.registry import ROWS
from qlab.registry.relations import forms, related_operators

#: Nodes that are one operator, by the last of them.
Chains = dict[fx.Node, list[fx.Node]]
_BORDERS = ("quantize", "dequantize", "identity")
_MOVING_METHODS = frozenset(
    {"to", "dequantize", "detach", "detach_", "resize_", "clone", "contiguous"}
)


class GraphMatchingException(ArgumentError):  # noqa: N818 the reference's name
    """Two graphs do not have the same operators in the same order."""


def get_base_name_to_sets_of_related_ops() -> TargetSets:
    """Operators that do the same in float, fused, trained, static and dynamic form.

    From qlab's registry; the names are those of its rows, such as ``"conv2d"``. Made anew in every
    call, to be changed and passed on.
    """
    return related_operators()


def get_unmatchable_types_map() -> TargetSets:
    """Operators that are passed over: what turns tensors into codes and back, or moves elements.

    Keys: ``funs_unmatchable``, ``mods_unmatchable`` and ``meths_unmatchable``.
    """
    borders = (forms(row) for row in ROWS if row.name in _BORDERS)
    moving = (row for row in ROWS if row.on_codes and row.name != "flatten")
    return {
        "funs_unmatchable": {f for row in ROWS if row.name == "getitem" for f in row.functions},
        "mods_unmatchable": {CodesToQTensor, QTensorToCodes}.union(*borders),
        "meths_unmatchable": {*_MOVING_METHODS, *(m for row in moving for m in row.methods)},
    }


def add_op_to_sets_of_related_ops(
    base_name_to_sets_of_related_ops: TargetSets,
    op: NSNodeTargetType,
    related_op: NSNodeTargetType | None,
) -> None:
    """Makes an operator of one's own known, in place.

    Args:
        base_name_to_sets_of_related_ops: From `get_base_name_to_sets_of_related_ops`.
        op: A module class, a function or a method's name.
        related_op: One that does the same; None for an operator that is like no other.

    Raises:
        UnknownNameError: ``related_op`` is in none of the sets.
    """
    if related_op is None:
        names = map(str, itertools.count())
        free = next(name for name in names if name not in base_name_to_sets_of_related_ops)
        base_name_to_sets_of_related_ops[free] = {op}
        return
    for related in base_name_to_sets_of_related_ops.values():
        if related_op in related:
            related.add(op)
            return
    raise UnknownNameError.of("operator", related_op, base_name_to_sets_of_related_ops)


@dataclass(frozen=True)
class Relations:
    """Which operators are the same, and which are passed over.

    Attributes:
        related: Sets of operators that are the same, by name.
        unmatchable: As `get_unmatchable_types_map` gives it.
    """

    related: TargetSets
    unmatchable: TargetSets

    @classmethod
    def of(cls, related: TargetSets | None, unmatchable: TargetSets | None) -> Relations:
        """As given, or the registry's."""
        return cls(
            get_base_name_to_sets_of_related_ops() if related is None else related,
            get_unmatchable_types_map() if unmatchable is None else unmatchable,
        )

    def base_name(self, a: NSNodeTargetType | None, b: NSNodeTargetType | None) -> str | None:
        """The name of a set that has both; None where there is none."""
        found = (name for name, known in self.related.items() if a in known and b in known)
        return next(found, None)

    def passes_over(self, graph_module: fx.GraphModule, node: fx.Node) -> bool:
        """Whether an operator is not one to be compared."""
        match node.op:
            case "call_function":
                return node.target in self.unmatchable["funs_unmatchable"]
            case "call_method":
                return node.target in self.unmatchable["meths_unmatchable"]
            case "call_module":
                kinds = tuple(
                    kind
                    for kind in self.unmatchable["mods_unmatchable"]
                    if isinstance(kind, type) and kind is not nn.Module
                )
                return isinstance(module_of(graph_module, node), kinds)
        return True


def get_matching_subgraph_pairs(
    gm_a: fx.GraphModule,
    gm_b: fx.GraphModule,
    base_name_to_sets_of_related_ops: TargetSets | None = None,
    unmatchable_types_map: TargetSets | None = None,
) -> dict[str, tuple[NSSubgraph, NSSubgraph]]:
    """The operators of two graphs that correspond, in the second's order of execution.

    Both graphs are read from their outputs backwards, each operator with its observer and, in a
    graph that is not fused, with the batch norm and activation that are quantized with it. The
    n-th operator of one belongs to the n-th of the other. Conversions between real numbers and
    codes, sizes and the methods that move elements are passed over. Operators that neither the
    registry nor the caller knows are left out where both graphs have the same one.

    Args:
        gm_a: A graph made by qlab: traced, prepared or converted.
        gm_b: Another of the same model.
        base_name_to_sets_of_related_ops: Which operators are the same; the registry's if None.
        unmatchable_types_map: Which are passed over; `get_unmatchable_types_map` if None.

    Returns:
        By a name made of the operator's and a number, the same in every graph of the model.

    Raises:
        GraphMatchingException: The graphs do not correspond; names where they part.
    """
    relations = Relations.of(base_name_to_sets_of_related_ops, unmatchable_types_map)
    fused = chains_of(gm_a, gm_b), chains_of(gm_b, gm_a)
    try:
        return _pairs((gm_a, gm_b), fused, relations)
    except GraphMatchingException as refusal:
        try:
            return _pairs((gm_a, gm_b), ({}, {}), relations)  # the other left them apart
        except GraphMatchingException:
            raise refusal from None


def _pairs(
    graphs: tuple[fx.GraphModule, fx.GraphModule],
    fused: tuple[Chains, Chains],
    relations: Relations,
) -> dict[str, tuple[NSSubgraph, NSSubgraph]]:
    gm_a, gm_b = graphs
    found: dict[str, tuple[NSSubgraph, NSSubgraph]] = {}
    counts: dict[str, int] = {}
    operators = map(_operators, graphs, fused, (relations, relations))
    for a, b in itertools.zip_longest(*operators):
        if a is None or b is None:
            raise _do_not_match((gm_a, a), (gm_b, b))
        target_a, target_b = target_of(gm_a, a.base_op_node), target_of(gm_b, b.base_op_node)
        base = relations.base_name(target_a, target_b)
        if base is None and target_a != target_b:
            raise _do_not_match((gm_a, a), (gm_b, b))
        if base is not None:
            number = counts[base] = counts.get(base, -1) + 1
            found[f"base_op_{base}_{number}"] = (a, b)
    position = {node: index for index, node in enumerate(gm_b.graph.nodes)}
    return dict(sorted(found.items(), key=lambda item: position[item[1][1].end_node]))


def chains_of(graph: fx.GraphModule, other: fx.GraphModule) -> Chains:
    """The layers of a graph that are one in another, by the last of them.

    A prepared or converted graph says what was fused, which depends on the mode it was made in;
    where neither is one, the registry's patterns count.
    """
    if _is_planned(graph):
        return {}
    nodes = {node.meta.get("name", node.name): node for node in graph.graph.nodes}
    found = {}
    for node in other.graph.nodes if _is_planned(other) else ():
        names = [node.meta.get("name"), *node.meta.get("fused", ())]
        if len(names) > 1 and all(name in nodes for name in names):
            chain = [nodes[name] for name in names]
            found[chain[-1]] = chain
    return found or chains(graph)


def _is_planned(graph: fx.GraphModule) -> bool:
    return any("observes" in node.meta or "source" in node.meta for node in graph.graph.nodes)


def _operators(
    graph_module: fx.GraphModule, fused: Chains, relations: Relations
) -> Iterator[NSSubgraph]:
    """The operators to be compared, from the output backwards."""
    passed_over = shape_nodes(graph_module)
    stack = [node for node in graph_module.graph.nodes if node.op == "output"]
    seen: set[fx.Node] = set()
    while stack:
        end = stack.pop()
        if end in seen:
            continue
        last = end
        while is_observer(graph_module, last):
            seen.add(last)
            last = last.all_input_nodes[0]
        if last in seen:
            continue
        chain = fused.get(last, [last])
        seen.update(chain)
        stack.extend(chain[0].all_input_nodes)
        if last not in passed_over and not relations.passes_over(graph_module, chain[0]):
            yield NSSubgraph(chain[0], end, chain[0])


def _do_not_match(*sides: tuple[fx.GraphModule, NSSubgraph | None]) -> GraphMatchingException:
    words = [
        "nothing more" if found is None else f"{found.start_node.name!r} ({_kind(model, found)})"
        for model, found in sides
    ]
    return GraphMatchingException(
        "The two models do not correspond",
        expected="the same operators in the same order, in float or quantized form",
        received=f"{words[0]} in the first where the second has {words[1]}, read from the output",
        fix="Compare forms of one model; make operators of your own known with "
        "add_op_to_sets_of_related_ops.",
    )


def _kind(graph_module: fx.GraphModule, subgraph: NSSubgraph) -> str:
    return target_name(graph_module, subgraph.base_op_node).rpartition(".")[2]


def matched(
    caller: str,
    a: tuple[str, nn.Module],
    b: tuple[str, nn.Module],
    related: TargetSets | None,
    unmatchable: TargetSets | None,
) -> tuple[tuple[fx.GraphModule, fx.GraphModule], dict[str, tuple[NSSubgraph, NSSubgraph]]]:
    """Two models, each with its name in the results, as graphs, and their matching operators.

    Raises:
        ArgumentError: The names are the same.
        GraphMatchingException: The models do not correspond.
        TraceError: A model has no single graph.
    """
    if a[0] == b[0]:
        raise ArgumentError(
            f"{caller}: both models have the same name",
            expected="two names, by which the results tell them apart",
            received=f"{a[0]!r} twice",
        )
    graphs = as_graph(a[1]), as_graph(b[1])
    return graphs, get_matching_subgraph_pairs(*graphs, related, unmatchable)
