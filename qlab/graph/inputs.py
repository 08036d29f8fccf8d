"""The arguments of a model's forward, by the names that a graph gives them."""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from qlab.errors import ArgumentError
from qlab.graph.shapes import tensors_in

Inputs = Tensor | tuple[Any, ...] | list[Any] | Mapping[str, Any]


def bind(root: nn.Module, example_inputs: Inputs | None) -> inspect.BoundArguments:
    """Example inputs by the names of the forward's parameters; without any, the required ones."""
    signature = inspect.signature(type(root).forward)
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}
    match example_inputs:
        case None:
            kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
            needed = [p for p in signature.parameters.values() if p.kind not in kinds]
            kwargs = {p.name: ANY for p in needed[1:] if p.default is inspect.Parameter.empty}
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


ANY = torch.empty(0)  # stands for an input of which nothing is known


def parts_of(inputs: inspect.BoundArguments) -> Iterator[tuple[str, Any]]:
    """Name and value of each argument but the model; those of ``*args`` and ``**kwargs`` apart."""
    kinds = inputs.signature.parameters
    for name, value in list(inputs.arguments.items())[1:]:
        if kinds[name].kind is inspect.Parameter.VAR_POSITIONAL:
            yield from ((f"{name}_{index}", item) for index, item in enumerate(value))
        elif kinds[name].kind is inspect.Parameter.VAR_KEYWORD:
            yield from value.items()
        else:
            yield name, value


def tensors_of(inputs: inspect.BoundArguments) -> Iterator[tuple[str, Any]]:
    """Name and value of each argument that is or holds a tensor: the graph's placeholders."""
    return ((name, value) for name, value in parts_of(inputs) if tensors_in(value))


def replace(inputs: inspect.BoundArguments, stand_ins: Mapping[str, Any]) -> inspect.BoundArguments:
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


@dataclass(frozen=True)
class Call:
    """How a model is called: which of its arguments change, and what the others are fixed at.

    Attributes:
        names: The arguments that are or hold tensors, in the order of the graph's placeholders.
        values: Those of the example.
        example_inputs: The example as it was given.
    """

    names: tuple[str, ...]
    values: tuple[Any, ...]
    example_inputs: Inputs
    _bound: inspect.BoundArguments

    @classmethod
    def of(cls, model: nn.Module, example_inputs: Inputs) -> Call:
        """The call of a model with example inputs.

        Raises:
            ArgumentError: They do not fit its forward, or hold no tensor.
        """
        bound = bind(model, example_inputs)
        parts = dict(tensors_of(bound))
        if not parts:
            raise ArgumentError(
                "The example inputs hold no tensor",
                expected="a tensor, a tuple or list of arguments, or a mapping of keywords",
                received=repr(example_inputs)[:100],
            )
        return cls(tuple(parts), tuple(parts.values()), example_inputs, bound)

    @property
    def example(self) -> tuple[Any, ...] | dict[str, Any]:
        """The example's `values`, by name where it was a mapping."""
        if isinstance(self.example_inputs, Mapping):
            return dict(zip(self.names, self.values, strict=True))
        return self.values

    def run(self, model: nn.Module, inputs: Sequence[Any]) -> Any:
        """What a model of this signature gives for other values of `names`."""
        bound = replace(self._bound, dict(zip(self.names, inputs, strict=True)))
        return model(*bound.args[1:], **bound.kwargs)

    def run_quantized(self, model: nn.Module, inputs: Sequence[Any]) -> Any:
        """As `run`, of a graph too, whose inputs are `names` alone; without gradients."""
        with torch.no_grad():
            if isinstance(model, fx.GraphModule):
                return model(*inputs)
            return self.run(model, inputs)


def each_tensor(
    inputs: inspect.BoundArguments, change: Callable[[Tensor], Tensor]
) -> inspect.BoundArguments:
    """The same arguments with every tensor in them changed."""
    arguments = {
        name: value if index == 0 else pytree.tree_map_only(Tensor, change, value)
        for index, (name, value) in enumerate(inputs.arguments.items())
    }
    return inspect.BoundArguments(inputs.signature, OrderedDict(arguments))
