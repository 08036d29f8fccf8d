"""What an exported graph takes for granted of its inputs, checked when it is made and called."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from qlab.errors import ShapeError, TraceError
from qlab.graph.inputs import each_tensor, tensors_of


def check_sizes(x: Tensor, bounds: Sequence[tuple[int | None, int | None]]) -> None:
    """Refuses an input whose sizes are not among those that an exported graph was made for.

    Args:
        x: An input of the graph.
        bounds: Smallest and largest size along each axis; None where there is no limit.

    Raises:
        ShapeError: Another rank, or a size out of bounds: the model would have gone another way.
    """
    fits = x.ndim == len(bounds) and all(
        (low is None or size >= low) and (high is None or size <= high)
        for size, (low, high) in zip(x.shape, bounds, strict=True)
    )
    if not fits:
        words = ", ".join(_bound_words(low, high) for low, high in bounds)
        raise ShapeError(
            "The model's forward takes another path for an input of this shape than for the "
            "example inputs that its graph was made from",
            expected=f"shape ({words})",
            received=f"shape {tuple(x.shape)}",
            fix="Make the graph from example inputs of this shape, or pass inputs that fit.",
        )


def _bound_words(low: int | None, high: int | None) -> str:
    if low is not None and low == high:
        return str(low)
    if high is None:
        return "any" if low is None else f"{low} or more"
    return f"{low or 0} to {high}"


def agree(
    root: nn.Module, graph_module: fx.GraphModule, inputs: inspect.BoundArguments
) -> bool | None:
    """Whether a graph gives what its model gives; None where the model does not take the inputs."""
    parts = [value for _, value in tensors_of(inputs)]
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            expected = root(*inputs.args[1:], **inputs.kwargs)
        except Exception:
            return None
        torch.manual_seed(0)
        try:
            run = fx.Interpreter(graph_module)  # the module itself would print where it fails
            run.extra_traceback = False
            given = run.run(*parts)
        except Exception:
            return False
    pairs = list(zip(pytree.tree_leaves(expected), pytree.tree_leaves(given), strict=True))
    return all(_equal(a, b) for a, b in pairs)


def _equal(a: Any, b: Any) -> bool:
    if not isinstance(a, Tensor):
        return isinstance(a, float) or a == b
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if not a.is_floating_point():
        return torch.equal(a, b)
    finite = a[a.isfinite()]
    scale = float(finite.abs().max()) if finite.numel() else 0.0
    return torch.allclose(a, b, rtol=1e-4, atol=1e-4 * scale, equal_nan=True)


def check_agreement(
    root: nn.Module, graph_module: fx.GraphModule, inputs: inspect.BoundArguments
) -> None:
    """Refuses a graph that does not give what the model gives for the example inputs.

    `torch.export` takes a batch for more than one sample. Where the model does something else with
    the first sample alone, the graph gets a check that refuses batches of one.

    Raises:
        TraceError: Graph and model differ.
    """
    if any(module.training for module in root.modules()):
        return  # it may draw random numbers, and batch norms move
    if not agree(root, graph_module, inputs):
        raise TraceError(
            "torch.export gave a program that does not do what the model does",
            fix="Look for state that the forward changes, or random numbers.",
        )
    if agree(root, graph_module, each_tensor(inputs, lambda t: t[:1])) is False:
        placeholders = [n for n in graph_module.graph.nodes if n.op == "placeholder"]
        for node, (_, value) in zip(placeholders, tensors_of(inputs), strict=True):
            if isinstance(value, Tensor) and value.ndim:
                with graph_module.graph.inserting_before(placeholders[-1].next):
                    bounds = ((2, None), *[(None, None)] * (value.ndim - 1))
                    graph_module.graph.call_function(check_sizes, (node, bounds))
        graph_module.recompile()
