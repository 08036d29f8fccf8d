"""From a model to a graph whose leaves are ``torch.nn`` and ``qlab.nn`` modules."""

from __future__ import annotations

import copy
import inspect
import itertools
import threading
from collections.abc import Callable, Collection, Mapping
from typing import Any

from torch import fx, nn
from torch.nn.parameter import UninitializedParameter

from qlab import registry
from qlab.errors import ArgumentError, DTypeError, TraceError
from qlab.graph.aten import operator_name
from qlab.graph.exported import candidates, export, rebuild
from qlab.graph.inputs import ANY, Inputs, bind, replace, tensors_of
from qlab.graph.lift import attribute, lift
from qlab.graph.shapes import record_shapes
from qlab.graph.sizes import check_agreement
from qlab.graph.state import State, check_repeatable, state_error
from qlab.graph.stops import check_names, trace_error
from qlab.nn.quantized import FloatFunctional, FXFloatFunctional
from qlab.nn.stubs import DeQuantStub, QuantStub, QuantWrapper

Leaves = Collection[str | type[nn.Module]]
FrontDoor = Callable[[nn.Module, inspect.BoundArguments, Leaves], fx.GraphModule]

_LIBRARY = ("torch.nn", "qlab.nn")
#: Marks of the eager workflow, which mean nothing in a graph.
_SEEN_THROUGH = (QuantStub, DeQuantStub, QuantWrapper, FXFloatFunctional)
#: Modules of `torch.nn` that hold linear layers; no symbolic trace gets through them.
_OPENED = (
    nn.MultiheadAttention,
    nn.Transformer,
    nn.TransformerEncoder,
    nn.TransformerDecoder,
    nn.TransformerEncoderLayer,
    nn.TransformerDecoderLayer,
)


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
        model: Any module whose forward does not decide on what tensors hold. One that decides on
            shapes, or reads sizes as numbers, needs example inputs; its graph then refuses inputs
            for which the model would have decided otherwise.
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
    inputs = bind(root, example_inputs)
    refusals = []
    for door in (as_it_is,) if is_graph_from_file(root) else FRONT_DOORS:
        try:
            traced = door(root, inputs, leaves)
        except TraceError as refusal:
            refusals.append(refusal)
            continue
        _name_nodes(traced)
        modes = {path: module.training for path, module in traced.named_modules()}
        traced.eval()  # the pass that follows must not move a batch norm's statistics
        if example_inputs is not None:
            record_shapes(traced, [value for _, value in tensors_of(inputs)])
        lift(traced, training=training)
        for path, module in traced.named_modules():
            module.training = modes.get(path, root.training)
        return traced
    by_export = refusals[1:] + refusals[:1]  # it gets further than a symbolic trace
    raise next((refusal for refusal in by_export if refusal.line is not None), refusals[0])


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
    with _ONE_AT_A_TIME:
        before = State(root)
        try:
            graph = tracer.trace(root)
        except Exception as error:
            raise trace_error(root, error, tracer.stopped_in) from error
        finally:
            written = before.restored()
    if written:
        raise state_error(root, written[0], inputs)
    if before.attributes:
        check_repeatable(root, before.attributes, inputs)
    check_names(graph)
    return fx.GraphModule(root, graph, type(root).__name__)


def exported(root: nn.Module, inputs: inspect.BoundArguments, leaves: Leaves) -> fx.GraphModule:
    """Runs the forward once on stand-ins that know their shapes, with `torch.export`.

    So it may decide on shapes and on what is given, read sizes as numbers, and loop over them; not
    on what tensors hold.
    """
    names = [name for name, value in tensors_of(inputs) if value is not ANY]
    if not names:
        raise TraceError("The shapes of the inputs are not known", fix="Pass example inputs.")

    def is_leaf(path: str, module: nn.Module) -> bool:
        known = is_library_leaf(module) and registry.row_for_module(type(module)) is not None
        return known or path in leaves or type(module) in leaves

    refusals = []
    for source in candidates(inputs):
        try:
            with _ONE_AT_A_TIME:
                program = export(root, source)
        except Exception as error:
            refusals.append(trace_error(root, error))
            continue
        try:
            graph_module, before = rebuild(root, program, inputs, is_leaf), State(root)
            check_agreement(root, graph_module, inputs)
            if written := before.restored():  # a buffer that is replaced is not in the program
                raise state_error(root, written[0], inputs)
            if before.attributes:
                check_repeatable(root, before.attributes, inputs)
        except TraceError as refusal:
            refusals.append(refusal)
        else:
            return graph_module
    raise refusals[-1]


def whole(root: nn.Module, inputs: inspect.BoundArguments, leaves: Leaves) -> fx.GraphModule:
    """As `symbolic`, but attention and transformer layers of `torch.nn` are one operator each."""
    return symbolic(root, inputs, {*leaves, *_OPENED})


def is_graph_from_file(model: nn.Module) -> bool:
    """Whether a model is a graph already, whose nodes know the modules they were called in."""
    return isinstance(model, fx.GraphModule) and model.meta.get("qlab") == FROM_FILE


def as_it_is(root: nn.Module, inputs: inspect.BoundArguments, leaves: Leaves) -> fx.GraphModule:
    """A graph that was read from a file: it has been traced where it was made."""
    assert isinstance(root, fx.GraphModule)
    return root


#: ``meta["qlab"]`` of a graph that `is_graph_from_file`.
FROM_FILE = "graph from a file"
#: Ways to a graph, tried in this order until one does not raise `TraceError`.
FRONT_DOORS: tuple[FrontDoor, ...] = (symbolic, exported, whole)


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
            for name, _ in tensors_of(self.inputs)
        }
        bound = replace(self.inputs, stand_ins)

        def call(root):  # unannotated: fx would read annotations as the model's
            return root_fn(root, *bound.args[1:], **bound.kwargs)

        return call, [self.root]


def is_library_leaf(module: nn.Module, *, whole: bool = False) -> bool:
    """Whether a module is one operator: those of `torch.nn` and `qlab.nn` are, mostly.

    Args:
        module: The module.
        whole: Whether attention counts as one operator too.
    """
    home = type(module).__module__
    inside = any(f"{home}.".startswith(f"{package}.") for package in _LIBRARY)
    opened = (nn.Sequential, *(_OPENED[1:] if whole else _OPENED))
    return inside and not isinstance(module, _SEEN_THROUGH) and type(module) not in opened


def _plain_functionals(root: nn.Module) -> None:
    """Float functionals without the place for an eager model's observer."""
    for path, module in list(root.named_modules(remove_duplicate=False)):
        if type(module) is FloatFunctional:
            root.set_submodule(path, FXFloatFunctional())


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
    return node.meta.get("label") or operator_name(node.target)


def _parameter_count(traced: fx.GraphModule, node: fx.Node) -> int:
    if node.op == "call_module":
        return sum(p.numel() for p in traced.get_submodule(str(node.target)).parameters())
    if node.op == "get_attr":
        value = attribute(traced, node)
        return value.numel() if isinstance(value, nn.Parameter) else 0
    return 0
