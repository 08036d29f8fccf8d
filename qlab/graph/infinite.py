"""Which tensors of a graph hold infinity on purpose, as a mask before softmax does."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from qlab.graph.lift import attribute
from qlab.graph.nodes import calls

# What gives infinity where it is given infinity; softmax, max and kin do not.
_PASS_ON = frozenset(
    [
        "add",
        "iadd",
        "sub",
        "mul",
        "div",
        "neg",
        "masked_fill",
        "masked_fill_",
        "where",
        "full",
        "full_like",
        "new_full",
        "fill_",
        "pad",
        "constant_pad_nd",
        "triu",
        "tril",
        "view",
        "reshape",
        "flatten",
        "unflatten",
        "permute",
        "transpose",
        "t",
        "expand",
        "expand_as",
        "repeat",
        "unsqueeze",
        "squeeze",
        "contiguous",
        "clone",
        "detach",
        "to",
        "float",
        "type",
        "type_as",
        "getitem",
        "cat",
        "stack",
        "chunk",
        "split",
        "narrow",
        "select",
        "index_select",
        "gather",
        "roll",
        "flip",
    ]
)


def infinite_nodes(graph_module: fx.GraphModule, inputs: Collection[str] = ()) -> set[fx.Node]:
    """The nodes that hold infinity because a constant or an argument of a call does.

    Args:
        graph_module: A graph made by `trace`.
        inputs: Names of the placeholders that are known to hold it.
    """
    found: set[fx.Node] = set()
    for node in graph_module.graph.nodes:
        if node.op == "placeholder":
            holds = node.name in inputs
        elif node.op == "get_attr":
            holds = _is_mask(attribute(graph_module, node))
        else:
            holds = node.op != "output" and calls(node).lower() in _PASS_ON and _given(node, found)
        if holds:
            found.add(node)
    return found


def without_infinity(value: Any) -> Any:
    """Arguments of a call with 0 in the place of each infinity, tensors of any depth copied."""
    return pytree.tree_map(_finite, value)


def _given(node: fx.Node, found: set[fx.Node]) -> bool:
    leaves = pytree.tree_leaves((node.args, node.kwargs))
    return any(isinstance(leaf, float) and math.isinf(leaf) for leaf in leaves) or any(
        source in found for source in node.all_input_nodes
    )


def _is_mask(value: Any) -> bool:
    """Whether a constant holds infinity; a weight that does is broken instead."""
    plain = isinstance(value, Tensor) and not isinstance(value, nn.Parameter)
    return plain and value.is_floating_point() and bool(value.isinf().any())


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return 0.0 if math.isinf(value) else value
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.masked_fill(value.isinf(), 0.0)
    return value
