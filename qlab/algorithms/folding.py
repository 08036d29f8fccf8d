"""Scaling the inputs of linear layers where the operator before them can take up the factor.

``W x = (W·diag(s)) (x / s)``: dividing each input channel by s changes nothing if the weight is
multiplied by it, and costs nothing if what makes x (a norm's gain, the rows of a linear layer) can
be divided by s beforehand.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from qlab.algorithms.scale_groups import move_batch_norm
from qlab.nn.intrinsic.fold import core
from qlab.nn.intrinsic.fused import LinearReLU

_NORMS = (nn.LayerNorm, nn.RMSNorm)
_HOMOGENEOUS = (nn.ReLU, nn.Identity, nn.Dropout)  # f(x / s) = f(x) / s for s > 0, in evaluation


@dataclass(frozen=True)
class Fold:
    """A group of linear layers that read one tensor, and the layer that makes it.

    Attributes:
        source: Node of the layer that takes up the factors.
        source_name: Its name.
        kind: ``"norm"`` or ``"linear"``.
        readers: Names of the linear layers, in graph order.
    """

    source: str
    source_name: str
    kind: str
    readers: tuple[str, ...]


def find_folds(
    graph: fx.GraphModule, *, linear_sources: bool = False
) -> tuple[tuple[Fold, ...], dict[str, str]]:
    """Which linear layers' inputs can be scaled, and why those of the others cannot.

    Args:
        graph: A fused float graph.
        linear_sources: Whether a linear layer in front may take up the factors too, not only a
            layer norm or RMS norm.

    Returns:
        The folds in graph order, and of every linear layer in none of them the reason by name.
    """
    finder = _Finder(graph, linear_sources)
    folds, refused = [], {}
    for node in graph.graph.nodes:
        if finder.is_linear(node):
            found = finder.fold_of(node)
            if isinstance(found, str):
                refused[finder.name(node)] = found
            elif found not in folds:
                folds.append(found)
    return tuple(folds), refused


class _Finder:
    def __init__(self, graph: fx.GraphModule, linear_sources: bool) -> None:
        self.graph, self.linear_sources = graph, linear_sources
        calls = [node for node in graph.graph.nodes if node.op == "call_module"]
        self.calls = Counter(str(node.target) for node in calls)
        self.owners = Counter(
            id(parameter)
            for target in self.calls
            for parameter in graph.get_submodule(target).parameters()
        )

    def name(self, node: fx.Node) -> str:
        return str(node.meta.get("name", node.name))

    def module(self, node: fx.Node) -> nn.Module | None:
        return self.graph.get_submodule(str(node.target)) if node.op == "call_module" else None

    def is_linear(self, node: fx.Node) -> bool:
        module = self.module(node)
        return module is not None and isinstance(core(module), nn.Linear)

    def fold_of(self, linear: fx.Node) -> Fold | str:
        """The fold that a linear layer belongs to, or why there is none."""
        before = linear.all_input_nodes[0]
        while self._homogeneous(before):
            before = before.all_input_nodes[0]
        kind = self._kind(before)
        if kind is None:
            wanted = "a layer norm, RMS norm or linear layer" if self.linear_sources else (
                "a layer norm or RMS norm"
            )  # fmt: skip
            return f"{self.name(before)!r}, which makes its input, is not {wanted}"
        readers = self._readers(before)
        if isinstance(readers, str):
            return readers
        for node in (before, *readers):
            if shared := self._shared(node):
                return shared
        names = tuple(self.name(reader) for reader in readers)
        return Fold(before.name, self.name(before), kind, names)

    def _kind(self, node: fx.Node) -> str | None:
        module = self.module(node)
        if isinstance(module, _NORMS):
            return "norm" if len(module.normalized_shape) == 1 else None
        if self.linear_sources and isinstance(module, nn.Linear | LinearReLU):
            return "linear"
        return None

    def _homogeneous(self, node: fx.Node) -> bool:
        module = self.module(node)
        return isinstance(module, _HOMOGENEOUS) or (
            node.op == "call_function" and node.target in (torch.relu, nn.functional.relu)
        )

    def _readers(self, source: fx.Node) -> list[fx.Node] | str:
        """The linear layers that alone read a tensor, or what else reads it."""
        found: list[fx.Node] = []
        waiting = list(source.users)
        while waiting:
            user = waiting.pop(0)
            if self.is_linear(user):
                found.append(user)
            elif self._homogeneous(user):
                waiting.extend(user.users)
            else:
                other = "the network's output" if user.op == "output" else repr(self.name(user))
                return f"{self.name(source)!r} is read by {other} too, which cannot be rescaled"
        return found

    def _shared(self, node: fx.Node) -> str | None:
        module = self.module(node)
        assert module is not None
        if self.calls[str(node.target)] > 1:
            return f"{self.name(node)!r} is called in several places"
        if any(self.owners[id(parameter)] > 1 for parameter in module.parameters()):
            return f"{self.name(node)!r} shares a parameter with another layer"
        return None


def scale_inputs(graph: fx.GraphModule, folds: Mapping[Fold, Tensor]) -> fx.GraphModule:
    """A copy of a graph that computes the same with the inputs of linear layers divided.

    Args:
        graph: The fused float graph; it stays as it is.
        folds: Factors by fold, float (I,), positive: every input channel is divided by its own.
    """
    made = copy.deepcopy(graph)
    nodes = {node.name: node for node in made.graph.nodes}
    named = {str(node.meta.get("name", node.name)): node for node in made.graph.nodes}
    with torch.no_grad():
        for fold, factors in folds.items():
            target = str(nodes[fold.source].target)
            source = core(made.get_submodule(target))
            if isinstance(source, _NORMS):
                source = _with_gain(source)
                made.add_submodule(target, source)
            _divide(source, factors)
            move_batch_norm(made, fold.source, factors=1.0 / factors.double())
            for reader in fold.readers:
                weight = core(made.get_submodule(str(named[reader].target))).weight
                assert isinstance(weight, Tensor)
                weight.copy_((weight.double() * factors.double().to(weight.device)).to(weight))
    return made


def _with_gain(norm: Any) -> nn.Module:
    """A norm with a gain to scale: itself, or an equal one that has a gain of 1."""
    if norm.weight is not None:
        return norm
    arguments: Any = {"eps": norm.eps}
    if isinstance(norm, nn.LayerNorm):
        arguments["bias"] = False
    made: Any = type(norm)
    return made(norm.normalized_shape, **arguments).eval().requires_grad_(False)


def _divide(module: Any, factors: Tensor) -> None:
    """Divides a layer's output channels, weight and bias both."""
    for parameter in (module.weight, getattr(module, "bias", None)):
        if parameter is not None:
            wide = factors.double().to(parameter.device)
            divided = parameter.double() / wide.reshape(-1, *[1] * (parameter.ndim - 1))
            parameter.copy_(divided.to(parameter))
