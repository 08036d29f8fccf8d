"""Float, simulated and integer network side by side: where they disagree, and by how many steps.

The simulation is fake quantization: float arithmetic on numbers that were rounded to what codes
stand for. It is what people train with and what most tools measure; the integer network is what
runs. The two differ where float32 sums are not exact, and on ties, since fake quantization rounds
before it adds the zero point and quantization after.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import torch
from torch import Tensor, fx, nn

from qlab import ops
from qlab.analysis.batches import Batch, Batches
from qlab.analysis.calibration import Progress, Stop
from qlab.analysis.metrics import ErrorSums
from qlab.analysis.networks import OutputSums
from qlab.analysis.simulation import codes_of, module_of, simulate, simulated_layers
from qlab.analysis.tasks import DataPass
from qlab.execution import GraphRunner, full_precision
from qlab.graph.plan import Plan, Step
from qlab.nn.quantized.base import QuantizedModule
from qlab.qparams import QParams, quantize_round_first

TIE = 1e-4  # of a step: float32 sums of one layer are no closer to the exact one
FLOAT32 = 2.0**-22  # of a value: what two float32 operations may round away, which 16 bits show

PAIRS = ("float_fake", "float_integer", "fake_integer")
COUNTS = ("codes", "exact", "off_by_1", "off_by_2", "off_by_more", "max_steps", "ties")
WHERE = ("local", "accumulated")


@dataclass(frozen=True)
class Fidelity:
    """How far the simulation of a quantized network can be trusted.

    Attributes:
        table: One row per layer that computes on quantized numbers, in graph order, indexed by
            name: those of `Report.layers`, and pooling and its kin, which keep the scale of their
            input and round all the same. Columns ``type`` and ``execution``, and each of the
            following with ``_local`` (all three fed the same: the float network's values, as
            codes) and ``_accumulated`` (each inside its own network): ``sqnr_float_fake``,
            ``sqnr_float_integer`` and ``sqnr_fake_integer`` [dB], the first of the two being the
            signal; ``codes``, how many output codes were compared; ``exact``, the share of them, 0
            to 1, that are equal in simulation and integers; ``off_by_1``, ``off_by_2`` and
            ``off_by_more``, how many differ by so many steps; ``max_steps``, the largest
            difference; ``ties``, how many of those that differ lie, but for float32's own
            rounding, within 1e-4 of a step of the middle between two codes. A layer that gives
            real numbers has 0 codes and NaN for ``exact``.
        output: For the network's output, all its tensors of real numbers together,
            ``sqnr_float_fake`` and its kin [dB]; for a classifier's
            logits ``top1_float_fake``, ``top1_float_integer`` and ``top1_fake_integer``, the share
            of samples on which the two choose the same class [%]; where labels exist
            ``accuracy_float``, ``accuracy_fake`` and ``accuracy_integer`` [%].
        samples: How many samples were compared.
        complete: False where it was stopped early.
    """

    table: pd.DataFrame
    output: dict[str, float]
    samples: int
    complete: bool = True


@dataclass
class Agreement:
    """Running counts of how simulated and integer codes differ."""

    codes: int = 0
    off_by_1: int = 0
    off_by_2: int = 0
    off_by_more: int = 0
    max_steps: int = 0
    ties: int = 0

    def update(self, real: Tensor, codes: Tensor, qparams: QParams) -> None:
        """Adds one batch.

        Args:
            real: The simulation's output before it is rounded, any shape.
            codes: The integer layer's codes, the same shape.
            qparams: How the codes are read.
        """
        steps = self.count(quantize_round_first(real, qparams), codes)
        if steps.any():
            self.ties += int(_tied(real.flatten()[steps > 0], qparams).sum())

    def count(self, codes: Tensor, others: Tensor) -> Tensor:
        """Adds a batch of codes and as many others; returns by how many steps each differs."""
        steps = (_rank(codes) - _rank(others)).abs().flatten()
        off = steps[steps > 0]
        self.codes += steps.numel()
        self.off_by_1 += int((off == 1).sum())
        self.off_by_2 += int((off == 2).sum())
        self.off_by_more += int((off > 2).sum())
        if off.numel():
            self.max_steps = max(self.max_steps, int(off.max()))
        return steps

    @property
    def exact(self) -> float:
        """Share of codes that are equal; NaN where there are none."""
        different = self.off_by_1 + self.off_by_2 + self.off_by_more
        return 1.0 - different / self.codes if self.codes else math.nan


def _rank(codes: Tensor) -> Tensor:
    """The place of each code among all codes of its type, int64."""
    if not codes.is_floating_point():
        return codes.to(torch.int64)
    bits = codes.view(torch.uint8).to(torch.int64)  # float8 orders by sign and magnitude
    return torch.where(bits < 128, bits, 128 - bits)


def _tied(real: Tensor, qparams: QParams) -> Tensor:
    """Whether real numbers lie in the middle between two codes."""
    if qparams.dtype.is_float:
        return torch.zeros_like(real, dtype=torch.bool)
    scaled = real.double() / qparams.scale.double()
    return (scaled - scaled.floor() - 0.5).abs() <= TIE + FLOAT32 * scaled.abs()


@dataclass
class _Sums:
    """What is counted of a layer in one place."""

    pairs: dict[str, ErrorSums] = field(default_factory=lambda: {p: ErrorSums() for p in PAIRS})
    agreement: Agreement = field(default_factory=Agreement)

    def update(self, step: Step, reals: tuple[Tensor, Tensor, Tensor]) -> None:
        """Adds the float, the simulated and the integer output, as real numbers."""
        x, y, z = (step.counting(real) for real in reals)
        for pair, (a, b) in zip(PAIRS, ((x, y), (x, z), (y, z)), strict=True):
            self.pairs[pair].update(a, b)

    def row(self, where: str) -> dict[str, float]:
        errors = {f"sqnr_{pair}_{where}": sums.sqnr for pair, sums in self.pairs.items()}
        return errors | {f"{name}_{where}": getattr(self.agreement, name) for name in COUNTS}


@dataclass
class _Layer:
    """A quantized layer in its three forms, and what was counted of it."""

    step: Step
    inputs: tuple[str, ...]
    integer: nn.Module
    simulated: nn.Module
    carrier: str
    output: QParams | None
    local: _Sums = field(default_factory=_Sums)
    accumulated: _Sums = field(default_factory=_Sums)

    def add(self, sums: _Sums, x: Tensor, simulated: Tensor, integer: Tensor) -> None:
        """Adds the float output, the simulated one before rounding, and the integer one."""
        if self.output is None:
            sums.update(self.step, (x, simulated, integer))
            return
        sums.agreement.update(simulated, integer, self.output)
        fake = ops.dequantize(quantize_round_first(simulated, self.output), self.output)
        sums.update(self.step, (x, fake, ops.dequantize(integer, self.output)))

    def measure_local(self, values: Mapping[str, Any]) -> None:
        """Runs simulation and integers on the same codes: those of the float network's values."""
        given = [values[name] for name in self.inputs]
        bound = self.integer.input_qparams if isinstance(self.integer, QuantizedModule) else None
        read = bound or [None for _ in given]
        codes = [x if q is None else ops.quantize(x, q) for x, q in zip(given, read, strict=True)]
        real = [
            x if q is None else ops.dequantize(c, q).to(x.dtype)
            for x, c, q in zip(given, codes, read, strict=True)
        ]
        simulated, integer = self.simulated(*real), self.integer(*codes)
        if self.output is not None and integer.is_floating_point() and bound is None:
            integer = ops.quantize(integer, self.output)  # a float layer whose output is quantized
        self.add(self.local, values[self.step.node], simulated, integer)

    def row(self) -> dict[str, Any]:
        kinds = {"type": self.step.type, "execution": self.step.execution}
        return kinds | self.local.row("local") | self.accumulated.row("accumulated")


