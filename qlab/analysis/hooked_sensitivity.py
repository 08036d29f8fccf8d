"""One layer quantized at a time, and all but one, by running the model with hooks."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import pandas as pd
from torch import Tensor

from qlab.analysis.batches import Batches
from qlab.analysis.calibration import Progress, Stop
from qlab.analysis.compare import first_tensor
from qlab.analysis.hooked_run import HookedRun
from qlab.analysis.metrics import ErrorSums, LabelCounts
from qlab.analysis.probe import QuantizedLayer
from qlab.errors import ArgumentError, UnknownNameError

WAYS = ("on", "off")
_Task = tuple[str, str, str]  # config, layer, way


@dataclass(frozen=True)
class ModuleSensitivity:
    """What each layer's quantization does to the output of a model without a graph.

    Attributes:
        table: Indexed by (layer, config). For each way, ``on`` (the layer alone is quantized) and
            ``off`` (all but it): ``noise_<way>``, the squared error of the network's output
            ``sum((x - y)^2)`` over all samples, lower is better; ``sqnr_<way>`` [dB], higher is
            better; with labels ``accuracy_<way>`` [%]. NaN where it was stopped before.
        metric: ``"accuracy"`` where the data has labels, else ``"sqnr"``.
        samples: How many samples the errors were measured on.
        complete: False where it was stopped early: then over the batches that were finished.
        rank_correlation: None: there is no gradient estimate to compare with.
    """

    table: pd.DataFrame
    metric: str
    samples: int
    complete: bool
    rank_correlation: float | None = None


@dataclass
class _Sums:
    output: ErrorSums = field(default_factory=ErrorSums)
    labels: LabelCounts = field(default_factory=LabelCounts)

    def update(self, x: Tensor, y: Tensor, labels: Tensor | None) -> None:
        self.output.update(x, y)
        if x.ndim == 2:
            self.labels.update(x, y, labels)


def one_by_one(
    runs: HookedRun,
    candidates: dict[str, dict[str, QuantizedLayer]],
    data: Batches,
    *,
    ways: tuple[str, ...] = WAYS,
    on_progress: Progress | None = None,
    should_stop: Stop | None = None,
) -> ModuleSensitivity:
    """Runs the model once per batch, candidate, layer and way.

    Args:
        runs: Runs the model.
        candidates: The quantized layers of each configuration, by its name and theirs.
        data: Data to measure on, with labels for accuracies.
        ways: ``"on"``, ``"off"`` or both.
        on_progress: Called as ``(runs done, runs in all, label)``.
        should_stop: Asked after each run; batches that were finished count.

    Raises:
        UnknownNameError: No such way.
        ArgumentError: No candidate quantizes anything.
    """
    for way in ways:
        if way not in WAYS:
            raise UnknownNameError.of("way", way, WAYS)
    tasks = list(_tasks(candidates, ways))
    if not tasks:
        raise ArgumentError(
            "There is nothing to measure",
            expected="a configuration that quantizes a layer, and a way",
            received=f"configurations {list(candidates)}, ways {list(ways)}",
        )
    sums = {task: _Sums() for task in tasks}
    total, done, samples, stopped = len(tasks) * len(data), 0, 0, False
    for batch in data:
        x = first_tensor(runs.run(batch.inputs)).clone()
        outputs: dict[_Task, Tensor] = {}
        for task in tasks:
            layers = _chosen(candidates, task)
            outputs[task] = first_tensor(runs.run(batch.inputs, watch=(), replaced=layers)).clone()
            done += 1
            if on_progress is not None:
                on_progress(done, total, task[1])
            stopped = should_stop is not None and should_stop()
            if stopped:
                break
        if len(outputs) == len(tasks) or not samples:
            for task, y in outputs.items():
                sums[task].update(x, y, batch.labels)
            samples += batch.samples
        if stopped:
            break
    return _result(sums, ways, samples, done == total)


def _tasks(
    candidates: dict[str, dict[str, QuantizedLayer]], ways: tuple[str, ...]
) -> Iterator[_Task]:
    for config, layers in candidates.items():
        for layer in layers:
            yield from ((config, layer, way) for way in ways)


def _chosen(
    candidates: dict[str, dict[str, QuantizedLayer]], task: _Task
) -> dict[str, QuantizedLayer]:
    config, layer, way = task
    layers = candidates[config]
    return {name: chosen for name, chosen in layers.items() if (name == layer) == (way == "on")}


def _result(
    sums: dict[_Task, _Sums], ways: tuple[str, ...], samples: int, complete: bool
) -> ModuleSensitivity:
    labelled = any(found.labels.labelled for found in sums.values())
    rows: dict[tuple[str, str], dict[str, float]] = {}
    for (config, layer, way), found in sums.items():
        row = rows.setdefault((layer, config), {})
        known = found.output.count > 0
        row[f"sqnr_{way}"] = found.output.sqnr if known else math.nan
        row[f"noise_{way}"] = found.output.noise if known else math.nan
        if labelled:
            row[f"accuracy_{way}"] = found.labels.as_dict().get("accuracy", math.nan)
    table = pd.DataFrame(
        list(rows.values()), index=pd.MultiIndex.from_tuples(rows, names=["layer", "config"])
    )
    metric = "accuracy" if labelled else "sqnr"
    return ModuleSensitivity(table, metric, samples, complete)
