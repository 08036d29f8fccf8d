"""A float network and its quantized self, and where in both a layer is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx

from qlab.analysis.metrics import ErrorSums, LabelCounts
from qlab.analysis.probe import QuantizedLayer
from qlab.errors import UnsupportedError
from qlab.graph.plan import Plan, Step
from qlab.graph.shapes import tensors_in


@dataclass(frozen=True)
class Networks:
    """The two networks that are compared, and the plan that made one of the other."""

    float_graph: fx.GraphModule
    converted: fx.GraphModule
    plan: Plan


@dataclass(frozen=True)
class Place:
    """A quantized layer in both networks.

    Attributes:
        step: What the plan says of it.
        layer: The layer as deployed.
        carrier: The node of the quantized network that holds its output.
        inputs: The nodes of the float network that feed it.
    """

    step: Step
    layer: QuantizedLayer
    carrier: str
    inputs: tuple[str, ...]


def places_of(networks: Networks) -> Iterator[Place]:
    """The layers that compute on quantized numbers, in graph order."""
    sources = {node.name: node for node in networks.float_graph.graph.nodes}
    operators = {node.name: node for node in networks.converted.graph.nodes}
    coded = {
        node.meta["source"]: node
        for node in networks.converted.graph.nodes
        if "qparams" in node.meta
    }
    for step in networks.plan.quantized_steps:
        carrier = coded.get(step.node, operators[step.node])
        module = networks.converted.get_submodule(str(operators[step.node].target))
        layer = QuantizedLayer(module, carrier.meta.get("qparams"))
        inputs = tuple(a.name for a in sources[step.node].args if isinstance(a, fx.Node))
        yield Place(step, layer, carrier.name, inputs)


@dataclass
class OutputSums:
    """Running errors of a network's output, and of the answers that it gives."""

    errors: ErrorSums
    labels: LabelCounts

    @classmethod
    def empty(cls) -> OutputSums:
        """No samples yet."""
        return cls(ErrorSums(), LabelCounts())

    def update(self, reference: Any, value: Any, labels: Tensor | None) -> None:
        """Adds one batch of outputs of the float and of the quantized network."""
        x, y = first_tensor(reference), first_tensor(value)
        self.errors.update(x, y)
        if x.ndim == 2:
            self.labels.update(x, y, labels)

    def merge(self, other: OutputSums) -> None:
        """Adds other batches."""
        self.errors.merge(other.errors)
        self.labels.merge(other.labels)

    def as_dict(self) -> dict[str, float]:
        """Every metric that applies, by name."""
        return {**self.errors.as_dict(), **self.labels.as_dict()}


def first_tensor(value: Any) -> Tensor:
    """The first floating-point tensor of a network's output, which may be a tuple or a dict.

    The first tensor of whole numbers where nothing else comes out.

    Raises:
        UnsupportedError: The network gives no tensor.
    """
    found = tensors_in(value)
    if not found:
        raise UnsupportedError(
            "The network's output holds no tensor to compare", received=type(value).__name__
        )
    return next((tensor for tensor in found if tensor.is_floating_point()), found[0])
