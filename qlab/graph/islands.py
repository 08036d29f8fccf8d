"""A model that has no graph, as a graph of islands: each layer on its own, between real numbers.

One call of the model shows which layers it calls, how often and with what. Each becomes a node that
reads inputs of its own and whose output leaves the graph. So plans, scales and single layers are
what they are for a traced model; how values get from one layer to the next stays the model's.
"""

from __future__ import annotations

import copy
import inspect
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from qlab.errors import ArgumentError
from qlab.graph.inputs import Call
from qlab.graph.shapes import describe_value
from qlab.graph.state import State
from qlab.graph.trace import is_library_leaf


@dataclass
class Calls:
    """How a layer was called.

    Attributes:
        arguments: Those of the first call, by position.
        output: What the first call gave.
        count: How many calls there were.
        alike: Whether all took the same number of tensors and nothing else.
    """

    arguments: tuple[Any, ...]
    output: Any
    count: int = 0
    alike: bool = True


@dataclass(frozen=True)
class Islands:
    """The layers of a model without a graph.

    Attributes:
        graph: One ``call_module`` node per layer that was called, named by its path; its inputs
            are placeholders of its own.
        calls: How often each layer is called for the example inputs, by name.
        uncalled: Layers that are never called, by path.
        python: Modules whose own forward runs as Python, with their class.
    """

    graph: fx.GraphModule
    calls: dict[str, int]
    uncalled: tuple[tuple[str, str], ...]
    python: tuple[tuple[str, str], ...]


def layers_of(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The modules of `torch.nn` and of qlab that compute, by path; not what lies inside them."""
    inside: tuple[str, ...] = ()
    for path, module in model.named_modules():
        runs = type(module).forward is not nn.Module.forward
        if path and runs and is_library_leaf(module, whole=True) and not path.startswith(inside):
            inside = (*inside, f"{path}.")
            yield path, module


def islands(model: nn.Module, call: Call) -> Islands:
    """Calls a model once and describes each of its layers as a graph of its own.

    Args:
        model: The model, in evaluation mode; it stays as it is.
        call: The call.

    Raises:
        ArgumentError: The model calls no layer.
    """
    layers, before = dict(layers_of(model)), State(model)
    seen: dict[str, Calls] = {}
    with ExitStack() as hooks, torch.no_grad():
        hooks.callback(before.restored)
        for path, module in layers.items():
            hook = module.register_forward_hook(_note(seen, path), with_kwargs=True)
            hooks.callback(hook.remove)
        call.run(model, call.values)
    if not seen:
        raise ArgumentError(
            "The model calls no layer that could be quantized",
            expected="modules of torch.nn that its forward calls",
            received=f"{len(layers)} layers, none of them called",
        )
    python = [
        (path, type(module).__name__)
        for path, module in model.named_modules()
        if not is_library_leaf(module, whole=True)
        and type(module) is not nn.Sequential
        and type(module).forward is not nn.Module.forward
        and not path.startswith(tuple(f"{layer}." for layer in layers))
    ]
    return Islands(
        graph=_graph({path: layers[path] for path in seen}, seen),
        calls={path: calls.count for path, calls in seen.items()},
        uncalled=tuple((p, type(m).__name__) for p, m in layers.items() if p not in seen),
        python=tuple(python),
    )


def arguments_of(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call, by position where that is possible."""
    if not kwargs:
        return args, {}
    bound = inspect.signature(type(module).forward).bind(module, *args, **kwargs)
    return bound.args[1:], bound.kwargs


def _note(seen: dict[str, Calls], path: str) -> Any:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        positional, rest = arguments_of(module, args, kwargs)
        calls = seen.setdefault(path, Calls(positional, output))
        plain = not rest and all(isinstance(value, Tensor) for value in positional)
        calls.alike = calls.alike and plain and len(positional) == len(calls.arguments)
        calls.count += 1

    return hook


def _graph(layers: dict[str, nn.Module], seen: dict[str, Calls]) -> fx.GraphModule:
    graph, written = fx.Graph(), []
    tensors = [t for c in seen.values() for t in c.arguments if isinstance(t, Tensor)]
    inputs = iter([graph.placeholder(f"input_{index}") for index in range(len(tensors))])
    for path, calls in seen.items():
        args: list[fx.Node | None] = []
        for position, value in enumerate(calls.arguments):
            if not isinstance(value, Tensor):
                args.append(None)
                continue
            node = next(inputs)
            name = f"{path}.input" if position == 0 else f"{path}.input_{position}"
            node.meta |= {"name": name, "path": path, "scope": None, "parameters": 0}
            describe_value(node, value)
            args.append(node)
        if not calls.alike and None not in args:
            args.append(None)  # a mark: it is called with further arguments
        node = graph.call_module(path, tuple(args))
        node.meta |= {"name": path, "path": path, "scope": None, "kind": type(layers[path])}
        node.meta["parameters"] = sum(p.numel() for p in layers[path].parameters())
        describe_value(node, calls.output)
        written.append(node)
    end = graph.output(tuple(written))
    end.meta |= {"name": "output", "path": "", "scope": None, "parameters": 0, "kind": "output"}
    graph_module = fx.GraphModule({path: _alone(m) for path, m in layers.items()}, graph)
    return graph_module.eval()


def _alone(module: nn.Module) -> nn.Module:
    """A layer with the same parameters that calls no hooks and returns a new tensor."""
    alone = copy.copy(module)
    vars(alone).update(_forward_hooks=OrderedDict(), _forward_pre_hooks=OrderedDict())
    if vars(alone).get("inplace"):
        vars(alone)["inplace"] = False
    return alone
