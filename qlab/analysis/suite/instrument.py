"""Loggers in two forms of a model, each running on its own values or on those of the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import fx, nn

from qlab.analysis.suite.matching import matched
from qlab.analysis.suite.reading import module_of, target_name
from qlab.analysis.suite.types import NSSubgraph, TargetSets, Values
from qlab.analysis.suite.wiring import Label, Wiring, label_of
from qlab.errors import UnsupportedError
from qlab.graph.special import same_qparams
from qlab.nn.quantized import DeQuantize, Quantize
from qlab.nn.stubs import QuantStub
from qlab.qtensor import QTensor

LoggerClass = Callable[..., nn.Module]


def add_loggers(
    name_a: str,
    model_a: nn.Module,
    name_b: str,
    model_b: nn.Module,
    logger_cls: LoggerClass,
    should_log_inputs: bool = False,
    base_name_to_sets_of_related_ops: TargetSets | None = None,
    unmatchable_types_map: TargetSets | None = None,
) -> tuple[fx.GraphModule, fx.GraphModule]:
    """Two models that keep what corresponding layers give; errors add up on the way.

    Run the same data through both, then call `extract_logger_info`.

    Args:
        name_a: What the results call the first model.
        model_a: A form of a model: float, prepared, trained or converted. It stays as it is; of a
            prepared or converted one the result shares the modules.
        name_b: What they call the second.
        model_b: Another form of it.
        logger_cls: `OutputLogger` or a class with its arguments and attributes.
        should_log_inputs: Keep what the layers read, too.
        base_name_to_sets_of_related_ops: See `get_matching_subgraph_pairs`.
        unmatchable_types_map: Likewise.

    Returns:
        Both models as graphs with loggers, of the same results as before.

    Raises:
        GraphMatchingException: The models do not correspond.
        ArgumentError: Both have one name.
        TraceError: A model has no single graph.
    """
    graphs, pairs = matched(
        "add_loggers",
        (name_a, model_a),
        (name_b, model_b),
        base_name_to_sets_of_related_ops,
        unmatchable_types_map,
    )
    wirings = Wiring(graphs[0]), Wiring(graphs[1])
    for ref_name, pair in pairs.items():
        for wiring, subgraph, name in zip(wirings, pair, (name_a, name_b), strict=True):
            label = label_of(wiring.module, subgraph, name, ref_name)
            if should_log_inputs:
                _log_inputs(wiring, subgraph.start_node, logger_cls, label)
            wiring.log(logger_cls, subgraph.end_node, label)
    return wirings[0].done(), wirings[1].done()


def _log_inputs(
    wiring: Wiring,
    node: fx.Node,
    logger_cls: LoggerClass,
    label: Label,
    suffix: str = "_ns_logger_",
) -> None:
    label = replace(label, ref_node=node.name)
    for given, position, index in wiring.inputs(node):
        place = (Values.NODE_INPUT.value, position, index)
        wiring.log(logger_cls, given, label, place=place, suffix=suffix)


def add_shadow_loggers(
    name_a: str,
    model_a: nn.Module,
    name_b: str,
    model_b: nn.Module,
    logger_cls: LoggerClass,
    should_log_inputs: bool = False,
    base_name_to_sets_of_related_ops: TargetSets | None = None,
    node_type_to_io_type_map: TargetSets | None = None,
    unmatchable_types_map: TargetSets | None = None,
) -> fx.GraphModule:
    """The second model, with each layer of the first beside its own, on the same input.

    What the layer of the first model gives differs by that one layer's error alone. Where one
    computes on codes and the other on real numbers, its input is converted, with the scale and
    zero point that the model has for it.

    Args:
        name_a: What the results call the first model, whose layers are the shadows.
        model_a: A form of a model: float, prepared, trained or converted. It stays as it is, its
            modules are shared.
        name_b: What they call the second, which runs.
        model_b: Another form of it.
        logger_cls: `OutputLogger` or a class with its arguments and attributes.
        should_log_inputs: Keep what the layers read, too.
        base_name_to_sets_of_related_ops: See `get_matching_subgraph_pairs`.
        node_type_to_io_type_map: Not needed, the graphs say what is codes.
        unmatchable_types_map: See `get_matching_subgraph_pairs`.

    Returns:
        A graph that gives what model b gives; see `extract_shadow_logger_info`.

    Raises:
        GraphMatchingException: The models do not correspond.
        UnsupportedError: A layer cannot be called on the other's input; names it.
        ArgumentError: Both have one name.
        TraceError: A model has no single graph.
    """
    (shadow, graph), pairs = matched(
        "add_shadow_loggers",
        (name_a, model_a),
        (name_b, model_b),
        base_name_to_sets_of_related_ops,
        unmatchable_types_map,
    )
    wiring, source = Wiring(graph), Wiring(shadow)
    for ref_name, (a, b) in pairs.items():
        label_b = label_of(graph, b, name_b, ref_name)
        label_a = label_of(shadow, a, name_a, ref_name)
        if should_log_inputs:
            _log_inputs(wiring, b.start_node, logger_cls, label_b, suffix="_ns_logger_b_inp_")
        _shadow(wiring, source, (a, b), logger_cls, (label_a, should_log_inputs))
        wiring.log(logger_cls, b.end_node, label_b, suffix="_ns_logger_b_")
    return wiring.done()


def _shadow(
    wiring: Wiring,
    source: Wiring,
    pair: tuple[NSSubgraph, NSSubgraph],
    logger_cls: LoggerClass,
    labelled: tuple[Label, bool],
) -> None:
    """Calls the operator of another graph on the inputs of one of this graph, and logs it."""
    (a, b), (label, log_inputs) = pair, labelled
    reads, behind = source.inputs(a.start_node), b.start_node
    copies = _inputs(wiring, source, pair)
    chain = _chain(a)
    for node in chain:
        if not copies.keys() >= set(node.all_input_nodes):
            raise _cannot_shadow(source, a, f"{node.name!r} reads what lies outside")
        copies[node] = _copy(wiring, source, node, copies, behind)
    first, last = copies[chain[0]], copies[chain[-1]]
    output = replace(label, ref_node=last.name)
    wiring.log(logger_cls, last, output, behind=behind, suffix="_ns_logger_a_")
    if log_inputs:
        label = replace(label, ref_node=first.name)
        for read, position, index in reads:
            place = (Values.NODE_INPUT.value, position, index)
            wiring.log(
                logger_cls,
                copies[read],
                label,
                behind=behind,
                suffix="_ns_logger_a_inp_",
                place=place,
            )


def _inputs(
    wiring: Wiring, source: Wiring, pair: tuple[NSSubgraph, NSSubgraph]
) -> dict[fx.Node, fx.Node]:
    """What the operator of the other graph reads → the node of this graph that gives it."""
    a, b = pair
    reads, given = source.inputs(a.start_node), wiring.inputs(b.start_node)
    if len(reads) != len(given):
        raise _cannot_shadow(source, a, f"{len(given)} inputs for {len(reads)}")
    found = {n: wiring.nodes[n.name] for n in source.plain if n.name in wiring.nodes}
    for (read, *_), (at_hand, *_) in zip(reads, given, strict=True):
        if read not in found:
            found[read] = _cast(wiring, read, at_hand, b.start_node)
    return found


def _chain(subgraph: NSSubgraph) -> list[fx.Node]:
    """The nodes of an operator, from the first to the last."""
    nodes = [subgraph.end_node]
    while nodes[-1] is not subgraph.start_node:
        nodes.append(nodes[-1].all_input_nodes[0])
    return nodes[::-1]


def _copy(
    wiring: Wiring,
    source: Wiring,
    node: fx.Node,
    known: dict[fx.Node, fx.Node],
    behind: fx.Node,
) -> fx.Node:
    name = wiring.free(f"{behind.name}_shadow_copy_")
    module, target = module_of(source.module, node), node.target
    if module is not None:
        wiring.module.add_submodule(name, module)
        target = name
    args: Any = fx.map_arg(node.args, known.__getitem__)
    kwargs: Any = fx.map_arg(node.kwargs, known.__getitem__)
    made = wiring.create(node.op, target, name, args, behind, **kwargs)
    made.meta = dict(node.meta)
    return made


def _cast(wiring: Wiring, read: fx.Node, at_hand: fx.Node, behind: fx.Node) -> fx.Node:
    """A value of this graph as the other graph has it there."""
    wanted, present = read.meta.get("qparams"), at_hand.meta.get("qparams")
    prefix = f"{behind.name}_dtype_cast_"
    if wanted is None and present is None:  # of an eager model, whose tensors say what they are
        return wiring.call(prefix, AsReal(), (at_hand,), behind)
    if wanted is not None and present is not None and same_qparams(wanted, present):
        return at_hand
    if present is not None:
        real = DeQuantize().bind_inputs(present)
        at_hand = wiring.call(prefix, real, (at_hand,), behind)
    if wanted is not None:
        codes = Quantize.from_qparams(QuantStub(), output=wanted).bind_inputs()
        at_hand = wiring.call(prefix, codes, (at_hand,), behind)
        at_hand.meta["qparams"] = wanted
    return at_hand


class AsReal(nn.Module):
    """A `QTensor` as real numbers; other values as they are."""

    def forward(self, x: Any) -> Any:
        """Any value → the same, dequantized."""
        return x.dequantize() if isinstance(x, QTensor) else x


def _cannot_shadow(source: Wiring, a: NSSubgraph, reason: str) -> UnsupportedError:
    node = a.base_op_node
    return UnsupportedError(
        f"The layer {node.name!r} ({target_name(source.module, node)}) cannot be a shadow",
        expected="an operator that reads what the other model's operator reads",
        received=reason,
        fix="Compare with add_loggers instead.",
    )
