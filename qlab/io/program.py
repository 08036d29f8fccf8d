"""A converted graph as JSON: nodes and modules by name, nothing that executes.

Generated code is what `torch.fx` makes of a graph, so every name that reaches it is checked: node
and keyword names must be plain identifiers, functions and methods must be in the registry, modules
must be quantized modules or allow-listed classes of `torch.nn`.
"""

from __future__ import annotations

import keyword
import math
import operator
import re
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

from qlab import registry
from qlab.errors import FormatError, UnsupportedError
from qlab.graph.generated import write_for_speed
from qlab.graph.sizes import check_sizes
from qlab.io import modules
from qlab.io.uploads.operators import ALLOWED, operator_of

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_PATH = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*\Z")
_CASTS = ("bfloat16", "bool", "byte", "char", "double", "float", "half", "int", "long", "short")
_PLAIN_METHODS = ("size", "dim", "numel", "to", *_CASTS)
_SHAPE_ATTRIBUTES = ("shape", "ndim")


def functions() -> dict[str, Callable[..., Any]]:
    """Every function a graph may call, by the name written to files."""
    known = {function_name(f): f for row in registry.ROWS for f in row.functions}
    arithmetic = (operator.floordiv, operator.mul, operator.add, operator.sub)
    extra = (operator.getitem, *arithmetic, check_sizes)
    plain = {function_name(f): f for f in (*_operators(), *_plain_functions())}
    return plain | known | {function_name(f): f for f in extra} | {"builtins.getattr": getattr}


@cache
def _operators() -> tuple[Callable[..., Any], ...]:
    """The operators that an uploaded program may call: they only make tensors of tensors."""
    found = []
    for name in ALLOWED:
        for overload in getattr(torch.ops.aten, name).overloads():
            with suppress(UnsupportedError):  # it writes into tensors it was given
                found.append(operator_of(f"torch.ops.aten.{name}.{overload}"))
    return tuple(found)


@cache
def _plain_functions() -> tuple[Callable[..., Any], ...]:
    """What people call those operators by: functions of torch, and comparisons of Python."""
    names = sorted(ALLOWED)
    found = [getattr(place, name, None) for place in (torch, F) for name in names]
    signs = (operator.neg, operator.truediv, operator.pow, operator.mod, operator.matmul)
    compared = (operator.gt, operator.lt, operator.ge, operator.le, operator.eq, operator.ne)
    logical = (operator.and_, operator.or_, operator.invert)
    return (*filter(callable, found), *signs, *compared, *logical)


def function_name(function: Callable[..., Any]) -> str:
    """What `functions` calls a function."""
    if isinstance(function, torch._ops.OpOverload):
        return f"torch.ops.{function!s}"
    module = getattr(function, "__module__", None) or "torch"
    module = "operator" if module == "_operator" else module
    return f"{module}.{function.__name__}"


def _methods() -> set[str]:
    known = {method for row in registry.ROWS for method in row.methods} | set(_PLAIN_METHODS)
    return known | {name for name in ALLOWED if callable(getattr(torch.Tensor, name, None))}


_MEMORY_FORMATS = {
    str(form).removeprefix("torch."): form
    for form in (
        torch.contiguous_format,
        torch.preserve_format,
        torch.channels_last,
        torch.channels_last_3d,
    )
}


def encode(value: Any) -> Any:
    """JSON form of one argument of a node; lists and tuples stay apart.

    Raises:
        UnsupportedError: An object that has no JSON form.
    """
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else {"float": str(value)}
        case fx.Node():
            return {"node": value.name}
        case list():
            return [encode(v) for v in value]
        case tuple():
            return {"tuple": [encode(v) for v in value]}
        case dict():
            return {"dict": [[encode(k), encode(v)] for k, v in value.items()]}
        case slice():
            return {"slice": [encode(v) for v in (value.start, value.stop, value.step)]}
        case torch.dtype():
            return {"dtype": str(value).removeprefix("torch.")}
        case torch.device():
            return {"device": value.type}
        case torch.memory_format() if value in _MEMORY_FORMATS.values():
            return {"memory_format": str(value).removeprefix("torch.")}
    if value is Ellipsis:
        return {"ellipsis": True}
    raise UnsupportedError(
        "A graph's argument cannot be written as JSON", received=f"{value!r} ({type(value)})"
    )


def decode(data: Any, nodes: dict[str, fx.Node]) -> Any:
    """Inverse of `encode`.

    Raises:
        FormatError: Anything that `encode` does not write.
    """
    match data:
        case None | bool() | int() | float() | str():
            return data
        case list():
            return [decode(v, nodes) for v in data]
        case {"node": str(name)} if name in nodes:
            return nodes[name]
        case {"tuple": list(items)}:
            return tuple(decode(v, nodes) for v in items)
        case {"dict": list(items)}:
            return {decode(k, nodes): decode(v, nodes) for k, v in items}
        case {"slice": [start, stop, step]}:
            return slice(*(decode(v, nodes) for v in (start, stop, step)))
        case {"float": ("inf" | "-inf" | "nan") as text}:
            return float(text)
        case {"ellipsis": True}:
            return ...
        case {"dtype": str(name)}:
            dtype = getattr(torch, name, None) if _IDENTIFIER.match(name) else None
            if isinstance(dtype, torch.dtype):
                return dtype
        case {"device": str(name)} if name in ("cpu", "cuda"):
            return torch.device(name)
        case {"memory_format": str(name)} if name in _MEMORY_FORMATS:
            return _MEMORY_FORMATS[name]
    raise FormatError("A node's argument is not readable", received=repr(data)[:200])


