"""How much each layer's quantization alone costs the network, and how much leaving it out wins."""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from qlab.analysis.batches import Batches
from qlab.analysis.calibration import Progress, Stop
from qlab.analysis.metrics import sqnr_db
from qlab.analysis.networks import Networks, OutputSums, places_of
from qlab.analysis.tasks import run_tasks
from qlab.analysis.work import Measured, Off, On, Task, Work, measure
from qlab.errors import ArgumentError, UnknownNameError
from qlab.execution import Program, RunStore
from qlab.graph.plan import Plan, Step
from qlab.qconfig import QConfigMapping

if TYPE_CHECKING:
    from qlab.analysis.study import Study

WAYS = ("on", "off", "estimate")
_CHUNK = 8


@dataclass(frozen=True)
class Sensitivity:
    """What each layer's quantization does to the network's output.

    ``on``: this layer alone is quantized, as deployed, and all others are float. ``off``: all are
    quantized and this one is kept in float, as a rule for its name with None would. ``estimate``:
    the same question as ``on``, answered to first order by two backward passes for all layers
    together (`qlab.analysis.gradient`).

    Attributes:
        table: Indexed by (layer, config). For each way that was asked for: ``noise_<way>``, the
            squared error of the network's output ``sum((x - y)^2)`` over all samples and all
            tensors of real numbers that it gives (an output in larger units weighs more), lower is
            better; ``sqnr_<way>`` [dB], higher is better; and, where the data has labels,
            ``accuracy_on`` and ``accuracy_off`` [%]. NaN where the measurement was stopped before.
        whole: The network with everything quantized, by config: ``noise``, ``sqnr`` and, with
            labels, ``accuracy``. Empty unless ``off`` was asked for.
        metric: ``"accuracy"`` where the data has labels, else ``"sqnr"``.
        float_accuracy: Accuracy of the float network [%]; None without labels.
        rank_correlation: Spearman's coefficient between ``noise_on`` and ``noise_estimate`` over
            all rows, 1 where the estimate ranks them as the measurement does; None where one is
            missing or fewer than two rows are known.
        samples: How many samples the errors were measured on.
        complete: False where it was stopped early. Then the numbers are over the batches that
            were finished, or over the first one, as far as it went.
    """

    table: pd.DataFrame
    whole: pd.DataFrame
    metric: str
    float_accuracy: float | None
    rank_correlation: float | None
    samples: int
    complete: bool
    _known: Known | None = field(default=None, repr=False, compare=False)

    def to_frame(self) -> pd.DataFrame:
        """The table with ``layer`` and ``config`` as columns, the most sensitive layer first.

        By the first of ``noise_on``, ``noise_estimate`` and the lowest ``noise_off`` that it has.
        """
        for column, ascending in (
            ("noise_on", False),
            ("noise_estimate", False),
            ("noise_off", True),
        ):
            if column in self.table:
                ordered = self.table.sort_values(column, ascending=ascending, kind="stable")
                return ordered.reset_index()
        return self.table.reset_index()


@dataclass
class _Cases:
    """What is to be measured, each thing once, and which rows it answers."""

    on: dict[Any, int] = field(default_factory=dict)
    off: dict[Any, int] = field(default_factory=dict)
    layers: list[On] = field(default_factory=list)
    variants: list[Off] = field(default_factory=list)
    bases: list[Program] = field(default_factory=list)
    rows: dict[tuple[str, str], dict[str, int]] = field(default_factory=dict)
    whole: dict[str, int] = field(default_factory=dict)

    def add_on(self, key: Any, layer: On) -> int:
        if key not in self.on:
            self.on[key] = len(self.layers)
            self.layers.append(layer)
        return self.on[key]

    def work(self, floats: RunStore) -> Work:
        """All of it; the quantized networks' values may take what the float ones leave."""
        budget = max(floats.budget - floats.bytes, 0)
        parts = tuple(self.layers), tuple(self.bases), tuple(self.variants)
        return Work(floats, *parts, budget)

    def parts(self, ways: tuple[str, ...], size: int) -> list[tuple[str, tuple[int, ...]]]:
        """What the tasks of one batch do: a way, and at most ``size`` cases, but all estimates."""
        found = []
        for way in WAYS:
            count = len(self.variants if way == "off" else self.layers)
            step = max(count, 1) if way == "estimate" else size
            for start in range(0, count if way in ways else 0, step):
                found.append((way, tuple(range(start, min(start + step, count)))))
        return found


