"""What is read off single nodes of a graph."""

from __future__ import annotations

import math

from torch import fx, nn


def bounds_of(clamp: nn.Module) -> tuple[float, float]:
    """Between what a module of a row that `clamps` leaves its input."""
    match clamp:
        case nn.Hardtanh():  # and ReLU6, which is one
            return clamp.min_val, clamp.max_val
    return 0.0, math.inf


def operands(node: fx.Node) -> list[fx.Node]:
    """The tensors that an operator reads, one entry per argument."""
    if node.op == "call_module":
        return [argument for argument in node.args if isinstance(argument, fx.Node)]
    return node.all_input_nodes


def calls(node: fx.Node) -> str:
    """What people call the class, function or method that a node calls."""
    kind = node.meta["kind"]
    return kind if isinstance(kind, str) else kind.__name__


def no_form(node: fx.Node) -> str:
    return f"no integer form of {calls(node)}"
