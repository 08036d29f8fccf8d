"""The second way to a graph: `torch.export`, whose operators are put back into their modules.

A program that `torch.export` records has ``aten`` calls, with the parameters as arguments. Those
that came out of one call of a known layer become that layer's node again, the others the function
that a user would have called. So everything behind the front doors sees one kind of graph.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import operator
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind
from torch.utils import _pytree as pytree

from qlab import registry
from qlab.errors import TraceError
from qlab.graph.aten import (
    as_users_call_it,
    first_alone,
    is_check,
    operator_name,
    passes_on,
    writes,
)
from qlab.graph.inputs import ANY, each_tensor, parts_of, tensors_of
from qlab.graph.shapes import tensors_in
from qlab.graph.sizes import check_sizes
from qlab.graph.state import state_error
from qlab.graph.stops import check_names

_WEIGHTED = frozenset({"linear", "conv1d", "conv2d", "conv3d", "layer_norm", "prelu"})
_TALKATIVE = (
    "torch.fx.experimental.symbolic_shapes",
    "torch._export.non_strict_utils",
    "torch.export._trace",
)
IsLeaf = Callable[[str, nn.Module], bool]


_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def candidates(inputs: inspect.BoundArguments) -> list[inspect.BoundArguments]:
    """The inputs to export a model with, in the order to be tried.

    `torch.export` takes sizes of 1 for fixed, so a batch of one sample is doubled first; a model
    that does not take two samples, or does something else with them, is exported for one.
    """
    batches = {t.shape[:1] for t in tensors_in(inputs.args[1:]) + tensors_in(inputs.kwargs)}
    single = batches == {torch.Size([1])}
    return [*([each_tensor(inputs, lambda t: torch.cat([t, t]))] if single else []), inputs]


def export(
    root: nn.Module, inputs: inspect.BoundArguments, *, by_name: bool = False
) -> ExportedProgram:
    """The program of a model, free in every size that the model itself leaves free.

    Args:
        root: The model.
        inputs: Example arguments of its forward, itself first.
        by_name: Whether the program shall take its inputs as keywords, instead of in order.
    """
    args, kwargs = inputs.args[1:], inputs.kwargs
    if by_name:
        args, kwargs = (), dict(parts_of(inputs))
    sizes = {
        name: pytree.tree_map(_free, value) for name, value in list(inputs.arguments.items())[1:]
    }
    with torch.no_grad(), _as_written(), _quiet():
        program = torch.export.export(root, args, kwargs, dynamic_shapes=sizes, strict=False)
        if any(writes(node.target) or node.op == "get_attr" for node in program.graph.nodes):
            program = program.run_decompositions({})
    return program


@contextlib.contextmanager
def _as_written() -> Iterator[None]:
    """Attention runs its own Python, not the single operator that stands for a whole layer."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps what `torch.export` prints and warns of away from people: errors say what matters."""
    loggers = [logging.getLogger(name) for name in _TALKATIVE]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _free(value: Any) -> Any:
    return [Dim.AUTO] * value.ndim if isinstance(value, Tensor) else None


def rebuild(
    root: nn.Module, program: ExportedProgram, inputs: inspect.BoundArguments, is_leaf: IsLeaf
) -> fx.GraphModule:
    """The graph of a program over the model's own modules and parameters.

    Args:
        root: The model; tensors that the program holds as constants become its buffers.
        program: What `export` gave for it.
        inputs: Example inputs; those that are known are the graph's inputs, in order.
        is_leaf: Whether the module of a path shall stay whole.

    Raises:
        TraceError: The program does what a graph cannot say.
    """
    return _Rebuilding(root, program, inputs, is_leaf).run()