def measure_sensitivity(
    study: Study,
    candidates: Mapping[str, QConfigMapping],
    data: tuple[Batches, RunStore],
    *,
    ways: tuple[str, ...] = WAYS,
    executor: Executor | None = None,
    since: Sensitivity | None = None,
    on_progress: Progress | None = None,
    should_stop: Stop | None = None,
) -> Sensitivity:
    """Measures every quantized layer of every candidate; see `Sensitivity`.

    Args:
        study: The float network and its statistics.
        candidates: Configurations by name.
        data: Batches to measure on, with labels for accuracies, and the float network's values on
            them as far as they are cached.
        ways: Which questions to answer, of `WAYS`.
        executor: Runs the tasks; results do not depend on it.
        since: An earlier answer, stopped early or to other ways: what it measured of the same
            candidates from the same statistics is not measured again.
        on_progress: Called as ``(tasks done, tasks in all, label)``.
        should_stop: Asked after each task.

    Raises:
        ArgumentError: No candidate, or no way.
        UnknownNameError: Another way.
        NonFiniteError: NaN or infinity in an output.
    """
    check_question(ways, candidates)
    (batches, floats), count = data, len(data[0])
    cases = _cases_of(study, candidates, ways)
    work = cases.work(floats)
    parts = cases.parts(ways, _CHUNK if executor is not None else 1)
    results, threads = _Results(cases, study), torch.get_num_threads()
    if since is not None and since._known is not None:
        results.take(since._known, parts)

    def tasks() -> Iterator[Task]:
        for index, batch in enumerate(batches):
            for way, part in parts:
                if (index, way, part) in results.known.done:
                    continue
                yield Task(work, batch, index, count, way, part, threads)

    def done(task: Task, found: Measured) -> None:
        results.add(task, found)
        if on_progress is not None:
            on_progress(len(results.known.done), len(parts) * count, "measuring sensitivity")

    complete = run_tasks(tasks(), measure, done, executor=executor, should_stop=should_stop)
    return results.summary(ways, len(parts), complete)


def check_question(ways: tuple[str, ...], candidates: Mapping[str, QConfigMapping]) -> None:
    """Raises as `measure_sensitivity` does where there is nothing to measure."""
    for way in ways:
        if way not in WAYS:
            raise UnknownNameError.of("way to measure sensitivity", way, WAYS)
    if not ways or not candidates:
        raise ArgumentError(
            "Sensitivity has nothing to measure",
            expected=f"at least one configuration, and at least one way of {', '.join(WAYS)}",
            received=f"{len(candidates)} configurations, ways {tuple(ways)}",
        )


def _cases_of(
    study: Study, candidates: Mapping[str, QConfigMapping], ways: tuple[str, ...]
) -> _Cases:
    cases = _Cases()
    for config, mapping in candidates.items():
        plan, base = study.plan(mapping), study.converted(mapping)
        for place in places_of(Networks(study.graph, base, plan)):
            step, row = place.step, dict[str, int]()
            cases.rows[step.name, config] = row
            layer = On(step.node, place.layer, place.inputs)
            row["on"] = cases.add_on(_layer_key(plan, step, place.inputs), layer)
        if "off" in ways:
            _add_off(cases, study, config, mapping)
    return cases


