"""A fused float graph as data: its program, what its nodes are called, and which tensors it shares.

Beyond what a converted graph needs (`qlab.io.program`), planning needs each node's ``meta``, and a
module or parameter that occurs twice must stay one.
"""

from __future__ import annotations

from typing import Any, TypeGuard

from torch import Tensor, fx, nn

from qlab.analysis.fingerprint import graph_tensors
from qlab.errors import FormatError, UnknownNameError, UnsupportedError
from qlab.io import modules, program
from qlab.object_types import object_type_from_dict, object_type_to_dict

_FUSED = "fused float graph"
_TEXT = ("name", "path", "refused")
_PLAIN = ("shape", "dtype", "numel", "parameters", "fused", "batch_norm")


def is_float_graph(model: object) -> TypeGuard[fx.GraphModule]:
    """Whether a graph was read from a file, and so is traced and fused already."""
    return isinstance(model, fx.GraphModule) and model.meta.get("qlab") == _FUSED


def describe(graph_module: fx.GraphModule) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A fused float graph as JSON-ready data, and its tensors.

    Raises:
        UnsupportedError: It holds a module, function or object that a file may not name.
    """
    if special := [n.name for n in graph_module.graph.nodes if "special" in n.meta]:
        raise UnsupportedError(
            "A graph with custom or standalone modules cannot be saved", received=special[0]
        )
    tensors = graph_tensors(graph_module)
    if not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise UnsupportedError("The graph reads an attribute that is not a tensor")
    data = program.describe(graph_module)
    data["meta"] = {node.name: _meta_to_json(node) for node in graph_module.graph.nodes}
    data["shared_modules"] = _shared(_modules(graph_module))
    data["shared_tensors"] = _shared(_parameters(graph_module))
    return data, tensors


def build(data: dict[str, Any], tensors: dict[str, Tensor]) -> fx.GraphModule:
    """Inverse of `describe`; nothing that the data names is imported or run.

    Raises:
        FormatError: Anything unknown or malformed.
    """
    graph_module = program.build(data, tensors)
    for path, first in data["shared_modules"].items():
        _put(graph_module, path, graph_module.get_submodule(first))
    for path, first in data["shared_tensors"].items():
        _put(graph_module, path, graph_module.get_parameter(first))
    graph_module.load_state_dict(tensors, strict=True)
    for node in graph_module.graph.nodes:
        node.meta = _meta_from_json(data["meta"][node.name])
    graph_module.meta["qlab"] = _FUSED
    return graph_module.eval()


def _modules(graph_module: fx.GraphModule) -> dict[str, object]:
    called = [str(n.target) for n in graph_module.graph.nodes if n.op == "call_module"]
    return {path: graph_module.get_submodule(path) for path in called}


def _parameters(graph_module: fx.GraphModule) -> dict[str, object]:
    return dict(graph_module.named_parameters(remove_duplicate=False))


def _shared(objects: dict[str, object]) -> dict[str, str]:
    """The names under which an object occurs again, with its first name."""
    first: dict[int, str] = {}
    again = {name: first.setdefault(id(obj), name) for name, obj in objects.items()}
    return {name: known for name, known in again.items() if name != known}


def _put(graph_module: fx.GraphModule, path: str, what: nn.Module | nn.Parameter) -> None:
    parent, _, leaf = path.rpartition(".")
    owner = graph_module.get_submodule(parent)
    known = owner._modules if isinstance(what, nn.Module) else owner._parameters
    was: Any = known[leaf]
    if type(was) is not type(what) or getattr(was, "shape", None) != getattr(what, "shape", None):
        raise FormatError("Two layers that differ cannot be one", received=path)
    setattr(owner, leaf, what)


def _meta_to_json(node: fx.Node) -> dict[str, Any]:
    meta: dict[str, Any] = {key: node.meta[key] for key in _TEXT if key in node.meta}
    meta |= {key: program.encode(_plain(node.meta[key])) for key in _PLAIN if key in node.meta}
    for key in ("scope", "kind"):
        meta[key] = _kind_to_json(node.meta.get(key))
    return meta


def _plain(value: Any) -> Any:
    """Shapes as tuples: a torch.Size is one that JSON forms do not know."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(map(_plain, value)) if type(value) in (tuple, list) else tuple(value)
    return value


def _kind_to_json(kind: Any) -> Any:
    """What a rule by type may call a node: a class, a function, a method's name.

    None for a person's own, which a rule in a file cannot name either.
    """
    if kind is None:
        return None
    try:
        return object_type_to_dict(kind)
    except UnknownNameError:
        name = f"{kind.__module__}.{kind.__qualname__}"
        if modules.float_classes().get(name) is kind:
            return {"class": name}
        name = program.function_name(kind)
        return {"call": name} if program.functions().get(name) is kind else None


def _meta_from_json(data: dict[str, Any]) -> dict[str, Any]:
    meta: dict[str, Any] = {key: str(data[key]) for key in _TEXT if key in data}
    meta |= {key: program.decode(data[key], {}) for key in _PLAIN if key in data}
    for key in ("scope", "kind"):
        meta[key] = _kind_from_json(data[key])
    return meta


def _kind_from_json(data: Any) -> Any:
    match data:
        case None:
            return None
        case {"class": str(name)} if name in modules.float_classes():
            return modules.float_classes()[name]
        case {"call": str(name)} if name in program.functions():
            return program.functions()[name]
        case {"type": _} | {"function": _} | {"method": _}:
            return object_type_from_dict(data)
    raise FormatError("A node was made of something unknown", received=repr(data)[:200])
