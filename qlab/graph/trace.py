"""From a model to a graph whose leaves are ``torch.nn`` and ``qlab.nn`` modules."""

from __future__ import annotations

import copy
import inspect
import itertools
import keyword
import linecache
import threading
import traceback
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.parameter import UninitializedParameter

from qlab.errors import ArgumentError, DTypeError, TraceError
from qlab.graph.lift import attribute, lift
from qlab.graph.shapes import record_shapes, tensors_in
from qlab.nn.quantized import FloatFunctional, FXFloatFunctional
from qlab.nn.stubs import DeQuantStub, QuantStub, QuantWrapper

Inputs = Tensor | tuple[Any, ...] | list[Any] | Mapping[str, Any]
Leaves = Collection[str | type[nn.Module]]
FrontDoor = Callable[[nn.Module, inspect.BoundArguments, Leaves], fx.GraphModule]

_LIBRARY = ("torch.nn", "qlab.nn")
#: Marks of the eager workflow, which mean nothing in a graph.
_SEEN_THROUGH = (QuantStub, DeQuantStub, QuantWrapper, FXFloatFunctional)
_FRAMEWORK_FOLDERS = (str(Path(torch.__file__).parent), str(Path(__file__).parent))


def trace(
    model: nn.Module,
    example_inputs: Inputs | None = None,
    *,
    leaves: Leaves = (),
    training: bool = False,
) -> fx.GraphModule:
    """The model as a graph: a copy in evaluation mode, the model itself stays as it is.

    Its operators are modules: those of the model, and one for each function or method call that
    the registry knows (``a + b`` becomes `qlab.nn.functions.Add`). Nothing writes in place.
    Every node's ``meta`` gets ``path`` (the module it was called in, or is), ``name`` (unique, for
    people: ``"block1.conv"``, ``"block1.add"``) and ``parameters`` (how many the call owns). With
    example inputs one forward pass adds ``shape`` and ``dtype`` (of a tensor; nested like the
    value for a tuple, list or dict; None for anything else) and ``numel`` (elements of all
    tensors of the value).

    Args:
        model: Any module whose forward does not decide on the values or shapes of tensors.
        example_inputs: One tensor, the positional arguments as a tuple or list, or the keyword
            arguments as a mapping. Arguments that are not tensors are fixed at the given value,
            absent ones at their default; the graph takes the others.
        leaves: Modules to keep whole, by path or class, besides those of ``torch.nn``.
        training: Keep every module's mode instead, for a graph that is to be trained; dropout by
            function becomes a module, which follows ``train()`` and ``eval()``.

    Returns:
        A graph module of the same outputs as ``model.eval()``; with ``training`` as the model.

    Raises:
        TraceError: The forward decides on what it computes; names module, file and line.
        DTypeError: Not a module.
        ArgumentError: The inputs do not fit, with the name of the layer that refused them; or the
            model is quantized already, or has parameters that do not exist yet.
    """
    _check_model(model)
    root = copy.deepcopy(model)
    if not training:
        root.eval()
    if is_library_leaf(root):
        root = nn.Sequential(root).train(root.training)
    _plain_functionals(root)
    inputs = _bind(root, example_inputs)
    refusals = []
    for door in FRONT_DOORS:
        try:
            traced = door(root, inputs, leaves)
        except TraceError as refusal:
            refusals.append(refusal)
            continue
        _name_nodes(traced)
        modes = {path: module.training for path, module in traced.named_modules()}
        traced.eval()  # the pass that follows must not move a batch norm's statistics
        if example_inputs is not None:
            record_shapes(traced, [value for _, value in _tensors_of(inputs)])
        lift(traced, training=training)
        for path, module in traced.named_modules():
            module.training = modes.get(path, root.training)
        return traced
    raise refusals[0]


def _check_model(model: object) -> None:
    if not isinstance(model, nn.Module):
        raise DTypeError("Not a model", expected="a torch.nn.Module", received=type(model).__name__)
    if isinstance(model, fx.GraphModule) and "plan" in model.meta:
        raise ArgumentError(
            "The model is prepared or converted already",
            expected="a float model",
            received="what prepare_fx or convert_fx returned",
            fix="Start from the float model, which neither of them changes.",
        )
    for path, module in model.named_modules():
        if any(isinstance(p, UninitializedParameter) for p in module._parameters.values()):
            raise ArgumentError(
                f"The parameters of layer {path!r} ({type(module).__name__}) do not exist yet",
                fix="Call the model once: lazy layers take their shapes from the first input.",
            )