def describe(graph_module: fx.GraphModule) -> dict[str, Any]:
    """The graph as JSON-ready data, without its tensors.

    Args:
        graph_module: A converted graph.

    Raises:
        UnsupportedError: It calls something that a checkpoint may not name.
    """
    names = {f: name for name, f in functions().items()}
    nodes, described = [], {}
    for node in graph_module.graph.nodes:
        if node.op == "call_module" and node.target not in described:
            submodule = graph_module.get_submodule(node.target)
            described[node.target] = modules.describe(submodule, node.target)
        if node.op == "call_function" and node.target not in names:
            raise UnsupportedError(
                f"The function of node {node.name!r} cannot be saved",
                expected="a function of the registry",
                received=str(node.target),
            )
        if node.op == "call_method" and node.target not in _methods():
            raise UnsupportedError(
                f"The method of node {node.name!r} cannot be saved", received=node.target
            )
        target = names[node.target] if node.op == "call_function" else node.target
        nodes.append(
            {
                "name": node.name,
                "op": node.op,
                "target": target,
                "args": encode(tuple(node.args)),
                "kwargs": {key: encode(value) for key, value in node.kwargs.items()},
            }
        )
    return {"nodes": nodes, "modules": described}


def build(data: dict[str, Any], tensors: dict[str, torch.Tensor]) -> fx.GraphModule:
    """Rebuilds a graph from `describe`'s data; its tensors are loaded afterwards.

    Args:
        data: What `describe` returned.
        tensors: The checkpoint's tensors; those that the graph reads directly become buffers.

    Raises:
        FormatError: Anything unknown or malformed.
    """
    root = nn.Module()
    for path, module in data["modules"].items():
        _check_tensors(module, _checked_path(path), tensors)
        _attach(root, path, modules.build(module, path))
    graph, nodes, known = fx.Graph(), {}, functions()
    for entry in data["nodes"]:
        name, op, target = entry["name"], entry["op"], entry["target"]
        if not (isinstance(name, str) and _IDENTIFIER.match(name)) or name in nodes:
            raise FormatError("A node has no usable name", received=repr(name)[:200])
        args = decode(entry["args"], nodes)
        kwargs = {_checked_keyword(key): decode(v, nodes) for key, v in entry["kwargs"].items()}
        _check_call(op, target, args, known)
        if op == "get_attr":
            _attach_tensor(root, target, tensors)
        called = known[target] if op == "call_function" else target
        node = graph.create_node(op, called, args, kwargs, name=name)
        if node.name != name:
            raise FormatError("A node's name is reserved", received=repr(name))
        nodes[name] = node
    graph.lint()
    write_for_speed(graph, {path: root.get_submodule(path) for path in data["modules"]})
    return fx.GraphModule(root, graph)


def _check_call(op: str, target: str, args: Any, functions: dict[str, Any]) -> None:
    known = {
        "placeholder": lambda: _is_name(target),
        "output": lambda: target == "output",
        "call_module": lambda: _PATH.match(target) is not None,
        "get_attr": lambda: _PATH.match(target) is not None,
        "call_method": lambda: target in _methods(),
        "call_function": lambda: target in functions,
    }
    if op not in known or not isinstance(target, str) or not known[op]():
        raise FormatError(
            "A checkpoint names an operation that qlab does not run",
            expected="an operation of the registry",
            received=f"{op} {target!r}"[:200],
        )
    if target == "builtins.getattr" and tuple(args)[1:] not in [(a,) for a in _SHAPE_ATTRIBUTES]:
        raise FormatError(
            "A checkpoint reads an attribute that is not allowed",
            expected="one of: " + ", ".join(_SHAPE_ATTRIBUTES),
            received=repr(args)[:200],
        )


def _check_tensors(module: dict[str, Any], path: str, tensors: dict[str, torch.Tensor]) -> None:
    """Compares a module's tensors with the file's before there is memory taken for them."""
    with torch.device("meta"):
        expected = modules.build(module, path).state_dict()
    for name, tensor in expected.items():
        found = tensors.get(f"{path}.{name}")
        if found is None or found.shape != tensor.shape:
            raise FormatError(
                f"The checkpoint's tensors do not fit layer {path!r}",
                expected=f"{name} of shape {tuple(tensor.shape)}",
                received="no such tensor" if found is None else f"shape {tuple(found.shape)}",
            )


def _is_name(text: str) -> bool:
    return _IDENTIFIER.match(text) is not None and not keyword.iskeyword(text)


def _checked_keyword(name: str) -> str:
    if not isinstance(name, str) or not _is_name(name):
        raise FormatError("A keyword is not readable", received=repr(name)[:200])
    return name


def _checked_path(path: str) -> str:
    if not isinstance(path, str) or not _PATH.match(path):
        raise FormatError("A module path is not readable", received=repr(path)[:200])
    return path


def _attach(root: nn.Module, path: str, module: nn.Module) -> None:
    *parents, leaf = path.split(".")
    for name in parents:
        if name not in root._modules:
            root.add_module(name, nn.Module())
        root = root.get_submodule(name)
    root.add_module(leaf, module)


def _attach_tensor(root: nn.Module, path: str, tensors: dict[str, torch.Tensor]) -> None:
    if path not in tensors:
        raise FormatError("A checkpoint lacks a tensor", expected=f"a tensor {path!r}")
    *parents, leaf = path.split(".")
    for name in parents:
        if name not in root._modules:
            root.add_module(name, nn.Module())
        root = root.get_submodule(name)
    if leaf not in root._buffers:
        root.register_buffer(leaf, tensors[path])
