"""A graph as a list of instructions, which can be run in part and sent to another process."""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from qlab.errors import ArgumentError, QlabError
from qlab.execution.precision import full_precision
from qlab.graph.shapes import refusal, tensors_in

_REFUSALS = (RuntimeError, TypeError, ValueError, IndexError, AttributeError)
Observe = Callable[[str, Any], None]


@dataclass(frozen=True, slots=True)
class Read:
    """Stands for the value of an earlier instruction among the arguments of a later one."""

    name: str


@dataclass(frozen=True, eq=False, slots=True)
class Instruction:
    """One node of a graph.

    Attributes:
        name: The node's name.
        op: The node's kind, as in `torch.fx`.
        target: The module, function, method's name or constant; for a placeholder a tuple that
            holds its default value, if it has one.
        args: Positional arguments; `Read` where a value goes, at any depth.
        kwargs: Named arguments, likewise.
        reads: The values that go in.
        meta: What messages call it, as ``{"name": …}``.
    """

    name: str
    op: str
    target: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    reads: tuple[str, ...]
    meta: dict[str, Any]

    def run(self, values: Mapping[str, Any]) -> Any:
        """The instruction's value, given those that it reads.

        Raises:
            ArgumentError: The layer does not take what it is given; names it.
        """
        if self.op == "get_attr":
            return self.target
        args, kwargs = _filled(self.args, values), _filled(self.kwargs, values)
        try:
            if self.op == "call_method":
                return getattr(args[0], self.target)(*args[1:], **kwargs)
            return args[0] if self.op == "output" else self.target(*args, **kwargs)
        except (QlabError, torch.OutOfMemoryError):
            raise
        except _REFUSALS as error:
            module = self.target if isinstance(self.target, nn.Module) else None
            received: list[Tensor] = tensors_in((args, kwargs))
            raise refusal(self, module, received, error, "inputs") from error

    def same_as(self, other: Instruction) -> bool:
        """Whether both compute the same from the same values; modules must be one object."""
        return (
            self.op == other.op
            and (self.target is other.target or _equal(self.target, other.target))
            and _equal(self.args, other.args)
            and _equal(self.kwargs, other.kwargs)
        )


class Program:
    """A graph's nodes in order, with what each reads.

    It holds the graph's modules, not copies. It can be pickled where they can, and running it
    changes nothing, so that several threads may.

    Attributes:
        instructions: In an order in which they can run.
        by_name: The same by name.
        output: Name of the last one, which gives the result.
    """

    def __init__(self, instructions: tuple[Instruction, ...]) -> None:
        self.instructions = instructions
        self.by_name = {instruction.name: instruction for instruction in instructions}
        self.output = instructions[-1].name
        self._order = {instruction.name: i for i, instruction in enumerate(instructions)}

    @classmethod
    def of(cls, graph_module: fx.GraphModule) -> Program:
        """The program of a graph."""
        return cls(tuple(_instruction(graph_module, node) for node in graph_module.graph.nodes))

    def run(
        self,
        inputs: tuple[Any, ...],
        observe: Observe | None = None,
        live: dict[str, Any] | None = None,
    ) -> Any:
        """Runs all of it in full float32; a value is dropped after its last use.

        Args:
            inputs: Positional inputs of the graph.
            observe: Called as ``(name, value)`` for each input and after each instruction; may
                raise to stop.
            live: An empty dict, which holds the values by name while something still reads them.

        Returns:
            The graph's output.

        Raises:
            ArgumentError: A layer does not take what it is given, or inputs are missing.
        """
        known = self.bind(inputs)
        if observe is not None:
            for name, value in known.items():
                observe(name, value)
        todo = [i for i in self.instructions if i.op != "placeholder"]
        with full_precision():
            return _execute(todo, known, (self.output,), observe, live)[self.output]

    def bind(self, inputs: tuple[Any, ...]) -> dict[str, Any]:
        """The values of the graph's placeholders.

        Raises:
            ArgumentError: Inputs are missing, or there are too many.
        """
        placeholders = [i for i in self.instructions if i.op == "placeholder"]
        given = list(inputs) + [d for p in placeholders[len(inputs) :] for d in p.target]
        if len(given) != len(placeholders):
            raise ArgumentError(
                "The inputs do not fit the model",
                expected=f"{len(placeholders)} inputs",
                received=f"{len(inputs)}",
            )
        return {p.name: value for p, value in zip(placeholders, given, strict=True)}

    def resume(
        self, known: Mapping[str, Any], wanted: Collection[str], observe: Observe | None = None
    ) -> dict[str, Any]:
        """Computes values from others in full float32, running only what is needed for them.

        Args:
            known: Values by name: enough for the wanted ones to be computed from.
            wanted: Names of the values to return.
            observe: Called as ``(name, value)`` after each instruction that runs.

        Returns:
            The wanted values by name.
        """
        with full_precision():
            return _execute(self._needed(known, wanted), known, wanted, observe)

    def _needed(self, known: Mapping[str, Any], wanted: Collection[str]) -> list[Instruction]:
        needed, pending = set(), [name for name in wanted if name not in known]
        while pending:
            name = pending.pop()
            if name not in needed:
                needed.add(name)
                pending += (r for r in self.by_name[name].reads if r not in known)
        return [self.by_name[name] for name in sorted(needed, key=self._order.__getitem__)]

    def downstream(self, changed: Collection[str]) -> set[str]:
        """The named instructions and all that depend on them."""
        found = set(changed)
        for instruction in self.instructions:
            if not found.isdisjoint(instruction.reads):
                found.add(instruction.name)
        return found

    def changed_from(self, base: Program) -> set[str]:
        """The instructions whose values may differ from those of the same name in ``base``."""
        differing = {
            instruction.name
            for instruction in self.instructions
            if instruction.name not in base.by_name
            or not instruction.same_as(base.by_name[instruction.name])
        }
        return self.downstream(differing)