def _layer_key(plan: Plan, step: Step, inputs: tuple[str, ...]) -> Any:
    """Equal for layers that compute the same from the same inputs."""
    sources = tuple(plan.range_node(node) for node in (*inputs, step.node))
    return step.node, step.weight, step.output, step.inputs, step.execution, sources


def _add_off(cases: _Cases, study: Study, config: str, mapping: QConfigMapping) -> None:
    plan, converted = study.plan(mapping), study.converted(mapping)
    program = Program.of(converted)
    base = len(cases.bases)
    cases.bases.append(program)

    def add(variant_plan: Plan) -> int:
        key = _network_key(variant_plan)
        if key not in cases.off:
            variant = Program.of(study.execute(variant_plan, like=converted))
            cases.off[key] = len(cases.variants)
            touched = frozenset(variant.changed_from(program))
            cases.variants.append(Off(base, variant, touched))
        return cases.off[key]

    cases.whole[config] = add(plan)
    for (layer, of), row in cases.rows.items():
        if of == config:
            row["off"] = add(study.plan(kept_in_float(mapping, plan.step(layer))))


def _network_key(plan: Plan) -> Any:
    """Equal for plans that make the same network."""
    steps = ((s.node, s.weight, s.output, s.inputs, s.execution) for s in plan.steps)
    return tuple(steps), plan.values


def kept_in_float(mapping: QConfigMapping, step: Step) -> QConfigMapping:
    """A copy of a mapping that leaves one layer in float, whatever it said of it before."""
    return step.address.give(mapping.copy(), None)


@dataclass
class Known:
    """What was measured, task by task: enough to go on from.

    Attributes:
        on: Keys of the layers that were measured alone.
        off: Keys of the networks that were measured.
        seen: The statistics that they rest on.
        done: The tasks that are done: batch, way and cases.
        outputs, estimates, reference: What they gave, by batch.
    """

    on: tuple[Any, ...]
    off: tuple[Any, ...]
    seen: object
    done: set[tuple[int, str, tuple[int, ...]]] = field(default_factory=set)
    outputs: dict[int, dict[tuple[str, int], OutputSums]] = field(
        default_factory=lambda: defaultdict(dict)
    )
    estimates: dict[int, dict[int, float]] = field(default_factory=lambda: defaultdict(dict))
    reference: dict[int, tuple[OutputSums, int]] = field(default_factory=dict)


