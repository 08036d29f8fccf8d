"""Questions about graphs and their configuration that code asks the reference's ``fx.utils``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import Any

import torch
from torch import fx, nn

from qlab.errors import ArgumentError
from qlab.graph.custom import ModuleClass, PrepareCustomConfig
from qlab.registry.quant_type import QuantType

__all__ = [
    "assert_and_get_unique_device",
    "collect_producer_nodes",
    "create_getattr_from_value",
    "get_custom_module_class_keys",
    "get_new_attr_name_with_prefix",
    "get_skipped_module_name_and_classes",
    "graph_module_from_producer_nodes",
    "maybe_get_next_module",
]


def get_custom_module_class_keys(
    custom_module_mapping: Mapping[QuantType, Mapping[ModuleClass, ModuleClass]],
) -> list[ModuleClass]:
    """The float classes that have an observed class, each once, whatever the quantization type."""
    kinds = (kind for classes in custom_module_mapping.values() for kind in classes)
    return list(dict.fromkeys(kinds))


def get_skipped_module_name_and_classes(
    prepare_custom_config: PrepareCustomConfig, is_standalone_module: bool
) -> tuple[list[str], list[ModuleClass]]:
    """Paths and classes of modules that tracing keeps whole.

    Args:
        prepare_custom_config: Which says so.
        is_standalone_module: Whether it is a standalone module that is traced; custom and
            standalone modules are only looked for outside of one.
    """
    config = prepare_custom_config
    names, classes = config.non_traceable_module_names, config.non_traceable_module_classes
    if is_standalone_module:
        return list(names), list(classes)
    custom = get_custom_module_class_keys(config.float_to_observed_mapping)
    return (
        [*names, *config.standalone_module_names],
        [*classes, *config.standalone_module_classes, *custom],
    )


def get_new_attr_name_with_prefix(prefix: str) -> Callable[[nn.Module], str]:
    """A function that finds a name which a module does not have yet.

    Args:
        prefix: What the name starts with; dots become underscores. A number follows.

    Example:
        >>> get_new_attr_name_with_prefix("conv.scale_")(torch.nn.Identity())
        'conv_scale_0'
    """
    start = prefix.replace(".", "_")

    def name(module: nn.Module) -> str:
        return next(f"{start}{i}" for i in count() if not hasattr(module, f"{start}{i}"))

    return name


def assert_and_get_unique_device(module: nn.Module) -> torch.device | None:
    """The device that all parameters and buffers lie on; None without any.

    Raises:
        ArgumentError: They lie on more than one.
    """
    devices = {tensor.device for tensor in (*module.parameters(), *module.buffers())}
    if len(devices) > 1:
        raise ArgumentError(
            f"{type(module).__name__} lies on more than one device",
            expected="all parameters and buffers on one device",
            received=", ".join(sorted(map(str, devices))),
            fix="Call module.to(device) first.",
        )
    return next(iter(devices), None)


def create_getattr_from_value(
    module: nn.Module,
    graph: fx.Graph,
    prefix: str,
    value: Any,
    device: torch.device | None = None,
) -> fx.Node:
    """Keeps a number or tensor as a buffer, and gives the node that reads it.

    Args:
        module: Gets the buffer, under a new name.
        graph: Gets the node, where it inserts just now.
        prefix: What the name starts with.
        value: A tensor, or what becomes one.
        device: Where the buffer shall lie; that of the module if None.
    """
    name = get_new_attr_name_with_prefix(prefix)(module)
    where = device or assert_and_get_unique_device(module)
    module.register_buffer(name, torch.as_tensor(value).detach().clone().to(where))
    return graph.create_node("get_attr", name)


def maybe_get_next_module(
    node: fx.Node,
    modules: Mapping[str, nn.Module],
    target_module_type: type[nn.Module] | None = None,
    target_functional_type: Any = None,
) -> fx.Node | None:
    """The first user of a node that calls a module of a class, or a function; None without any."""
    for user in node.users:
        module = modules.get(str(user.target)) if user.op == "call_module" else None
        if module is not None and target_module_type and isinstance(module, target_module_type):
            return user
        if user.op == "call_function" and user.target is target_functional_type:
            return user
    return None


def collect_producer_nodes(node: fx.Node) -> list[fx.Node] | None:
    """The nodes that a value is computed from, itself first, each after what uses it.

    None where an input of the graph is among them.
    """
    found, stack = {node}, [node]
    while stack:
        sources = set(stack.pop().all_input_nodes) - found
        found |= sources
        stack += sources
    if any(source.op == "placeholder" for source in found):
        return None
    return [source for source in reversed(node.graph.nodes) if source in found]


def graph_module_from_producer_nodes(
    root: nn.Module, producer_nodes: Sequence[fx.Node]
) -> fx.GraphModule:
    """A graph of no inputs that computes what `collect_producer_nodes` was asked about.

    Args:
        root: Has the parameters and modules of the nodes.
        producer_nodes: As it gave them.

    Raises:
        ArgumentError: There are no nodes.
    """
    if not producer_nodes:
        raise ArgumentError("There is nothing to make a graph of", received="no nodes")
    graph, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    for node in reversed(producer_nodes):
        copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(copies[producer_nodes[0]])
    return fx.GraphModule(root, graph)