@dataclass
class _Output:
    """What is counted of the network's output."""

    sums: dict[str, OutputSums] = field(
        default_factory=lambda: {p: OutputSums.empty() for p in PAIRS}
    )

    def update(self, outputs: tuple[Any, Any, Any], labels: Tensor | None) -> None:
        x, y, z = outputs
        for pair, (a, b) in zip(PAIRS, ((x, y), (x, z), (y, z)), strict=True):
            self.sums[pair].update(a, b, labels)

    def as_dict(self) -> dict[str, float]:
        found = {f"sqnr_{pair}": sums.errors.sqnr for pair, sums in self.sums.items()}
        counts = {pair: sums.labels.as_dict() for pair, sums in self.sums.items()}
        for pair in PAIRS:
            if counts[pair]:
                found[f"top1_{pair}"] = counts[pair]["top1_agreement"]
        if "accuracy" in counts["float_fake"]:
            found["accuracy_float"] = counts["float_fake"]["float_accuracy"]
            found["accuracy_fake"] = counts["float_fake"]["accuracy"]
            found["accuracy_integer"] = counts["float_integer"]["accuracy"]
        return found


def measure_fidelity(
    graphs: tuple[fx.GraphModule, fx.GraphModule],
    plan: Plan,
    batches: Batches,
    *,
    reference: fx.GraphModule | None = None,
    on_progress: Progress | None = None,
    should_stop: Stop | None = None,
) -> Fidelity:
    """Runs all three networks over the data; memory holds one batch.

    Args:
        graphs: The fused float graph, and what `convert` makes of it under ``plan``.
        plan: What `annotate` decided.
        batches: Data to measure on, with labels for accuracies.
        reference: The float graph whose values count, where the fused one was repaired.
        on_progress: Called as ``(batches done, batches in all, label)``.
        should_stop: Asked after each batch; the result then says ``complete=False``.

    Raises:
        NonFiniteError: NaN or infinity in a layer.
        UnfinishedError: A loader failed; ``partial`` is what was compared before.
    """
    networks = _Networks(*graphs, plan, reference or graphs[0])
    output, label = _Output(), "comparing simulation and integers"
    data_pass = DataPass([batches], label, on_progress, should_stop)
    with torch.no_grad(), full_precision():
        for batch in data_pass:
            networks.measure(batch, output)
    rows = {layer.step.name: layer.row() for layer in networks.layers.values()}
    columns = ["type", "execution", *networks.columns()]
    table = pd.DataFrame.from_dict(rows, orient="index", columns=None)
    table = table.reindex(columns=columns).rename_axis("layer")
    found = Fidelity(table, output.as_dict(), data_pass.samples, complete=data_pass.complete)
    return data_pass.finished(found)