class _Rebuilding:
    """The graph being written, and for each node of the program what carries its value."""

    def __init__(
        self,
        root: nn.Module,
        program: ExportedProgram,
        inputs: inspect.BoundArguments,
        is_leaf: IsLeaf,
    ) -> None:
        self.root, self.program, self.inputs = root, program, inputs
        self.modules = dict(root.named_modules(remove_duplicate=False))
        self.graph = fx.Graph()
        self.values: dict[fx.Node, Any] = {}
        self.given: list[fx.Node] = []
        self.parameters: dict[fx.Node, str] = {}
        self._read_signature()
        self.returned = self._returned()
        self.layers = dict(self._layers(is_leaf))

    def run(self) -> fx.GraphModule:
        names = [name for name, value in tensors_of(self.inputs) if value is not ANY]
        placeholders = self._write_inputs(names)
        for node, path in self.parameters.items():
            self.values[node] = self.graph.get_attr(path)
        inside = {part for parts in self.layers.values() for part in parts}
        for node in self.program.graph.nodes:
            if node in self.layers:
                self._write_layer(node)
            elif node.op == "call_function" and node not in inside:
                self._write_call(node)
        returned = [self.values[v] if isinstance(v, fx.Node) else v for v in self.returned]
        spec = self.program.call_spec.out_spec
        assert spec is not None
        self.graph.output(_plain(pytree.tree_unflatten(returned, spec)))
        check_names(self.graph)
        graph_module = fx.GraphModule(self.root, self.graph, type(self.root).__name__)
        self.graph.eliminate_dead_code()
        self._write_checks(placeholders)
        self.graph.lint()
        graph_module.recompile()
        return graph_module

    # Inputs and outputs

    def _read_signature(self) -> None:
        nodes = {n.name: n for n in self.program.graph.nodes if n.op == "placeholder"}
        for spec in self.program.graph_signature.input_specs:
            node = nodes[spec.arg.name]
            if spec.kind is InputKind.USER_INPUT:
                self.given.append(node)
            elif spec.kind in (InputKind.PARAMETER, InputKind.BUFFER):
                self.parameters[node] = str(spec.target)
            elif spec.kind is InputKind.CONSTANT_TENSOR:
                self.parameters[node] = self._keep(str(spec.target))
            else:
                raise TraceError(f"The model takes an input of kind {spec.kind.name.lower()}")

    def _keep(self, target: str) -> str:
        """The name of a buffer for a tensor that the forward makes anew in every call."""
        name = target.replace(".", "_")
        while hasattr(self.root, name):
            name += "_"
        constant = self.program.constants[target]
        assert isinstance(constant, Tensor)
        self.root.register_buffer(name, constant.detach().clone())
        return name

    def _returned(self) -> list[Any]:
        """What the user's forward returns, flat."""
        output = next(n for n in self.program.graph.nodes if n.op == "output")
        specs = self.program.graph_signature.output_specs
        returned: list[Any] = []
        for spec, value in zip(specs, output.args[0], strict=True):
            if spec.kind is OutputKind.USER_OUTPUT:
                returned.append(value)
            elif not self._is_a_statistic(str(spec.target)):
                raise state_error(self.root, str(spec.target), self.inputs)
        return returned

    def _is_a_statistic(self, target: str) -> bool:
        """Whether a buffer is what a batch norm in training keeps of the data; quantized networks
        are in evaluation mode, where it stays."""
        owner, _, name = target.rpartition(".")
        return self.root.get_submodule(owner).training and name in _STATISTICS

    def _write_inputs(self, names: Sequence[str]) -> dict[fx.Node, fx.Node]:
        """Writes one placeholder per argument, and what reads the tensors inside it."""
        spec = self.program.call_spec.in_spec
        assert spec is not None
        args, kwargs = pytree.tree_unflatten(self.given, spec)
        signature = inspect.signature(type(self.root).forward)
        parts = dict(parts_of(signature.bind(self.root, *args, **kwargs)))
        found: dict[fx.Node, fx.Node] = {}
        for name, placeholder in [(name, self.graph.placeholder(name)) for name in names]:
            self._write_parts(parts[name], placeholder, found)
        self.values.update(found)
        return found

    def _write_parts(self, part: Any, carrier: fx.Node, found: dict[fx.Node, fx.Node]) -> None:
        if isinstance(part, fx.Node):
            found[part] = carrier
            return
        if not isinstance(part, tuple | list | Mapping):
            raise TraceError(
                "An input holds tensors in a form that a graph cannot take apart",
                expected="tensors in tuples, lists and dicts",
                received=type(part).__name__,
            )
        keys = part.items() if isinstance(part, Mapping) else enumerate(part)
        for key, inner in keys:
            if any(_is_tensor(node) for node in _nodes_in(inner)):
                item = self.graph.call_function(operator.getitem, (carrier, key))
                self._write_parts(inner, item, found)

    def _write_checks(self, placeholders: Mapping[fx.Node, fx.Node]) -> None:
        """Sizes that the program takes for granted are checked in every call."""
        for node, carrier in placeholders.items():
            value = node.meta.get("val")
            if not isinstance(value, Tensor):
                continue
            bounds = tuple(self._bounds(size) for size in value.shape)
            if any(bound != (None, None) for bound in bounds):
                later = next(n for n in self.graph.nodes if n.op != "placeholder")
                where = later if carrier.op == "placeholder" else carrier.next
                with self.graph.inserting_before(where):
                    self.graph.call_function(check_sizes, (carrier, bounds))

    def _bounds(self, size: Any) -> tuple[int | None, int | None]:
        expression = size if isinstance(size, int) else size.node.expr
        if isinstance(expression, int) or expression.is_Integer:
            return int(expression), int(expression)
        limits = self.program.range_constraints.get(expression)
        if limits is None:
            return None, None
        low, high = (int(b) if b.is_Integer else None for b in (limits.lower, limits.upper))
        return (None if low in (0, 1, 2) else low), high

    # Calls

    def _layers(self, is_leaf: IsLeaf) -> Iterator[tuple[fx.Node, list[fx.Node]]]:
        """The node that gives each whole layer's output, with all nodes of that call."""
        calls: dict[str, tuple[nn.Module, list[fx.Node]]] = {}
        for node in self.program.graph.nodes:
            for key, (path, _) in node.meta.get("nn_module_stack", {}).items():
                module = self.modules.get(path)
                if node.op == "call_function" and module is not None and is_leaf(path, module):
                    calls.setdefault(key, (module, []))[1].append(node)
                    break
        leaving = {value for value in self.returned if isinstance(value, fx.Node)}
        for module, parts in calls.values():
            inside = set(parts)
            read = {n for p in parts for n in p.all_input_nodes if n not in inside}
            read = {n for n in read if n not in self.parameters and _is_tensor(n)}
            given = [
                p
                for p in parts
                if p in leaving or any(u not in inside and u.op != "output" for u in p.users)
            ]
            takes_one = _takes_one(module)
            if takes_one and len(read) == len(given) == 1 and _is_tensor(given[0]):
                yield given[0], parts

    def _write_layer(self, node: fx.Node) -> None:
        parts = self.layers[node]
        inside = {*parts, *self.parameters}
        read = next(
            n for p in parts for n in p.all_input_nodes if n not in inside and _is_tensor(n)
        )
        stack = self._stack(node, parts)
        path = list(stack.values())[-1][0]
        written = self.graph.call_module(str(path), (self.values[read],))
        written.meta["nn_module_stack"] = stack
        self.values[node] = written

    def _stack(self, node: fx.Node, parts: Sequence[fx.Node] = ()) -> dict[str, Any]:
        """The modules around a node with their classes; for a layer, down to what all share."""
        stack = node.meta.get("nn_module_stack", {})
        shared = {k for k in stack if all(k in p.meta["nn_module_stack"] for p in parts)}
        known = {k: path for k, (path, _) in stack.items() if path in self.modules and k in shared}
        return {key: (path, type(self.modules[path])) for key, path in known.items()}

    def _write_call(self, node: fx.Node) -> None:
        if is_check(node.target):
            return
        if passes_on(node):
            self.values[node] = self.values[node.all_input_nodes[0]]
            return
        source = node.args[0] if node.target is operator.getitem else None
        if isinstance(source, fx.Node) and first_alone(source):
            if node.args[1] == 0:
                self.values[node] = self.values[source]
            return
        if any(n.op == "get_attr" for n in node.all_input_nodes):
            raise TraceError(
                "The model's forward calls parts that cannot stand in one graph",
                received=operator_name(node.target),
            )
        args, kwargs = fx.map_arg((node.args, dict(node.kwargs)), self.values.__getitem__)
        stack, owner = self._stack(node), self._owner(node)
        target, args, kwargs = as_users_call_it(node, args, kwargs) or (node.target, args, kwargs)
        if owner is not None:
            written = self.graph.call_module(owner, (args[0],))
            stack[owner] = (owner, type(self.modules[owner]))
        elif isinstance(target, str):
            written = self.graph.call_method(target, args, kwargs)
        else:
            written = self.graph.call_function(target, args, kwargs)
            self._name_after_weight(written)
        written.meta["nn_module_stack"] = stack
        self.values[node] = written

    def _owner(self, node: fx.Node) -> str | None:
        """The linear layer whose weight and bias a call of the function was given, if one's."""
        if operator_name(node.target) != "linear":
            return None
        given = [self.parameters.get(value) for value in node.all_input_nodes[1:]]
        path = str(given[0]).rpartition(".")[0]
        module = self.modules.get(path)
        if not isinstance(module, nn.Linear) or registry.row_for_module(type(module)) is None:
            return None
        names = ["weight"] if module.bias is None else ["weight", "bias"]
        return path if given == [f"{path}.{name}" for name in names] else None

    def _name_after_weight(self, written: fx.Node) -> None:
        """A layer by function is called what its weight is: ``in_proj`` of ``in_proj_weight``."""
        weight = written.args[1] if len(written.args) > 1 else None
        if operator_name(written.target) in _WEIGHTED and isinstance(weight, fx.Node):
            label = str(weight.target).rpartition(".")[2].removesuffix("weight").strip("_")
            if weight.op == "get_attr" and label:
                written.meta["label"] = label


def _plain(value: Any) -> Any:
    """A returned value in dicts, tuples and lists, which are all that a graph may give."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, tuple):
        return tuple(_plain(item) for item in value)
    if isinstance(value, fx.Node) or not _nodes_in(value):
        return value
    raise TraceError(
        "The model returns tensors in a form that a graph cannot give",
        expected="tensors in tuples, lists and dicts",
        received=type(value).__name__,
    )


def _nodes_in(value: Any) -> list[fx.Node]:
    return [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, fx.Node)]


def _takes_one(module: nn.Module) -> bool:
    """Whether a module can be called with one argument."""
    try:
        inspect.signature(type(module).forward).bind(module, None)
    except TypeError:
        return False
    return True


def _is_tensor(node: fx.Node) -> bool:
    return isinstance(node.meta.get("val"), Tensor)
