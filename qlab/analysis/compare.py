"""Float network and quantized network side by side, layer by layer."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from qlab.analysis.batches import Batch, Batches
from qlab.analysis.calibration import Progress, Stop
from qlab.analysis.metrics import METRICS, ErrorSums
from qlab.analysis.networks import NetworkOutput, Networks, places_of
from qlab.analysis.probe import QuantizedLayer, real
from qlab.analysis.report import Report, Size, coverage_of, graph_bytes, module_bytes
from qlab.analysis.tasks import DataPass
from qlab.errors import NonFiniteError
from qlab.execution import CachedRun, GraphRunner, RunStore, full_precision
from qlab.graph.plan import Plan, Step
from qlab.qparams import QParams
from qlab.ranges import TensorSpec
from qlab.ranges.error import clip_margin

COLUMNS = [
    "type",
    "execution",
    *(f"{name}_{where}" for where in ("local", "accumulated") for name in METRICS),
    "rmse_scale_local",
    "rmse_scale_accumulated",
    "nmse_rounding_local",
    "nmse_clipping_local",
    "clipped_share",
    "sqnr_ideal",
    "weight_bytes",
]


@dataclass
class LayerErrors:
    """A quantized layer's running errors, alone and inside the network."""

    step: Step
    layer: QuantizedLayer
    local: ErrorSums = field(default_factory=ErrorSums)
    accumulated: ErrorSums = field(default_factory=ErrorSums)

    def add(self, sums: ErrorSums, reference: Tensor, value: Tensor) -> None:
        """Adds to ``local`` or ``accumulated`` what counts of the layer's output.

        Raises:
            NonFiniteError: NaN or infinity; names the layer.
        """
        limits = limits_of(self.layer.output) if sums is self.local else None
        counting = self.step.counting
        try:
            sums.update(counting(reference), counting(value), limits)
        except NonFiniteError as error:
            raise NonFiniteError(
                f"The error of the layer {self.step.name!r} cannot be measured",
                received=error.received,
                fix="Find the first layer that produces NaN or infinity with Lab.calibrate().",
            ) from error

    def row(self, ideal: Callable[[Step], float]) -> list[Any]:
        """What `COLUMNS` names; NaN for what was not measured."""
        accumulated = self.accumulated.as_dict().values()
        return [
            self.step.type,
            self.step.execution,
            *self.local.as_dict().values(),
            *(accumulated if self.accumulated.count else [math.nan] * len(METRICS)),
            *self._steps_of_the_output(),
            ideal(self.step),
            module_bytes(self.layer.module),
        ]

    def _steps_of_the_output(self) -> list[float]:
        """RMSE/scale twice, the rounding and the clipping part, the clipped share."""
        qparams = self.layer.output
        if qparams is None:
            return [math.nan] * 5
        inside = self.accumulated.rmse_scale(qparams.scale_value)
        return [
            self.local.rmse_scale(qparams.scale_value),
            inside if self.accumulated.count else math.nan,
            self.local.nmse_rounding,
            self.local.nmse_clipping,
            self.local.clipped_share,
        ]


def limits_of(qparams: QParams | None) -> tuple[float, float] | None:
    """Between what real numbers are rounded to a code; those beyond are clipped."""
    if qparams is None:
        return None
    margin, scale, zero = clip_margin(qparams), qparams.scale_value, float(qparams.zero_point)
    low, high = qparams.quant_min - margin - zero, qparams.quant_max + margin - zero
    return low * scale, high * scale


Ideal = Callable[[str, TensorSpec], float]


