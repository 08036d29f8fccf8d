"""One pass of the example inputs that writes down the shape of every value of a graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, fx, nn

from qlab.errors import ArgumentError


def record_shapes(graph_module: fx.GraphModule, inputs: Sequence[Any]) -> None:
    """Runs a graph and records ``shape``, ``dtype`` and ``numel`` in every node's ``meta``.

    Args:
        graph_module: The graph; only its nodes' ``meta`` changes.
        inputs: One value per placeholder, in order.

    Raises:
        ArgumentError: A node refused its inputs; names it, what it takes and what came.
    """
    run = _ShapeRun(graph_module)
    try:
        with torch.no_grad():
            run.run(*inputs)
    except Exception as error:
        raise run.refusal or error from error


def tensors_in(value: Any) -> list[Tensor]:
    """All tensors inside nested tuples, lists, mappings and dataclasses, in order."""
    if isinstance(value, Tensor):
        return [value]
    if is_dataclass(value) and not isinstance(value, Mapping | type):
        value = tuple(getattr(value, field.name) for field in fields(value))
    if isinstance(value, Mapping):
        value = tuple(value.values())
    if isinstance(value, tuple | list):
        return [tensor for item in value for tensor in tensors_in(item)]
    return []


class _ShapeRun(fx.Interpreter):
    """Interpreter that keeps what is known of the first failure; fx rewrites the exception."""

    refusal: ArgumentError | None = None

    def run_node(self, n: fx.Node) -> Any:
        try:
            value = super().run_node(n)
        except Exception as error:
            args, kwargs = self.fetch_args_kwargs_from_env(n)
            received = tensors_in((args, kwargs))
            self.refusal = refusal(n, self._module_of(n), received, error, "example inputs")
            raise
        describe_value(n, value)
        return value

    def _module_of(self, n: fx.Node) -> nn.Module | None:
        return self.module.get_submodule(str(n.target)) if n.op == "call_module" else None


def describe_value(node: fx.Node, value: Any) -> None:
    """Writes ``shape``, ``dtype`` and ``numel`` of a node's value into its ``meta``."""
    node.meta["shape"] = _nested(value, lambda tensor: tuple(tensor.shape))
    node.meta["dtype"] = _nested(value, lambda tensor: tensor.dtype)
    node.meta["numel"] = sum(tensor.numel() for tensor in tensors_in(value))


def _nested(value: Any, of: Any) -> Any:
    if isinstance(value, Tensor):
        return of(value)
    if isinstance(value, Mapping):
        return {key: _nested(item, of) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return tuple(_nested(item, of) for item in value)
    return None


class Named(Protocol):
    """What a message must know of a node."""

    @property
    def name(self) -> str: ...
    @property
    def op(self) -> str: ...
    @property
    def meta(self) -> dict[str, Any]: ...


def refusal(
    node: Named,
    module: nn.Module | None,
    received: list[Tensor],
    error: Exception,
    what: str,
) -> ArgumentError:
    """The error for inputs that a layer did not take.

    Args:
        node: The layer's node.
        module: The layer, where it is a module.
        received: The tensors that it was given.
        error: What PyTorch said.
        what: What the model was run on, such as ``"example inputs"``.
    """
    kind = type(module).__name__ if module is not None else node.op.replace("_", " ")
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return ArgumentError(
        f"The {what} do not fit the model: layer {node.meta.get('name', node.name)!r} ({kind}) "
        f"refused its input: {reason}",
        expected=_expectation(module),
        received=", ".join(f"shape {tuple(t.shape)} of {t.dtype}" for t in received) or None,
        fix=f"Pass {what} of the shape and dtype that the model is used with.",
    )


def _expectation(module: nn.Module | None) -> str | None:
    """The input shape a layer takes, in the notation of its documentation."""
    space = {1: "L", 2: "H, W", 3: "D, H, W"}
    match module:
        case nn.Conv1d() | nn.Conv2d() | nn.Conv3d():
            rank = len(module.kernel_size)
            return f"shape (N, {module.in_channels}, {space[rank]})"
        case nn.Linear():
            return f"shape (…, {module.in_features})"
        case nn.BatchNorm1d() | nn.BatchNorm2d() | nn.BatchNorm3d():
            return f"shape (N, {module.num_features}, …)"
        case nn.LayerNorm():
            return f"shape (…, {', '.join(map(str, module.normalized_shape))})"
    return None
