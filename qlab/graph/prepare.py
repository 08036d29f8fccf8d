"""Prepare: puts an observer behind every tensor whose range calibration has to find."""

from __future__ import annotations

import copy

import torch
from torch import fx, nn

from qlab.graph.plan import Plan


def prepare(graph_module: fx.GraphModule, plan: Plan) -> fx.GraphModule:
    """A copy of a float graph that computes the same and observes what the plan quantizes.

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
    nodes = {node.name: node for node in prepared.graph.nodes}
    observed = [value for value in plan.values if value.observed]
    for index, value in enumerate(observed):
        qconfig = plan.step(value.asked_by).requested
        assert qconfig is not None and qconfig.activation is not None
        name = f"activation_post_process_{index}"
        prepared.add_submodule(name, qconfig.activation().to(device_of(graph_module)))
        _observe(nodes[value.node], name)
    prepared.meta["plan"] = plan
    prepared.recompile()
    return prepared


def _observe(node: fx.Node, observer: str) -> None:
    """Lets everything that reads a node read it through an observer."""
    with node.graph.inserting_after(node):
        observed = node.graph.call_module(observer, (node,))
    observed.meta = {"name": observer, "observes": node.name}
    node.replace_all_uses_with(observed, delete_user_cb=lambda user: user is not observed)


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