class _Results:
    """What the tasks gave, and the summary of it."""

    def __init__(self, cases: _Cases, study: Study) -> None:
        self.cases = cases
        self.known = Known(tuple(cases.on), tuple(cases.off), study.calibration)

    def take(self, other: Known, parts: list[tuple[str, tuple[int, ...]]]) -> None:
        """What was measured before, as far as it is a part of what is asked."""
        mine = self.known
        if mine.seen is not other.seen:
            return
        alike, same = mine.on == other.on, mine.off == other.off
        fits = {"on": alike, "estimate": alike, "off": same}
        mine.done |= {task for task in other.done if fits[task[1]] and task[1:] in parts}
        mine.reference |= {i: other.reference[i] for i, _, _ in mine.done}
        for index, outputs in other.outputs.items():
            mine.outputs[index] |= {case: s for case, s in outputs.items() if fits[case[0]]}
        for index, estimates in other.estimates.items():
            mine.estimates[index] |= estimates if alike else {}

    def add(self, task: Task, found: Measured) -> None:
        known, index = self.known, task.index
        known.done.add((index, task.way, task.cases))
        known.reference[index] = found.reference, task.batch.samples
        known.estimates[index] |= found.estimates
        known.outputs[index] |= {(task.way, c): sums for c, sums in found.outputs.items()}

    def summary(self, ways: tuple[str, ...], each: int, complete: bool) -> Sensitivity:
        """The numbers over the finished batches, summed in the order of the batches."""
        finished = Counter(index for index, _, _ in self.known.done)
        counted = sorted(index for index, tasks in finished.items() if tasks == each)
        counted = counted or sorted(finished)[:1]
        reference, samples = OutputSums.empty(), 0
        for index in counted:
            reference.merge(self.known.reference[index][0])
            samples += self.known.reference[index][1]
        labelled = bool(reference.labels.labelled)
        rows = {
            key: self._row(row, ways, counted, reference.errors.signal)
            for key, row in self.cases.rows.items()
        }
        columns = [
            f"{name}_{way}"
            for way in WAYS
            if way in ways
            for name in ("noise", "sqnr", *(["accuracy"] if labelled and way != "estimate" else []))
        ]
        index = pd.MultiIndex.from_tuples(list(rows), names=["layer", "config"])
        table = pd.DataFrame(list(rows.values()), index=index, columns=columns, dtype=float)
        return Sensitivity(
            table=table,
            whole=self._whole(counted, labelled),
            metric="accuracy" if labelled else "sqnr",
            float_accuracy=reference.labels.as_dict().get("float_accuracy"),
            rank_correlation=rank_correlation(table),
            samples=samples,
            complete=complete,
            _known=self.known,
        )

    def _merged(self, way: str, case: int, batches: list[int]) -> OutputSums | None:
        found = [self.known.outputs[b].get((way, case)) for b in batches]
        total = OutputSums.empty()
        for sums in filter(None, found):
            total.merge(sums)
        return total if any(found) else None

    def _row(
        self, row: dict[str, int], ways: tuple[str, ...], batches: list[int], signal: float
    ) -> dict[str, float]:
        numbers: dict[str, float] = {}
        for way in ("on", "off"):
            found = self._merged(way, row[way], batches) if way in ways else None
            if found is not None:
                numbers |= {f"{name}_{way}": value for name, value in metrics_of(found).items()}
        known = [self.known.estimates[b][row["on"]] for b in batches if self.known.estimates[b]]
        if known:
            noise = math.fsum(known)
            numbers |= {"noise_estimate": noise, "sqnr_estimate": sqnr_db(signal, noise)}
        return numbers

    def _whole(self, batches: list[int], labelled: bool) -> pd.DataFrame:
        found = {c: self._merged("off", i, batches) for c, i in self.cases.whole.items()}
        rows = {c: {} if sums is None else metrics_of(sums) for c, sums in found.items()}
        columns = ["noise", "sqnr", *(["accuracy"] if labelled else [])]
        frame = pd.DataFrame(list(rows.values()), index=list(rows), columns=columns, dtype=float)
        return frame.rename_axis("config")


def metrics_of(sums: OutputSums) -> dict[str, float]:
    """Noise, SQNR and, with labels, accuracy, by name."""
    metrics = {"noise": sums.errors.noise, "sqnr": sums.errors.sqnr}
    accuracy = sums.labels.as_dict().get("accuracy")
    return metrics if accuracy is None else {**metrics, "accuracy": accuracy}


def rank_correlation(table: pd.DataFrame) -> float | None:
    """Spearman's coefficient between ``noise_on`` and ``noise_estimate``; None where undefined."""
    if not {"noise_on", "noise_estimate"} <= set(table.columns):
        return None
    known = table[["noise_on", "noise_estimate"]].dropna().rank().to_numpy()
    if len(known) < 2 or (known == known[0]).all(axis=0).any():
        return None
    return float(np.corrcoef(known.T)[0, 1])


def names_of(mappings: Any) -> Iterator[tuple[str, Any]]:
    """Names for candidates that were given as one, as a sequence, or by name."""
    if isinstance(mappings, Mapping):
        yield from ((str(name), mapping) for name, mapping in mappings.items())
        return
    several = mappings if isinstance(mappings, list | tuple) else [mappings]
    for index, mapping in zip(itertools.count(1), several, strict=False):
        name = mapping if isinstance(mapping, str) else f"config {index}"
        yield name, mapping
