"""Tensors that are joined share one range in graph workflows, as in the reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import fx

from qlab.graph.plan import Value

Values = dict[fx.Node, Value]


def join(
    values: Values, node: fx.Node, operands: Sequence[fx.Node], keeps: Callable[[fx.Node], bool]
) -> None:
    """Lets a concatenation and its operands share the first operand's range, in place.

    Its observer then sees them all. An operand that itself keeps the range of a tensor before it
    goes on doing so: the first operand's observer sees it, and the concatenation requantizes it.
    What has a range fixed by mathematics, or another data type, stays apart. The first operand is
    the first that is no parameter.

    Args:
        values: The quantized tensors so far, the concatenation's own among them.
        node: The concatenation.
        operands: What it joins.
        keeps: Whether an operator gives its output the range of its input.
    """
    own = values[node]
    named = {value.node: value for value in values.values()}
    alike = [o for o in dict.fromkeys(operands) if _joins(values[o], own)]
    sources = (named[values[o].source] for o in alike)
    first = next((source for source in sources if not source.constant), None)
    if first is None:
        return
    for operand in alike:
        if not keeps(operand) and values[operand].source != first.source:
            _move(values, operand, first, keeps)
        values[operand] = replace(values[operand], seen_by=first.seen_by)
    _give(values, node, first)
    values[node] = replace(values[node], seen_by=first.seen_by)


def _joins(value: Value, output: Value) -> bool:
    return not value.fixed and value.spec.dtype == output.spec.dtype


def _move(values: Values, node: fx.Node, first: Value, keeps: Callable[[fx.Node], bool]) -> None:
    """Gives a tensor another range, and with it all that keep its range."""
    for moved in (node, *_followers(values, node, keeps)):
        _give(values, moved, first)
    left = [other for other in values if values[other].source == node.name]
    anchor = next((o for o in left if values[o].seen_by and not values[o].constant), None)
    if anchor is not None:
        for other in left:
            values[other] = replace(values[other], source=anchor.name)


def _give(values: Values, node: fx.Node, first: Value) -> None:
    values[node] = replace(
        values[node],
        source=first.source,
        spec=first.spec,
        address=first.address,
        requested=first.requested,
    )


def _followers(
    values: Values, node: fx.Node, keeps: Callable[[fx.Node], bool]
) -> tuple[fx.Node, ...]:
    """What keeps a tensor's range, one operator after the other."""
    found = [user for user in node.users if user in values and keeps(user)]
    return tuple(f for user in found for f in (user, *_followers(values, user, keeps)))