def symbolic(root: nn.Module, inputs: inspect.BoundArguments, leaves: Leaves) -> fx.GraphModule:
    """Runs the forward once with stand-ins for the inputs and records what it does with them."""
    tracer = _Tracer(inputs, leaves)
    try:
        with _ONE_AT_A_TIME:
            graph = tracer.trace(root)
    except Exception as error:
        raise _trace_error(root, tracer.stopped_in, error) from error
    for node in graph.nodes:
        reserved = [part for part in str(node.target).split(".") if keyword.iskeyword(part)]
        if node.op in ("call_module", "get_attr") and reserved:
            raise TraceError(
                "A module or parameter bears a name that Python reserves",
                received=f"{reserved[0]!r} in {node.target!r}",
                fix="Give it another name; a graph is written as Python code.",
            )
    return fx.GraphModule(root, graph, type(root).__name__)


#: Ways to a graph, tried in this order until one does not raise `TraceError`.
FRONT_DOORS: tuple[FrontDoor, ...] = (symbolic,)


#: `torch.fx` traces by replacing ``nn.Module.__call__`` for the whole process.
_ONE_AT_A_TIME = threading.Lock()


class _Tracer(fx.Tracer):
    """Symbolic tracer that keeps library modules whole and remembers where it was stopped.

    It records only what its own thread calls: modules that run in other threads meanwhile, which
    `torch.fx` sends here as well, run as ever.
    """

    trace_asserts = True

    def __init__(self, inputs: inspect.BoundArguments, leaves: Leaves) -> None:
        super().__init__()
        self.thread = threading.get_ident()
        self.inputs = inputs
        self.leaves = leaves
        self.stopped_in: str | None = None

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        named = module_qualified_name in self.leaves or type(m) in self.leaves
        return named or is_library_leaf(m)

    def call_module(
        self,
        m: nn.Module,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        if threading.get_ident() != self.thread:
            return forward(*args, **kwargs)
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:
            if self.stopped_in is None:
                self.stopped_in = self.path_of_module(m)
            raise

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        if threading.get_ident() != self.thread:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def create_args_for_root(
        self,
        root_fn: Callable[..., Any],
        is_module: bool,
        concrete_args: dict[str, Any] | tuple[Any, ...] | None = None,
    ) -> tuple[Any, list[Any]]:
        stand_ins = {
            name: self.create_proxy("placeholder", name, (), {})
            for name, _ in _tensors_of(self.inputs)
        }
        bound = _replace(self.inputs, stand_ins)

        def call(root):  # unannotated: fx would read annotations as the model's
            return root_fn(root, *bound.args[1:], **bound.kwargs)

        return call, [self.root]


def is_library_leaf(module: nn.Module) -> bool:
    """Whether a module is one operator: those of ``torch.nn`` and `qlab.nn` are, mostly."""
    home = type(module).__module__
    inside = any(f"{home}.".startswith(f"{package}.") for package in _LIBRARY)
    return inside and not isinstance(module, _SEEN_THROUGH) and type(module) is not nn.Sequential


def _plain_functionals(root: nn.Module) -> None:
    """Float functionals without the place for an eager model's observer."""
    for path, module in list(root.named_modules(remove_duplicate=False)):
        if type(module) is FloatFunctional:
            root.set_submodule(path, FXFloatFunctional())


def _bind(root: nn.Module, example_inputs: Inputs | None) -> inspect.BoundArguments:
    """Example inputs by the names of the forward's parameters; without any, the required ones."""
    signature = inspect.signature(type(root).forward)
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}
    match example_inputs:
        case None:
            kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
            needed = [p for p in signature.parameters.values() if p.kind not in kinds]
            kwargs = {p.name: _ANY for p in needed[1:] if p.default is inspect.Parameter.empty}
        case Tensor():
            args = (example_inputs,)
        case tuple() | list():
            args = tuple(example_inputs)
        case Mapping():
            kwargs = dict(example_inputs)
        case _:
            raise ArgumentError(
                "The example inputs cannot be passed to the model",
                expected="a tensor, a tuple or list of arguments, or a mapping of keywords",
                received=type(example_inputs).__name__,
            )
    try:
        return signature.bind(root, *args, **kwargs)
    except TypeError as error:
        raise ArgumentError(
            f"The example inputs do not fit {type(root).__name__}.forward: {error}",
            expected=f"arguments of forward{signature}",
            received=f"{len(args)} positional arguments, keywords {sorted(kwargs)}",
        ) from error


