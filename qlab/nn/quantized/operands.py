"""Operands of integer modules that are given by name, as a float model may give them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypedDict

from torch import Tensor

from qlab.errors import ArgumentError

_PLACES = {"input": 0, "x": 0, "extra_input": 1}


class Operands(TypedDict, total=False):
    """What the float modules and the reference call the operands.

    Attributes:
        input: The first one.
        x: The first one too, where linear layers of the reference are called.
        extra_input: The second one of a convolution with a sum.
    """

    input: Tensor
    x: Tensor
    extra_input: Tensor


def in_order(
    owner: str, inputs: tuple[Tensor, ...], named: Mapping[str, object]
) -> tuple[Tensor, ...]:
    """Operands by place and by name as one tuple.

    Args:
        owner: The module, for errors.
        inputs: Those given by place.
        named: The others.

    Raises:
        ArgumentError: A name that is not known, or that of an operand given by its place.
    """
    placed = sorted(named, key=lambda name: _PLACES.get(name, -1))
    if [_PLACES.get(name) for name in placed] != list(range(len(inputs), len(inputs) + len(named))):
        raise ArgumentError(
            f"{owner}: operands by other names",
            expected="input, then extra_input, each once",
            received=", ".join([*["one by its place"] * len(inputs), *map(str, named)]),
        )
    return (*inputs, *(named[name] for name in placed))  # pyright: ignore[reportReturnType]
