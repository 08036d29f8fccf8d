"""Calls of functions become modules, and what wrote in place returns a new tensor.

After this, what the registry knows stands in the graph as a module, so that fusing and converting
need one form only. Functions that merely move elements, and those that the registry does not
know, stay calls.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from qlab import registry
from qlab.errors import UnsupportedError

_SHAPE_METHODS = frozenset({"size", "dim", "numel", "nelement", "ndimension", "stride"})
_RESHAPE_KEYWORDS = {"size": "shape"}  # what view calls one way, reshape calls another
_PLAIN_PYTHON = frozenset({"_operator", "builtins", "math"})
Kind = type[nn.Module] | Callable[..., Any] | str


def lift(graph_module: fx.GraphModule, *, training: bool = False) -> None:
    """Rewrites a traced graph in place; nodes keep their names and ``meta``.

    ``meta["kind"]`` records what the model called (a module class, a function, or a method's
    name): rules by type refer to it. ``meta["refused"]`` says why a call that the registry knows
    could not become a module.

    Args:
        graph_module: A traced graph.
        training: Whether it is to be trained: ``F.dropout`` was called with the mode at hand, and
            shall follow ``train()`` and ``eval()`` from now on.
    """
    in_place = _forget_in_place(graph_module)
    for node in graph_module.graph.nodes:
        node.meta["kind"] = _kind(graph_module, node)
        if _writes(node, in_place):
            _redirect(node)
        _tolerate_layouts(node)
    shapes = shape_nodes(graph_module)
    for node in graph_module.graph.nodes:
        if node.op in ("call_function", "call_method") and node not in shapes and is_real(node):
            if training and node.target is F.dropout:
                node.kwargs = {**node.kwargs, "training": False}  # the module follows the mode
            _lift_call(graph_module, node)
        elif node.op == "call_module" and node.kwargs:
            _name_no_arguments(graph_module, node)
    for node in reversed(graph_module.graph.nodes):
        if node.op == "get_attr" and not node.users:  # a weight, now in a module
            graph_module.graph.erase_node(node)
    graph_module.graph.lint()
    graph_module.recompile()


def shape_nodes(graph_module: fx.GraphModule) -> set[fx.Node]:
    """The nodes whose values are sizes and other plain Python values, not tensors."""
    found: set[fx.Node] = set()
    for node in graph_module.graph.nodes:
        if node.op == "call_method":
            plain = node.target in _SHAPE_METHODS
        elif node.op == "call_function":
            inputs = node.all_input_nodes
            computed = node.target.__module__ in _PLAIN_PYTHON and found.issuperset(inputs)
            plain = node.target in (getattr, torch._assert) or computed
        else:
            plain = False
        if plain and not node.meta.get("numel"):  # x.T is an attribute, and a tensor
            found.add(node)
    return found


def is_real(node: fx.Node) -> bool:
    """Whether a node gives real numbers: a floating-point tensor, alone or among others.

    True where no example inputs have shown what it gives.
    """
    return "dtype" not in node.meta or _any_floating(node.meta["dtype"])


def is_tensor(node: fx.Node) -> bool:
    """Whether a node gives one tensor, not a tuple or mapping of some."""
    return isinstance(node.meta.get("dtype", torch.float32), torch.dtype)


def _any_floating(dtypes: Any) -> bool:
    if isinstance(dtypes, torch.dtype):
        return dtypes.is_floating_point
    items = dtypes.values() if isinstance(dtypes, dict) else dtypes or ()
    return any(map(_any_floating, items))


def attribute(graph_module: fx.GraphModule, node: fx.Node) -> Any:
    """The value behind a ``get_attr`` node."""
    return operator.attrgetter(str(node.target))(graph_module)


def _kind(graph_module: fx.GraphModule, node: fx.Node) -> Kind:
    if node.op == "call_module":
        return type(graph_module.get_submodule(str(node.target)))
    return node.target


def _lift_call(graph_module: fx.GraphModule, node: fx.Node) -> None:
    """Puts the module of the same meaning in place of a call, where the registry has one."""
    if isinstance(node.target, str):
        row = registry.row_for_method(node.target)
    else:
        row = registry.row_for_function(node.target)
    if row is None or row.lift is None:
        return
    try:
        module, inputs = registry.lift_call(
            row, node.args, node.kwargs, lambda value: _constant(graph_module, value)
        )
    except UnsupportedError as refusal:
        node.meta["refused"] = str(refusal)
        return
    module.training = False
    graph_module.add_submodule(node.meta["name"], module)
    node.op, node.target = "call_module", node.meta["name"]
    node.args, node.kwargs = inputs, {}
    node.meta["parameters"] = sum(parameter.numel() for parameter in module.parameters())


def _name_no_arguments(graph_module: fx.GraphModule, node: fx.Node) -> None:
    """Turns the keyword arguments of a known module into positional ones."""
    module = graph_module.get_submodule(str(node.target))
    if registry.row_for_module(type(module)) is not None:
        signature = inspect.signature(type(module).forward)
        bound = signature.bind(module, *node.args, **node.kwargs)
        node.args, node.kwargs = bound.args[1:], bound.kwargs


def _constant(graph_module: fx.GraphModule, value: Any) -> Tensor:
    if isinstance(value, fx.Node) and value.op == "get_attr":
        return attribute(graph_module, value)
    raise UnsupportedError(
        "A weight that the model computes has no integer form",
        expected="a parameter or buffer of the model",
        received=str(value),
    )


def _forget_in_place(graph_module: fx.GraphModule) -> set[str]:
    """Makes every module return a new tensor; the paths of those that wrote to their input."""
    found = set()
    for path, module in graph_module.named_modules(remove_duplicate=False):
        if vars(module).get("inplace"):
            found.add(path)
    for path in found:
        vars(graph_module.get_submodule(path))["inplace"] = False
    return found


def _writes(node: fx.Node, in_place_modules: set[str]) -> bool:
    """Whether a call writes to its first argument; if so it becomes the form that does not."""
    if node.op == "call_module":
        return node.target in in_place_modules
    if node.op == "call_method":
        name = str(node.target)
        writes = name.endswith("_") and not name.endswith("__")
        if writes and name[:-1] in vars(torch._C.TensorBase):
            node.target = name[:-1]
        return writes
    if node.op != "call_function" or isinstance(node.target, str):
        return False
    if node.kwargs.get("inplace"):
        node.kwargs = {**node.kwargs, "inplace": False}
        return True
    name = node.target.__name__
    writes = name.endswith("_") and not name.endswith("__")
    if writes:
        node.target = vars(torch).get(name[:-1]) or vars(F).get(name[:-1]) or node.target
    return writes


def _tolerate_layouts(node: fx.Node) -> None:
    """Makes ``view`` a ``reshape``: an integer kernel may give another memory layout than float.

    Nothing writes in place, so the two differ in nothing else. A view as another dtype stays.
    """
    arguments = (*node.args[1:], *node.kwargs.values())
    if any(isinstance(argument, torch.dtype) for argument in arguments):
        return
    if node.op == "call_method" and node.target in ("view", "view_as"):
        node.target = str(node.target).replace("view", "reshape")
        node.kwargs = {_RESHAPE_KEYWORDS.get(key, key): v for key, v in node.kwargs.items()}


def _redirect(node: fx.Node) -> None:
    """What read the overwritten tensor after this node now reads the node's result.

    So every node's value stays what it was, whoever keeps it, and a converted graph needs no
    integer form of writing.
    """
    written = node.args[0] if node.args else None
    if not isinstance(written, fx.Node):
        return
    later = False
    for user in node.graph.nodes:
        if later:
            user.replace_input_with(written, node)
        later = later or user is node