def _execute(
    todo: list[Instruction],
    known: Mapping[str, Any],
    wanted: Collection[str],
    observe: Observe | None,
    live: dict[str, Any] | None = None,
) -> dict[str, Any]:
    values: dict[str, Any] = {} if live is None else live
    values.update(known)
    uses: dict[str, int] = dict.fromkeys(wanted, 1)
    for instruction in todo:
        for name in instruction.reads:
            uses[name] = uses.get(name, 0) + 1
    for instruction in todo:
        value = values[instruction.name] = instruction.run(values)
        if observe is not None:
            observe(instruction.name, value)
        del value
        for name in instruction.reads:
            uses[name] -= 1
            if not uses[name]:
                del values[name]
        if not uses.get(instruction.name):  # nothing reads it
            del values[instruction.name]
    return {name: values[name] for name in wanted}


def _instruction(graph_module: fx.GraphModule, node: fx.Node) -> Instruction:
    target: Any = node.target
    if node.op == "call_module":
        target = graph_module.get_submodule(str(target))
    elif node.op == "get_attr":
        target = operator.attrgetter(str(target))(graph_module)
    elif node.op == "placeholder":
        target = tuple(node.args)
    placeholder = node.op == "placeholder"
    return Instruction(
        name=node.name,
        op=node.op,
        target=target,
        args=() if placeholder else tuple(_template(argument) for argument in node.args),
        kwargs={key: _template(value) for key, value in node.kwargs.items()},
        reads=tuple(source.name for source in node.all_input_nodes),
        meta={"name": node.meta.get("name", node.name)},
    )


def _mapped(value: Any, leaf: Callable[[Any], Any]) -> Any:
    """Nested arguments with every leaf replaced; the containers become plain ones."""
    if isinstance(value, tuple):
        items = [_mapped(item, leaf) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    if isinstance(value, list):
        return [_mapped(item, leaf) for item in value]
    if isinstance(value, dict):
        return {key: _mapped(item, leaf) for key, item in value.items()}
    if isinstance(value, slice):
        return slice(*(_mapped(part, leaf) for part in (value.start, value.stop, value.step)))
    return leaf(value)


def _template(value: Any) -> Any:
    return _mapped(value, lambda leaf: Read(leaf.name) if isinstance(leaf, fx.Node) else leaf)


def _filled(template: Any, values: Mapping[str, Any]) -> Any:
    return _mapped(template, lambda leaf: values[leaf.name] if isinstance(leaf, Read) else leaf)


def _equal(a: Any, b: Any) -> bool:
    """Equality of nested arguments and constants."""
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        same = isinstance(a, Tensor) and isinstance(b, Tensor) and a.dtype == b.dtype
        return same and torch.equal(a, b)
    if type(a) is not type(b):
        return False
    if isinstance(a, tuple | list):
        return len(a) == len(b) and all(map(_equal, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    return a is b if isinstance(a, nn.Module) else bool(a == b)
