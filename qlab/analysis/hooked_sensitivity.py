"""One layer quantized at a time, and all but one, by running the model with hooks."""

from __future__ import annotations

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

WAYS = ("on", "off", "estimate")
_MEASURED = ("on", "off")
_Task = tuple[str, str, str]  # config, layer, way


@dataclass(frozen=True)
class ModuleSensitivity:
    """What each layer's quantization does to the output of a model without a graph.

    Attributes:
        table: Indexed by (layer, config). For each way, ``on`` (the layer alone is quantized) and
            ``off`` (all but it): ``noise_<way>``, the squared error of the network's output
            ``sum((x - y)^2)`` over all samples, lower is better; ``sqnr_<way>`` [dB], higher is
            better; with labels ``accuracy_<way>`` [%]. NaN where it was stopped before, and for
            ``estimate``, which needs a graph.
        whole: The network with everything quantized, by config: ``noise``, ``sqnr`` and, with
            labels, ``accuracy``. Empty unless ``off`` was asked for.
        metric: ``"accuracy"`` where the data has labels, else ``"sqnr"``.
        float_accuracy: Accuracy of the float network [%]; None without labels.
        rank_correlation: None: there is no gradient estimate to compare with.
        samples: How many samples the errors were measured on.
        complete: False where it was stopped early: then over the batches that were finished, or
            over the first one, as far as it went.
    """

    table: pd.DataFrame
    whole: pd.DataFrame
    metric: str
    float_accuracy: float | None
    rank_correlation: float | None
    samples: int
    complete: bool


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
    ways: tuple[str, ...] = _MEASURED,
    on_progress: Progress | None = None,
    should_stop: Stop | None = None,
) -> ModuleSensitivity:
    """Runs the model once per batch, candidate, layer and way.

    Args:
        runs: Runs the model.
        candidates: The quantized layers of each configuration, by its name and theirs.
        data: Data to measure on, with labels for accuracies.
        ways: Of `WAYS`; ``"estimate"`` gives NaN.
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
        if "off" in ways and layers:
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
    sums: dict[_Task, _Sums], ways: tuple[str, ...], samples: int, complete: bool
) -> ModuleSensitivity:
    counted = next((s.labels.as_dict() for s in sums.values() if s.labels.labelled), {})
    rows: dict[tuple[str, str], dict[str, float]] = {}
    whole: dict[str, dict[str, float]] = {}
    for (config, layer, way), found in sums.items():
        numbers = _numbers(found)
        if way == "whole":
            whole[config] = numbers
        else:
            row = rows.setdefault((layer, config), {})
            row |= {f"{name}_{way}": value for name, value in numbers.items()}
    names = ["noise", "sqnr", *(["accuracy"] if counted else [])]
    columns = [f"{n}_{w}" for w in WAYS if w in ways for n in names if (n, w) != _NO_ACCURACY]
    index = pd.MultiIndex.from_tuples(list(rows), names=["layer", "config"])
    table = pd.DataFrame(list(rows.values()), index=index, columns=columns, dtype=float)
    frame = pd.DataFrame(list(whole.values()), index=list(whole), columns=names, dtype=float)
    return ModuleSensitivity(
        table=table,
        whole=frame.rename_axis("config"),
        metric="accuracy" if counted else "sqnr",
        float_accuracy=counted.get("float_accuracy"),
        rank_correlation=None,
        samples=samples,
        complete=complete,
    )


_NO_ACCURACY = ("accuracy", "estimate")


def _numbers(found: _Sums) -> dict[str, float]:
    if not found.output.count:
        return {}
    accuracy = found.labels.as_dict().get("accuracy")
    numbers = {"noise": found.output.noise, "sqnr": found.output.sqnr}
    return numbers if accuracy is None else {**numbers, "accuracy": accuracy}
