"""A float network and its quantized self, and where in both a layer is."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from pandas import DataFrame
from torch import Tensor, fx

from qlab.analysis.metrics import METRICS, ErrorSums, LabelCounts
from qlab.analysis.probe import QuantizedLayer
from qlab.errors import NonFiniteError, UnsupportedError
from qlab.graph.plan import Plan, Step


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


class NetworkOutput:
    """Running errors of everything that a network gives: `OutputSums` of the first tensor of real
    numbers, and the errors of each of the others on its own."""

    def __init__(self) -> None:
        self.first = OutputSums.empty()
        self.sums: dict[str, ErrorSums] = {}
        self._unknown: set[str] = set()

    def update(self, reference: Any, value: Any, labels: Tensor | None) -> None:
        """Adds one batch of outputs of the float and of the quantized network.

        Raises:
            NonFiniteError: NaN or infinity in the first; that of others makes them NaN.
        """
        x, y = outputs_of(reference), outputs_of(value)
        first, *others = x
        self.first.update(x[first], y[first], labels)
        self.sums.setdefault(first, self.first.errors)
        for name in others:
            sums = self.sums.setdefault(name, ErrorSums())
            try:
                sums.update(x[name], y[name])
            except NonFiniteError:
                self._unknown.add(name)

    def as_dict(self) -> dict[str, float]:
        """Every metric of the first tensor of real numbers."""
        return self.first.as_dict()

    def to_frame(self) -> DataFrame:
        """The metrics of each tensor of real numbers, indexed by where it is in the output."""
        unknown = dict.fromkeys(METRICS, math.nan)
        rows = {n: unknown if n in self._unknown else s.as_dict() for n, s in self.sums.items()}
        frame = DataFrame.from_dict(rows, orient="index", columns=list(METRICS), dtype=float)
        return frame.rename_axis("output")


def outputs_of(value: Any) -> dict[str, Tensor]:
    """The floating-point tensors of a network's output, by where they are in it.

    Of a tensor itself that is ``"output"``, in a dict or a dataclass a name such as ``"logits"``,
    in a tuple ``"[0]"``. The first tensor of whole numbers where nothing else comes out.

    Raises:
        UnsupportedError: The network gives no tensor.
    """
    found = dict(_named("", value))
    if not found:
        raise UnsupportedError(
            "The network's output holds no tensor to compare", received=type(value).__name__
        )
    real = {name: tensor for name, tensor in found.items() if tensor.is_floating_point()}
    return real or dict([next(iter(found.items()))])


def first_tensor(value: Any) -> Tensor:
    """The first of `outputs_of`."""
    return next(iter(outputs_of(value).values()))


def _named(path: str, value: Any) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield path or "output", value
        return
    parts: list[tuple[str, Any]] = []
    if isinstance(value, Mapping):
        parts = [(f"{path}.{key}" if path else str(key), item) for key, item in value.items()]
    elif is_dataclass(value):
        names = [field.name for field in fields(value)]
        parts = [(f"{path}.{name}" if path else name, getattr(value, name)) for name in names]
    elif isinstance(value, tuple | list):
        parts = [(f"{path}[{index}]", item) for index, item in enumerate(value)]
    for name, item in parts:
        yield from _named(name, item)
