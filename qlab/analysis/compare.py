"""Float network and quantized network side by side, layer by layer."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import torch
from torch import Tensor, fx

from qlab.analysis.batches import Batch, Batches
from qlab.analysis.calibration import Progress, Stop
from qlab.analysis.metrics import METRICS, ErrorSums, LabelCounts
from qlab.analysis.probe import QuantizedLayer, real
from qlab.analysis.report import Report, Size, coverage_of, graph_bytes, module_bytes
from qlab.errors import UnsupportedError
from qlab.execution import GraphRunner
from qlab.graph.plan import Plan, Step
from qlab.graph.shapes import tensors_in
from qlab.ranges import TensorSpec

_COLUMNS = [
    "type",
    "execution",
    *(f"{name}_{where}" for where in ("local", "accumulated") for name in METRICS),
    "sqnr_ideal",
    "weight_bytes",
]


@dataclass
class _Pair:
    """A layer in both networks, and its running errors.

    ``carrier`` is the node of the quantized network that holds its output, ``inputs`` the nodes of
    the float network that feed it.
    """

    step: Step
    layer: QuantizedLayer
    carrier: str
    inputs: tuple[str, ...]
    local: ErrorSums = field(default_factory=ErrorSums)
    accumulated: ErrorSums = field(default_factory=ErrorSums)

    def update(self, sums: ErrorSums, reference: Tensor, value: Tensor) -> None:
        """Adds what counts of two outputs: what a clamp behind the layer leaves of them."""
        sums.update(self.step.counting(reference), self.step.counting(value))

    def row(self, ideal: float) -> list[Any]:
        return [
            self.step.type,
            self.step.execution,
            *self.local.as_dict().values(),
            *self.accumulated.as_dict().values(),
            ideal,
            module_bytes(self.layer.module),
        ]


@dataclass(frozen=True)
class Networks:
    """The two networks that are compared, and the plan that made one of the other."""

    float_graph: fx.GraphModule
    converted: fx.GraphModule
    plan: Plan


def compare_graphs(
    networks: Networks,
    batches: Batches,
    ideal_sqnr: Callable[[str, TensorSpec], float],
    *,
    on_progress: Progress | None = None,
    should_stop: Stop | None = None,
) -> Report:
    """Runs both networks over the data and measures every quantized layer twice.

    Local: the layer as deployed, fed the float network's values. Accumulated: the layer inside
    the quantized network. Sums run over all samples; memory holds one batch.

    Args:
        networks: The fused float graph, the converted graph and the plan between them.
        batches: Data to measure on, with labels for accuracies.
        ideal_sqnr: The best SQNR [dB] that a quantizer of a spec's type reaches on the float
            tensor of a node.
        on_progress: Called as ``(batches done, batches in all, label)``.
        should_stop: Asked after each batch; the report then says ``complete=False``.

    Raises:
        NonFiniteError: NaN or infinity in a layer; the message names it.
    """
    pairs = _pair(networks)
    watched = set(pairs).union(*(pair.inputs for pair in pairs.values()))
    float_run = GraphRunner(networks.float_graph, watched)
    quantized_run = GraphRunner(networks.converted, {p.carrier for p in pairs.values()})
    output, labels = ErrorSums(), LabelCounts()
    total, done, samples = len(batches), 0, 0
    with torch.no_grad():
        for batch in batches:
            _measure_batch(batch, pairs, (float_run, quantized_run), (output, labels))
            done, samples = done + 1, samples + batch.samples
            if on_progress is not None:
                on_progress(done, total, "comparing")
            if should_stop is not None and should_stop():
                break
    rows = {
        pair.step.name: pair.row(
            math.inf
            if pair.step.output is None
            else ideal_sqnr(networks.plan.range_node(node), pair.step.output)
        )
        for node, pair in pairs.items()
    }
    return Report(
        layers=pd.DataFrame.from_dict(rows, orient="index", columns=_COLUMNS).rename_axis("layer"),
        output={**output.as_dict(), **labels.as_dict()},
        size=Size(graph_bytes(networks.float_graph), graph_bytes(networks.converted)),
        coverage=coverage_of(networks.plan),
        plan=networks.plan,
        samples=samples,
        complete=done >= total,
    )


def _measure_batch(
    batch: Batch,
    pairs: dict[str, _Pair],
    runs: tuple[GraphRunner, GraphRunner],
    totals: tuple[ErrorSums, LabelCounts],
) -> None:
    float_run, quantized_run = runs
    float_output, values = float_run.collect(batch.inputs)
    for node, pair in pairs.items():
        inputs = [values[name] for name in pair.inputs]
        pair.update(pair.local, values[node], pair.layer.run(inputs))

    carried = {pair.carrier: (node, pair) for node, pair in pairs.items()}

    def accumulate(carrier: str, value: Any) -> None:
        node, pair = carried[carrier]
        pair.update(pair.accumulated, values[node], real(value, pair.layer.output))

    quantized_output = quantized_run.watch(batch.inputs, accumulate)
    x, y = first_tensor(float_output), first_tensor(quantized_output)
    totals[0].update(x, y)
    if x.ndim == 2:
        totals[1].update(x, y, batch.labels)


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


def _pair(networks: Networks) -> dict[str, _Pair]:
    """Quantized layers by float node name, in graph order."""
    sources = {node.name: node for node in networks.float_graph.graph.nodes}
    operators = {node.name: node for node in networks.converted.graph.nodes}
    coded = {
        node.meta["source"]: node
        for node in networks.converted.graph.nodes
        if "qparams" in node.meta
    }
    pairs = {}
    for step in networks.plan.steps:
        if step.execution not in ("integer", "simulated"):
            continue
        carrier = coded.get(step.node, operators[step.node])
        module = networks.converted.get_submodule(str(operators[step.node].target))
        layer = QuantizedLayer(module, carrier.meta.get("qparams"))
        inputs = tuple(a.name for a in sources[step.node].args if isinstance(a, fx.Node))
        pairs[step.node] = _Pair(step, layer, carrier.name, inputs)
    return pairs
