"""One layer quantized at a time, and all but one, by running the model with hooks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd
from torch import Tensor

from qlab.analysis.batches import Batches
from qlab.analysis.calibration import Progress, Stop
from qlab.analysis.hooked_run import HookedRun
from qlab.analysis.networks import OutputSums, outputs_of
from qlab.analysis.probe import QuantizedLayer
from qlab.analysis.sensitivity import WAYS, Sensitivity, metrics_of

_MEASURED = ("on", "off")
_Task = tuple[str, str, str]  # config, layer, way


def one_by_one(
    runs: HookedRun,
    candidates: dict[str, dict[str, QuantizedLayer]],
    data: Batches,
    *,
    ways: tuple[str, ...] = _MEASURED,
    on_progress: Progress | None = None,
    should_stop: Stop | None = None,
) -> Sensitivity:
    """Runs the model once per batch, candidate, layer and way.

    Args:
        runs: Runs the model.
        candidates: The quantized layers of each configuration, by its name and theirs.
        data: Data to measure on, with labels for accuracies.
        ways: Of `WAYS`; ``"estimate"`` gives NaN.
        on_progress: Called as ``(runs done, runs in all, label)``.
        should_stop: Asked after each run; batches that were finished count.

    Returns:
        As for a graph, with NaN for the estimate and without a rank correlation.
    """
    tasks = list(_tasks(candidates, ways))
    sums = {task: OutputSums.empty() for task in tasks}
    reference = OutputSums.empty()
    total, done, samples, stopped = len(tasks) * len(data), 0, 0, False
    for batch in data:
        x = _copied(runs.run(batch.inputs))
        outputs: dict[_Task, dict[str, Tensor]] = {}
        for task in tasks:
            layers = _chosen(candidates, task)
            outputs[task] = _copied(runs.run(batch.inputs, watch=(), replaced=layers))
            done += 1
            if on_progress is not None:
                on_progress(done, total, task[1])
            stopped = should_stop is not None and should_stop()
            if stopped:
                break
        if len(outputs) == len(tasks) or not samples:
            reference.add(x, x, batch.labels)
            for task, y in outputs.items():
                sums[task].add(x, y, batch.labels)
            samples += batch.samples
        if stopped:
            break
    return _result(candidates, sums, reference, ways, (samples, done == total))


def _copied(value: Any) -> dict[str, Tensor]:
    """A model's outputs, which the next run may write over."""
    return {name: tensor.clone() for name, tensor in outputs_of(value).items()}


def _tasks(
    candidates: dict[str, dict[str, QuantizedLayer]], ways: tuple[str, ...]
) -> Iterator[_Task]:
    for config, layers in candidates.items():
        if "off" in ways:
            yield config, "", "whole"
        for layer in layers:
            yield from ((config, layer, way) for way in _MEASURED if way in ways)


def _chosen(
    candidates: dict[str, dict[str, QuantizedLayer]], task: _Task
) -> dict[str, QuantizedLayer]:
    config, layer, way = task
    layers = candidates[config]
    if way == "whole":
        return layers
    return {name: chosen for name, chosen in layers.items() if (name == layer) == (way == "on")}


def _result(
    candidates: dict[str, dict[str, QuantizedLayer]],
    sums: dict[_Task, OutputSums],
    reference: OutputSums,
    ways: tuple[str, ...],
    reached: tuple[int, bool],
) -> Sensitivity:
    labelled, (samples, complete) = bool(reference.labels.labelled), reached
    rows: dict[tuple[str, str], dict[str, float]] = {
        (layer, config): {} for config, layers in candidates.items() for layer in layers
    }
    whole: dict[str, dict[str, float]] = {}
    for (config, layer, way), found in sums.items():
        numbers = metrics_of(found) if found.errors.count else {}
        if way == "whole":
            whole[config] = numbers
        else:
            rows[layer, config] |= {f"{name}_{way}": value for name, value in numbers.items()}
    names = ["noise", "sqnr", *(["accuracy"] if labelled else [])]
    columns = [
        f"{n}_{w}" for w in WAYS if w in ways for n in names if (n, w) != ("accuracy", "estimate")
    ]
    index = pd.MultiIndex.from_tuples(list(rows), names=["layer", "config"])
    table = pd.DataFrame(list(rows.values()), index=index, columns=columns, dtype=float)
    frame = pd.DataFrame(list(whole.values()), index=list(whole), columns=names, dtype=float)
    return Sensitivity(
        table=table,
        whole=frame.rename_axis("config"),
        metric="accuracy" if labelled else "sqnr",
        float_accuracy=reference.labels.as_dict().get("float_accuracy"),
        rank_correlation=None,
        samples=samples,
        complete=complete,
    )
