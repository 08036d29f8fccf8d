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
    """Running errors of a network's output, and of the answers that it gives.

    Of a network that gives several tensors (`outputs_of`) the errors are over the numbers of all of
    them together: an output in larger units weighs more. The answers are those of the logits, see
    `answers_of`.
    """

    errors: ErrorSums
    labels: LabelCounts

    @classmethod
    def empty(cls) -> OutputSums:
        """No samples yet."""
        return cls(ErrorSums(), LabelCounts())

    def update(self, reference: Any, value: Any, labels: Tensor | None) -> None:
        """Adds one batch of outputs of the float and of the quantized network.

        Raises:
            As `batch_errors`.
        """
        self.add(outputs_of(reference), outputs_of(value), labels)

    def add(
        self, x: dict[str, Tensor], y: dict[str, Tensor], labels: Tensor | None
    ) -> dict[str, ErrorSums | None]:
        """As `update`, of what `outputs_of` gave; returns the batch's errors by output."""
        found = batch_errors(x, y)
        for sums in filter(None, found.values()):
            self.errors.merge(sums)
        answers = answers_of(x)
        if x[answers].ndim == 2:
            self.labels.update(x[answers], y[answers], labels)
        return found

    def merge(self, other: OutputSums) -> None:
        """Adds other batches."""
        self.errors.merge(other.errors)
        self.labels.merge(other.labels)

    def as_dict(self) -> dict[str, float]:
        """Every metric that applies, by name."""
        return {**self.errors.as_dict(), **self.labels.as_dict()}


class NetworkOutput:
    """Running errors of everything that a network gives: `OutputSums` of all of it together, and
    the errors of each tensor on its own."""

    def __init__(self) -> None:
        self.whole = OutputSums.empty()
        self.sums: dict[str, ErrorSums] = {}
        self._unknown: set[str] = set()

    def update(self, reference: Any, value: Any, labels: Tensor | None) -> None:
        """Adds one batch of outputs of the float and of the quantized network.

        Raises:
            As `batch_errors`.
        """
        found = self.whole.add(outputs_of(reference), outputs_of(value), labels)
        for name, errors in found.items():
            sums = self.sums.setdefault(name, ErrorSums())
            if errors is None:
                self._unknown.add(name)
            else:
                sums.merge(errors)

    def as_dict(self) -> dict[str, float]:
        """Every metric of all tensors of real numbers together."""
        return self.whole.as_dict()

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
        UnsupportedError: The network gives no tensor, or complex numbers.
    """
    found = dict(_named("", value))
    if not found:
        raise UnsupportedError(
            "The network's output holds no tensor to compare", received=type(value).__name__
        )
    unreal = [name for name, tensor in found.items() if tensor.is_complex()]
    if unreal:
        raise UnsupportedError(
            f"The network's output {unreal[0]!r} holds complex numbers",
            expected="real numbers, of which errors are measured",
            received=str(found[unreal[0]].dtype),
            fix="Let the model give torch.view_as_real of it.",
        )
    real = {name: tensor for name, tensor in found.items() if tensor.is_floating_point()}
    return real or dict([next(iter(found.items()))])


def batch_errors(x: dict[str, Tensor], y: dict[str, Tensor]) -> dict[str, ErrorSums | None]:
    """The errors of each output of one batch.

    Args:
        x: Of the float network, as `outputs_of` gives them.
        y: Of the quantized network.

    Returns:
        By output; where the float network masks with infinity, over what is not masked in either.
        None where nothing else is left, and for one after the first that is NaN in the float
        network: it counts for nothing.

    Raises:
        NonFiniteError: NaN or infinity in the first, or that quantization brought.
    """
    found: dict[str, ErrorSums | None] = {}
    for name, reference in x.items():
        sums, value = ErrorSums(), y[name]
        masked = reference.isinf() if reference.shape == value.shape else None
        if masked is not None and bool(masked.any()):
            kept = ~(masked | value.isinf())
            reference, value = reference[kept], value[kept]
        try:
            sums.update(reference, value)
        except NonFiniteError:
            if not found or bool(reference.isfinite().all()):
                raise
            found[name] = None
            continue
        nothing = masked is not None and sums.signal == sums.noise == 0 and bool(masked.any())
        found[name] = None if nothing else sums
    return found


def answers_of(outputs: dict[str, Tensor]) -> str:
    """Which output holds a classifier's logits: the one of that name, else the first."""
    return "logits" if "logits" in outputs else next(iter(outputs))


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