def compare_graphs(
    networks: Networks,
    data: tuple[Batches, RunStore],
    ideal_sqnr: Ideal,
    *,
    parts: Sequence[Networks] = (),
    original: RunStore | None = None,
    on_progress: Progress | None = None,
    should_stop: Stop | None = None,
) -> Report:
    """Runs float and quantized networks over the data and measures every quantized layer twice.

    Local: the layer as deployed, fed the float network's values. Accumulated: the layer inside
    the quantized network. Sums run over all samples.

    Args:
        networks: The fused float graph, the converted graph and the plan between them.
        data: Batches to measure on, with labels for accuracies, and the float network's values on
            them as far as they are cached.
        ideal_sqnr: The best SQNR [dB] that a quantizer of a spec's type reaches on the float
            tensor of a node.
        parts: The same with the weights alone quantized, and with the activations alone; measured
            in the same pass, beside the same run of the float network.
        original: What the output is compared with: the float values of the model before it was
            repaired. Those of ``data`` if not given.
        on_progress: Called as ``(batches done, batches in all, label)``.
        should_stop: Asked after each batch; the report then says ``complete=False``.

    Raises:
        NonFiniteError: NaN or infinity in a layer; the message names it.
        UnfinishedError: A loader failed; ``partial`` is the report on the batches before.
    """
    batches, floats = data
    compared = [_Comparison(each) for each in (networks, *parts)]
    data_pass = DataPass([batches], "comparing", on_progress, should_stop)
    with torch.no_grad(), full_precision():
        for batch in data_pass:
            place_of_batch = data_pass.done, data_pass.announced, batch.inputs
            run = own = floats.get(*place_of_batch)
            if original is not None and original is not floats:
                own = original.get(*place_of_batch)
            for comparison in compared:
                comparison.add(batch, run, own.output)
    return data_pass.finished(
        with_parts([comparison.report(ideal_sqnr, data_pass) for comparison in compared])
    )


def with_parts(reports: Sequence[Report]) -> Report:
    """The first of one or of three reports, with the other two's layers as its parts."""
    whole, *parts = reports
    if not parts:
        return whole
    weight, activation = parts
    return replace(whole, weight_only=weight.layers, activation_only=activation.layers)


class _Comparison:
    """What is measured of one quantized network."""

    def __init__(self, networks: Networks) -> None:
        self.networks = networks
        found = [(place, LayerErrors(place.step, place.layer)) for place in places_of(networks)]
        self.carried = {place.carrier: (place, errors) for place, errors in found}
        self.runner = GraphRunner(networks.converted, self.carried)
        self.errors = [errors for _, errors in found]
        self.output = NetworkOutput()

    def add(self, batch: Batch, run: CachedRun, reference_output: Any) -> None:
        """Adds one batch, given the float network's run on it."""

        def see(carrier: str, value: Any) -> None:
            place, errors = self.carried[carrier]
            values = run.values({place.step.node, *place.inputs})
            alone = place.layer.run([values[name] for name in place.inputs])
            reference = values[place.step.node]
            errors.add(errors.local, reference, alone)
            errors.add(errors.accumulated, reference, real(value, place.layer.output))

        result = self.runner.watch(batch.inputs, see)
        self.output.update(reference_output, result, batch.labels)

    def report(self, ideal_sqnr: Ideal, data_pass: DataPass) -> Report:
        """What was measured until now."""
        networks = self.networks
        ideal = partial(ideal_of, networks.plan, ideal_sqnr)
        rows = {errors.step.name: errors.row(ideal) for errors in self.errors}
        layers = pd.DataFrame.from_dict(rows, orient="index", columns=COLUMNS)
        return Report(
            layers=layers.rename_axis("layer"),
            output=self.output.as_dict(),
            outputs=self.output.to_frame(),
            size=Size(graph_bytes(networks.float_graph), graph_bytes(networks.converted)),
            coverage=coverage_of(networks.plan),
            plan=networks.plan,
            samples=data_pass.samples,
            complete=data_pass.complete,
        )


def ideal_of(plan: Plan, ideal_sqnr: Ideal, step: Step) -> float:
    """The best SQNR [dB] for a step's output; infinite where it stays in float."""
    return math.inf if step.output is None else ideal_sqnr(plan.range_node(step.node), step.output)
