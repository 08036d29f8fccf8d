"""Prepare: puts an observer behind every tensor whose range calibration has to find."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from functools import cache

import torch
from torch import fx, nn

from qlab.graph.plan import Plan, Value

Factory = Callable[[], nn.Module]


def prepare(graph_module: fx.GraphModule, plan: Plan) -> fx.GraphModule:
    """A copy of a float graph that computes the same and observes what the plan quantizes.

    Tensors that share a range have one observer, under several names, as far as the plan says.
    Observers come from the qconfig of the step that decided, and are called
    ``activation_post_process_0``, ``_1``, … as in the reference. Weights, constants and outputs of
    a fixed range need none.

    Args:
        graph_module: A graph made by `trace` and `fuse`.
        plan: What `annotate` decided for it.

    Returns:
        The observed graph; its ``meta["plan"]`` is the plan.
    """
    prepared = copy.deepcopy(graph_module)
    hang(prepared, factories(plan, asked_if_observed))
    prepared.meta["plan"] = plan
    prepared.recompile()
    return prepared


def asked_factory(value: Value) -> Factory:
    """What makes the observer of a quantized tensor: the qconfig that decided about it."""
    qconfig = value.requested
    assert qconfig is not None and qconfig.activation is not None
    return qconfig.activation


def asked_if_observed(value: Value) -> Factory | None:
    """What makes a tensor's observer; None where its range needs none."""
    return None if value.constant or value.fixed else asked_factory(value)


def factories(
    plan: Plan, factory_of: Callable[[Value], Factory | None]
) -> Iterator[tuple[Value, Factory]]:
    """What makes the observer of every tensor that one sees: for all it sees the same one.

    Args:
        plan: Says who sees what.
        factory_of: Says for a tensor what makes its observer, if it shall have one.
    """
    made: dict[str, Factory | None] = {}
    for value in plan.values:
        if value.seen_by is None:
            continue
        if value.seen_by not in made:
            factory = factory_of(plan.by_node[value.seen_by])
            made[value.seen_by] = None if factory is None else cache(factory)
        factory = made[value.seen_by]
        if factory is not None:
            yield value, factory


def hang(
    graph_module: fx.GraphModule, factories: Iterable[tuple[Value, Factory]]
) -> dict[str, str]:
    """Lets everything that reads a tensor read it through a new observer, in place.

    Returns:
        The observers' names, by the node they observe.
    """
    nodes = {node.name: node for node in graph_module.graph.nodes}
    device, names = device_of(graph_module), {}
    for index, (value, factory) in enumerate(factories):
        names[value.node] = name = f"activation_post_process_{index}"
        graph_module.add_submodule(name, factory().to(device))
        insert_behind(nodes[value.node], name, observes=value.node)
    return names


def insert_behind(node: fx.Node, module: str, **meta: str) -> None:
    """Lets everything that reads a node read it through a module, marked as no operator."""
    with node.graph.inserting_after(node):
        inserted = node.graph.call_module(module, (node,))
    inserted.meta = {"name": module, **meta}
    node.replace_all_uses_with(inserted, delete_user_cb=lambda user: user is not inserted)


def without_observers(prepared: fx.GraphModule) -> tuple[fx.GraphModule, dict[str, nn.Module]]:
    """The float graph behind a prepared one, and its observers by the node they observe.

    The graph is new, its modules are those of the prepared one.
    """
    graph, observers = copy.deepcopy(prepared.graph), {}
    for node in list(graph.nodes):
        if "observes" in node.meta:
            observers[node.meta["observes"]] = prepared.get_submodule(str(node.target))
            node.replace_all_uses_with(node.all_input_nodes[0])
            graph.erase_node(node)
    return fx.GraphModule(prepared, graph, type(prepared).__name__), observers


def device_of(module: nn.Module) -> torch.device:
    """Where a module's first parameter or buffer lies; the CPU if it has none."""
    for tensor in (*module.parameters(), *module.buffers()):
        return tensor.device
    return torch.device("cpu")
