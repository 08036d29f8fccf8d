"""Float network and quantized network side by side, layer by layer."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from qlab.analysis.batches import Batch, Batches
from qlab.analysis.calibration import Progress, Stop
from qlab.analysis.metrics import METRICS, ErrorSums
from qlab.analysis.networks import Networks, OutputSums, Place, places_of
from qlab.analysis.probe import real
from qlab.analysis.report import Report, Size, coverage_of, graph_bytes, module_bytes
from qlab.execution import GraphRunner
from qlab.graph.plan import Step
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
    """A layer in both networks, and its running errors."""

    place: Place
    local: ErrorSums = field(default_factory=ErrorSums)
    accumulated: ErrorSums = field(default_factory=ErrorSums)

    @property
    def step(self) -> Step:
        return self.place.step

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
            module_bytes(self.place.layer.module),
        ]


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
    pairs = {place.step.node: _Pair(place) for place in places_of(networks)}
    watched = set(pairs).union(*(pair.place.inputs for pair in pairs.values()))
    float_run = GraphRunner(networks.float_graph, watched)
    quantized_run = GraphRunner(networks.converted, {p.place.carrier for p in pairs.values()})
    output = OutputSums.empty()
    total, done, samples = len(batches), 0, 0
    with torch.no_grad():
        for batch in batches:
            _measure_batch(batch, pairs, (float_run, quantized_run), output)
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
        output=output.as_dict(),
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
    total: OutputSums,
) -> None:
    float_run, quantized_run = runs
    float_output, values = float_run.collect(batch.inputs)
    for node, pair in pairs.items():
        inputs = [values[name] for name in pair.place.inputs]
        pair.update(pair.local, values[node], pair.place.layer.run(inputs))

    carried = {pair.place.carrier: (node, pair) for node, pair in pairs.items()}

    def accumulate(carrier: str, value: Any) -> None:
        node, pair = carried[carrier]
        pair.update(pair.accumulated, values[node], real(value, pair.place.layer.output))

    quantized_output = quantized_run.watch(batch.inputs, accumulate)
    total.update(float_output, quantized_output, batch.labels)
