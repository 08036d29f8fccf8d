"""An uploaded program as a graph of the very operators it names, and one run of it to check it."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from qlab.errors import FormatError
from qlab.io.uploads.limits import Limits
from qlab.io.uploads.operators import is_in_place
from qlab.io.uploads.payload import TensorInfo
from qlab.io.uploads.program import Program, Ref
from qlab.io.uploads.strict_json import shown

_SEED = 0


def raw_graph(program: Program, tensors: Mapping[str, Tensor]) -> fx.GraphModule:
    """The program as it is written: one node per operator, in place where that writes in place.

    Every node's ``meta`` has ``value``, its name in the file, and where it is a tensor ``val``, a
    tensor without memory of its rank and dtype.

    Raises:
        FormatError: A tensor is missing, or has another shape than the program says.
    """
    root, graph = nn.Module(), fx.Graph()
    nodes: dict[str, fx.Node] = {}

    def add(node: fx.Node, name: str) -> None:
        nodes[name] = node
        node.meta["value"] = name
        if name in program.infos:
            node.meta["val"] = _stand_in(program.infos[name])

    for name in filter(None, program.given):
        add(graph.placeholder(f"input_{len(nodes)}"), name)
    for index, (name, target) in enumerate(program.tensors.items()):
        _check_tensor(target, tensors.get(target), program.infos[name])
        root.register_buffer(f"tensor_{index}", tensors[target])
        add(graph.get_attr(f"tensor_{index}"), name)
    for call in program.calls:
        args, kwargs = resolve((call.args, call.kwargs), nodes)
        node = graph.call_function(call.function, args, kwargs)
        node.meta["call"] = call
        if call.several:
            for index, name in enumerate(call.results):
                add(graph.call_function(operator.getitem, (node, index)), name)
        elif call.results:
            add(node, call.results[0])
    graph.output(resolve(list(program.returned), nodes))
    return fx.GraphModule(root, graph)


def resolve(value: Any, nodes: Mapping[str, Any]) -> Any:
    """A structure of arguments with every `Ref` replaced."""
    if isinstance(value, Ref):
        return nodes[value.name]
    if isinstance(value, dict):
        return {key: resolve(item, nodes) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(resolve(item, nodes) for item in value)
    return value


def _stand_in(info: TensorInfo) -> Tensor:
    return torch.empty((0,) * len(info.sizes), dtype=info.dtype, device="meta")


def _check_tensor(name: str, tensor: Tensor | None, info: TensorInfo) -> None:
    if tensor is None:
        raise FormatError("The archive lacks a tensor", expected=shown(name))
    if tuple(tensor.shape) != info.shape or tensor.dtype != info.dtype:
        raise FormatError(
            f"The tensor {shown(name)} has another shape or dtype than the program says",
            expected=f"{info.shape} of {info.dtype}",
            received=f"{tuple(tensor.shape)} of {tensor.dtype}",
        )


def example_inputs(program: Program, limits: Limits) -> list[Tensor]:
    """Seeded inputs of the shapes that the program was made from: normal numbers, zeros, True.

    Raises:
        FormatError: A shape is not known, or too large.
    """
    generator = torch.Generator().manual_seed(_SEED)
    inputs = []
    for name in filter(None, program.given):
        info, elements = program.infos[name], 1
        for size in info.shape:
            if size is None:
                raise FormatError("The shape of an input is not known", received=shown(name))
            elements *= size
        limits.check("unpacked_bytes", elements * info.dtype.itemsize, "An input is too large")
        shape = [int(size or 0) for size in info.shape]
        if info.dtype.is_floating_point:
            inputs.append(torch.randn(shape, generator=generator).to(info.dtype))
        else:
            inputs.append(torch.full(shape, info.dtype == torch.bool, dtype=info.dtype))
    return inputs


class _Checked(fx.Interpreter):
    """Runs a raw graph and compares each value with what the program says of it."""

    def __init__(self, graph_module: fx.GraphModule, program: Program) -> None:
        super().__init__(graph_module)
        self.extra_traceback = False
        self.infos = program.infos
        self.overwritten: set[fx.Node] = set()

    def run_node(self, n: fx.Node) -> Any:
        if not self.overwritten.isdisjoint(n.all_input_nodes):
            raise FormatError(
                "The program overwrites a tensor that it reads again by another name",
                fix="Save program.run_decompositions({}) instead, which writes nothing in place.",
            )
        if n.op == "call_function" and is_in_place(n.target) and isinstance(n.args[0], fx.Node):
            self._overwrite(n.args[0])
        value = super().run_node(n)
        info = self.infos.get(n.meta.get("value", ""))
        if info is not None:
            fits = isinstance(value, Tensor) and value.dtype == info.dtype
            if not fits or not _matches(value.shape, info.shape):
                raise FormatError(
                    f"The value {shown(n.meta['value'])} has another shape or dtype than the "
                    "program says",
                    expected=f"{info.shape} of {info.dtype}",
                    received=f"{tuple(value.shape)} of {value.dtype}"
                    if isinstance(value, Tensor)
                    else type(value).__name__,
                )
        return value

    def _overwrite(self, written: fx.Node) -> None:
        """Notes the values that share memory with one that is about to be overwritten."""
        memory, first = _memory(self.env[written]), first_name(written)
        for node, value in self.env.items():
            if first_name(node) is not first and not memory.isdisjoint(_memory(value)):
                self.overwritten.add(node)


def first_name(node: fx.Node) -> fx.Node:
    """The node that made the tensor which a chain of operators in place gives back."""
    while node.op == "call_function" and is_in_place(node.target):
        source = node.args[0]
        if not isinstance(source, fx.Node):
            break
        node = source
    return node


def _memory(value: Any) -> set[int]:
    tensors = [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor)]
    return {t.untyped_storage().data_ptr() for t in tensors if t.numel()}


def _matches(shape: torch.Size, expected: tuple[int | None, ...]) -> bool:
    return len(shape) == len(expected) and all(
        size in (None, found) for found, size in zip(shape, expected, strict=True)
    )


def check(raw: fx.GraphModule, written: fx.GraphModule, program: Program, limits: Limits) -> None:
    """Runs both graphs once and refuses a program that does not do what its file says.

    Raises:
        FormatError: An operator refuses its arguments, a value has another shape than declared, the
            program writes to its parameters, or both graphs do not give the same.
    """
    inputs = example_inputs(program, limits)
    versions = [tensor._version for tensor in raw.buffers()]
    with torch.no_grad():
        try:
            expected = _Checked(raw, program).run(*[x.clone() for x in inputs])
            run = fx.Interpreter(written)
            run.extra_traceback = False
            nested = iter(x.clone() for x in inputs)
            received = run.run(*arguments(program, nested))
        except FormatError:
            raise
        except MemoryError:
            raise
        except Exception as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise FormatError(f"The program does not run: {lines[0][:300]}") from error
    if [tensor._version for tensor in raw.buffers()] != versions:
        raise writes_to_itself()
    pairs = zip(pytree.tree_leaves(expected), pytree.tree_leaves(received), strict=True)
    if not all(_equal(a, b) for a, b in pairs):
        raise FormatError("The graph that was built does not give what the program gives")


def writes_to_itself() -> FormatError:
    """The error for a program whose call changes its own parameters or buffers."""
    return FormatError(
        "The program writes to its own parameters or buffers",
        fix="Call model.eval() before torch.export.export.",
    )


def arguments(program: Program, values: Any) -> list[Any]:
    """The flat input tensors, nested as the arguments are; those without a tensor left out."""
    flat = [None if name is None else next(values) for name in program.given]
    args, kwargs = program.in_tree.build(iter(flat))
    return [a for a in (*args, *kwargs.values()) if _holds_tensor(a)]


def _holds_tensor(value: Any) -> bool:
    return any(leaf is not None for leaf in pytree.tree_leaves(value))


def _equal(a: Any, b: Any) -> bool:
    if not isinstance(a, Tensor) or not isinstance(b, Tensor):
        return a == b
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return torch.allclose(a, b, rtol=1e-4, atol=1e-5, equal_nan=True)