class _Networks:
    """The three networks, ready to run."""

    def __init__(
        self,
        floating: fx.GraphModule,
        converted: fx.GraphModule,
        plan: Plan,
        reference: fx.GraphModule,
    ) -> None:
        coded = {n.meta["source"]: n for n in converted.graph.nodes if "qparams" in n.meta}
        operators = {node.name: node for node in converted.graph.nodes}
        sources = {node.name: node for node in floating.graph.nodes}
        self.layers: dict[str, _Layer] = {}
        replaced = simulated_layers(floating, converted, plan)
        for step in plan.steps:
            integer = module_of(converted, operators.get(step.node))
            if step.execution == "dynamic" or step.node not in replaced or integer is None:
                continue
            carrier = coded.get(step.node, operators[step.node])
            self.layers[step.node] = _Layer(
                step,
                tuple(a.name for a in sources[step.node].args if isinstance(a, fx.Node)),
                integer,
                replaced[step.node],
                carrier.name,
                carrier.meta.get("qparams"),
            )
        simulation = simulate(floating, plan, codes_of(converted), replaced)
        watched = set(self.layers).union(*(layer.inputs for layer in self.layers.values()))
        self.float_run = GraphRunner(reference, watched)
        self.simulated_run = GraphRunner(simulation, set(self.layers))
        self.integer_run = GraphRunner(converted, {x.carrier for x in self.layers.values()})

    def columns(self) -> list[str]:
        """Names of the counted columns, in the order of `Fidelity.table`."""
        return list(_Sums().row(WHERE[0])) + list(_Sums().row(WHERE[1]))

    def measure(self, batch: Batch, output: _Output) -> None:
        """Adds one batch to all counts."""
        x, floats = self.float_run.collect(batch.inputs)
        for layer in self.layers.values():
            layer.measure_local(floats)
        y, simulated = self.simulated_run.collect(batch.inputs)
        by_carrier = {layer.carrier: layer for layer in self.layers.values()}

        def compare(carrier: str, codes: Any) -> None:
            layer = by_carrier[carrier]
            node = layer.step.node
            layer.add(layer.accumulated, floats[node], simulated[node], codes)

        z = self.integer_run.watch(batch.inputs, compare)
        output.update((x, y, z), batch.labels)