_ANY = torch.empty(0)  # stands for an input of which nothing is known


def _tensors_of(inputs: inspect.BoundArguments) -> Iterator[tuple[str, Any]]:
    """Name and value of each argument that is or holds a tensor: the graph's placeholders."""
    kinds = inputs.signature.parameters
    for name, value in list(inputs.arguments.items())[1:]:
        if kinds[name].kind is inspect.Parameter.VAR_POSITIONAL:
            parts = [(f"{name}_{index}", item) for index, item in enumerate(value)]
        elif kinds[name].kind is inspect.Parameter.VAR_KEYWORD:
            parts = list(value.items())
        else:
            parts = [(name, value)]
        yield from ((part, item) for part, item in parts if tensors_in(item))


def _replace(
    inputs: inspect.BoundArguments, stand_ins: Mapping[str, Any]
) -> inspect.BoundArguments:
    """The same arguments with each named one replaced."""
    arguments = dict(inputs.arguments)
    for name, value in arguments.items():
        kind = inputs.signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            arguments[name] = tuple(
                stand_ins.get(f"{name}_{index}", item) for index, item in enumerate(value)
            )
        elif kind is inspect.Parameter.VAR_KEYWORD:
            arguments[name] = {key: stand_ins.get(key, item) for key, item in value.items()}
        else:
            arguments[name] = stand_ins.get(name, value)
    return inspect.BoundArguments(inputs.signature, OrderedDict(arguments))


def _trace_error(root: nn.Module, path: str | None, error: Exception) -> TraceError:
    own = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith((*_FRAMEWORK_FOLDERS, "<"))
    ]
    module = root.get_submodule(path or "")
    place = f"module {path!r}" if path else "the model itself"
    if own:
        line = own[-1].line or linecache.getline(own[-1].filename, own[-1].lineno or 0).strip()
        where = f" at {own[-1].filename}, line {own[-1].lineno}: {line}"
    else:
        where = ""
    return TraceError(
        f"The model has no single graph: tracing stopped in {place} "
        f"({type(module).__name__}){where}",
        expected="a forward that takes the same path whatever the tensors hold",
        received=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else error!r}",
        fix="Rewrite that line without a decision on a tensor's value or shape (torch.where, a "
        "fixed number of steps), or use the eager workflow, which needs no graph: "
        "qlab.quantization.prepare and convert with QuantStub and DeQuantStub.",
    )


def _name_nodes(traced: fx.GraphModule) -> None:
    """Gives each node its path, its unique name for people, and its number of parameters.

    A module called several times gets an alias per call, so that each call can be quantized on
    its own: afterwards the target of every module's node is its name.
    """
    modules = dict(traced.named_modules())
    used: set[str] = set()
    for node in traced.graph.nodes:
        stack = node.meta.pop("nn_module_stack", {})
        scope, scope_type = _innermost(stack)
        path = str(node.target) if node.op == "call_module" else scope
        name = path if node.op == "call_module" else ".".join(filter(None, (path, _label(node))))
        free = name if node.op == "call_module" and name not in used else None
        counter = itertools.count(1)
        unique = name
        while unique != free and (unique in used or unique in modules):
            unique = f"{name}_{next(counter)}"
        used.add(unique)
        node.meta["path"] = path
        node.meta["scope"] = scope_type
        node.meta["name"] = unique
        node.meta["parameters"] = _parameter_count(traced, node)
        if unique != free and node.op == "call_module":
            traced.add_submodule(unique, traced.get_submodule(path))
            node.target = unique


def _innermost(stack: Mapping[str, tuple[str, type | None]]) -> tuple[str, type | None]:
    """Path and class of the module in which a node was called; the model itself has neither."""
    return list(stack.values())[-1] if stack else ("", None)


def _label(node: fx.Node) -> str:
    """What a node that is no module is called, without the place where it is called."""
    if isinstance(node.target, str):
        return node.target
    return node.target.__name__


def _parameter_count(traced: fx.GraphModule, node: fx.Node) -> int:
    if node.op == "call_module":
        return sum(p.numel() for p in traced.get_submodule(str(node.target)).parameters())
    if node.op == "get_attr":
        value = attribute(traced, node)
        return value.numel() if isinstance(value, nn.Parameter) else 0
    return 0
