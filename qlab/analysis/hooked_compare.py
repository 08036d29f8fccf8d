"""Float model and quantized layers side by side, where hooks are all there is."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pandas as pd
from torch import Tensor

from qlab.analysis.batches import Batch, Batches
from qlab.analysis.calibration import Progress, Stop
from qlab.analysis.compare import first_tensor
from qlab.analysis.hooked_run import run_layer
from qlab.analysis.metrics import METRICS, ErrorSums, LabelCounts
from qlab.analysis.probe import QuantizedLayer
from qlab.analysis.report import Report, Size, coverage_of, module_bytes
from qlab.errors import NonFiniteError, UnsupportedError
from qlab.graph.plan import Step
from qlab.qconfig import QConfigMapping

if TYPE_CHECKING:
    from qlab.analysis.hooked import ModuleStudy

_COLUMNS = [
    "type",
    "execution",
    *(f"{name}_{where}" for where in ("local", "accumulated") for name in METRICS),
    "sqnr_ideal",
    "weight_bytes",
    "calls",
    "calls_apart",
]


@dataclass
class _Pair:
    """A layer and its quantized self, and their running errors over all calls."""

    step: Step
    layer: QuantizedLayer
    local: ErrorSums = field(default_factory=ErrorSums)
    accumulated: ErrorSums = field(default_factory=ErrorSums)
    calls: int = 0
    apart: int = 0

    def row(self, ideal: float) -> list[Any]:
        accumulated = self.accumulated.as_dict().values()
        return [
            self.step.type,
            self.step.execution,
            *self.local.as_dict().values(),
            *(accumulated if self.accumulated.count else [math.nan] * len(METRICS)),
            ideal,
            module_bytes(self.layer.module),
            self.calls,
            self.apart,
        ]


def compare_modules(
    study: ModuleStudy,
    mapping: QConfigMapping,
    batches: Batches,
    *,
    on_progress: Progress | None = None,
    should_stop: Stop | None = None,
) -> Report:
    """Measures every quantized layer twice, and the network's output.

    Local: the quantized layer on what the float model gives it. Accumulated: in a run in which
    every layer is its quantized self; its nth call is compared with the nth call in the float run.
    A model that decides on what tensors hold may then go another way: calls that the float run did
    not make, or made on another shape, count as ``calls_apart`` and are not measured.

    Returns:
        As `qlab.analysis.compare.compare_graphs`, with two more columns: ``calls`` of the layer in
        the quantized run, and how many of them were ``calls_apart``. A layer without any call to
        compare has NaN.

    Raises:
        NonFiniteError: NaN or infinity in a layer; names it.
        UnsupportedError: The quantized network gives an output of another shape.
    """
    plan = study.plan(mapping)
    layers = study.quantized_layers(mapping)
    pairs = {name: _Pair(plan.step(name), layer) for name, layer in layers.items()}
    output, labels = ErrorSums(), LabelCounts()
    total, done, samples = len(batches), 0, 0
    for batch in batches:
        _measure(study, batch, pairs, (output, labels))
        done, samples = done + 1, samples + batch.samples
        if on_progress is not None:
            on_progress(done, total, "comparing")
        if should_stop is not None and should_stop():
            break
    rows = {
        name: pair.row(
            math.inf
            if pair.step.output is None
            else study.ideal_sqnr(plan.range_node(pair.step.node), pair.step.output)
        )
        for name, pair in pairs.items()
        if pair.local.count
    }
    whole = module_bytes(study.model)
    replaced = sum(module_bytes(study.model.get_submodule(name)) for name in layers)
    size = whole - replaced + sum(module_bytes(layer.module) for layer in layers.values())
    return Report(
        layers=pd.DataFrame.from_dict(rows, orient="index", columns=_COLUMNS).rename_axis("layer"),
        output={**output.as_dict(), **labels.as_dict()},
        size=Size(whole, size),
        coverage=coverage_of(plan),
        plan=plan,
        samples=samples,
        complete=done >= total,
    )


def _measure(
    study: ModuleStudy,
    batch: Batch,
    pairs: dict[str, _Pair],
    totals: tuple[ErrorSums, LabelCounts],
) -> None:
    """Adds one batch to every sum."""
    kept: dict[str, list[Tensor]] = defaultdict(list)
    layers = {name: pair.layer for name, pair in pairs.items()}

    def locally(name: str, given: Sequence[Any], output: Any) -> None:
        value = first_tensor(output)
        _add(pairs[name].local, name, value, first_tensor(run_layer(pairs[name].layer, given)))
        kept[name].append(value.clone())  # what follows may write to it

    seen: dict[str, int] = defaultdict(int)

    def accumulate(name: str, given: Sequence[Any], output: Any) -> None:
        index, pair, value = seen[name], pairs[name], first_tensor(output)
        seen[name] += 1
        pair.calls += 1
        if index < len(kept[name]) and kept[name][index].shape == value.shape:
            _add(pair.accumulated, name, kept[name][index], value)
        else:
            pair.apart += 1

    x = first_tensor(study.runs.run(batch.inputs, locally, watch=pairs))
    x = x.clone()
    y = first_tensor(study.runs.run(batch.inputs, accumulate, watch=pairs, replaced=layers))
    if x.shape != y.shape:
        raise UnsupportedError(
            "The quantized network decides otherwise than the float network, and its output has "
            "another shape, so that the two cannot be compared",
            expected=f"shape {tuple(x.shape)}",
            received=f"shape {tuple(y.shape)}",
            fix="Quantize fewer layers, or compare layer by layer with what_if.",
        )
    totals[0].update(x, y)
    if x.ndim == 2:
        totals[1].update(x, y, batch.labels)


def _add(sums: ErrorSums, name: str, reference: Tensor, value: Tensor) -> None:
    try:
        sums.update(reference, value)
    except NonFiniteError as error:
        raise NonFiniteError(
            f"NaN or infinity in layer {name!r}: its error cannot be measured",
            received=error.received,
            fix=error.fix,
        ) from error
