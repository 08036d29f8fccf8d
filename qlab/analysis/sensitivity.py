"""How much each layer's quantization alone costs the network, and how much leaving it out wins."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from qlab.analysis.batches import Batches
from qlab.analysis.calibration import Progress, Stop
from qlab.analysis.cases import WAYS, Candidates, Cases, Known
from qlab.analysis.kept import kept_in_float
from qlab.analysis.preparation import Preparation
from qlab.analysis.tasks import TaskError, checked_executor, run_pieces, run_tasks
from qlab.analysis.work import Measured, Task, Work, measure
from qlab.errors import ArgumentError, DTypeError, QlabError, UnfinishedError, UnknownNameError
from qlab.execution import RunStore

if TYPE_CHECKING:
    from qlab.analysis.study import Study

__all__ = [
    "MEASURING",
    "WAYS",
    "Sensitivity",
    "answer",
    "check_question",
    "checked_since",
    "checked_ways",
    "kept_in_float",
    "known_of",
    "measure_sensitivity",
    "names_of",
    "rank_correlation",
    "summary",
]

MEASURING = "measuring sensitivity"
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


def measure_sensitivity(
    study: Study,
    candidates: Candidates,
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
        executor: Runs the tasks; results do not depend on it. Processes are to be spawned, not
            forked, where PyTorch computes with several threads.
        since: An earlier answer, whatever it was asked: what it measured of the same layers and
            networks from the same statistics is not measured again.
        on_progress: Called as ``(done, total, label)``: with the label ``"preparing <layer>"``
            while candidates are quantized, then with `MEASURING` after each task.
        should_stop: Asked after each task, and before each layer that is prepared.

    Raises:
        ArgumentError: No candidate, or no way.
        DTypeError: Not an executor, or no sensitivity to go on from.
        UnknownNameError: Another way.
        UnsupportedError: An executor of forked processes, see `checked_executor`.
        NonFiniteError: NaN or infinity in an output.
        UnfinishedError: A loader, a worker or the executor failed; ``partial`` is the answer so
            far, to go on from.
    """
    check_question(ways, candidates, since)
    (batches, floats), count = data, data[0].length
    size = _CHUNK if checked_executor(executor) is not None else 1
    seen = study.calibration or study.calibrate()
    cases = Cases(ways, known_of(since, (seen, study.graph)))
    made = Preparation(study, candidates, cases, count)
    hooks: Any = {"on_progress": on_progress, "should_stop": should_stop}
    if not run_pieces(made.pieces(), made.total, **hooks):
        return summary(cases, False)
    work = Work(floats, made.on, tuple(made.bases), made.off)
    threads = torch.get_num_threads()

    def tasks() -> Iterator[Task]:
        for index, batch in enumerate(batches):
            for way, part in cases.parts(index, size):
                yield Task(work, batch, index, count, way, part, threads)

    return answer(cases, tasks, (count, size), executor=executor, run=measure, **hooks)


def answer(
    cases: Cases,
    tasks: Callable[[], Iterator[Any]],
    extent: tuple[int | None, int],
    *,
    run: Callable[[Any], Measured],
    executor: Executor | None = None,
    on_progress: Progress | None = None,
    should_stop: Stop | None = None,
) -> Sensitivity:
    """Runs the tasks that are left of a question.

    Args:
        cases: The question, and what is known of the answer.
        tasks: Makes them.
        extent: How many batches there are, None where that is not known, and how many cases a
            task has.
        run: Runs one.
        executor: As `measure_sensitivity`, as are the other arguments and errors.
    """
    count, size = extent
    each = cases.count(size)
    begun = 1 + max(cases.known.reference, default=-1) if count is None else count
    left = sum(len(cases.parts(index, size)) for index in range(begun))
    done = each * begun - left

    def add(task: Any, found: Measured) -> None:
        nonlocal done, begun
        done, begun = done + 1, begun if count is not None else max(begun, task.index + 1)
        cases.add(task.index, task.way, found, task.batch.samples)
        if on_progress is not None:
            on_progress(done, each * begun, MEASURING)

    if not left and count is not None:
        return summary(cases, True)
    go_on = "What was measured until then is in the error's `partial`: pass it as since= to go on."
    try:
        complete = run_tasks(tasks(), run, add, executor=executor, should_stop=should_stop)
    except UnfinishedError as error:  # the data
        partial = summary(cases, False)
        cause = error.__cause__ or error
        raise UnfinishedError.of(error.problem, cause, go_on, partial) from error.__cause__
    except TaskError as error:
        if isinstance(error.__cause__, QlabError):
            raise error.__cause__ from None
        problem = f"Measuring sensitivity broke off at {_where(cases, error.task)}"
        cause = error.__cause__ or error
        raise UnfinishedError.of(problem, cause, go_on, summary(cases, False)) from cause
    return summary(cases, complete)


def _where(cases: Cases, task: Any) -> str:
    """A task in words: its batch, and the first layer that it measures."""
    layers = [
        layer for (layer, _), row in cases.rows.items() if row.get(task.way, -1) in task.cases
    ]
    named = f"the layer {layers[0]!r}" if layers else "the whole network"
    return f"batch {task.index}, {named} ({task.way})"


def known_of(since: Sensitivity | None, about: tuple[object, ...]) -> Known:
    """What an earlier answer measured of these objects."""
    before = None if since is None else since._known
    return Known(about) if before is None else before.continued(about)


def summary(cases: Cases, complete: bool) -> Sensitivity:
    """The numbers over the finished batches, summed in the order of the batches."""
    counted = cases.counted()
    reference, samples = cases.reference(counted)
    labelled = bool(reference.labels.labelled)
    table = cases.table(counted, reference)
    return Sensitivity(
        table=table,
        whole=cases.networks(counted, labelled),
        metric="accuracy" if labelled else "sqnr",
        float_accuracy=reference.labels.as_dict().get("float_accuracy"),
        rank_correlation=rank_correlation(table),
        samples=samples,
        complete=complete,
        _known=cases.known,
    )


def check_question(ways: tuple[str, ...], candidates: Candidates, since: Any) -> None:
    """Raises as `measure_sensitivity` does where there is nothing to measure, or go on from."""
    checked_since(since)
    checked_ways(ways)
    if not ways or not candidates:
        raise ArgumentError(
            "Sensitivity has nothing to measure",
            expected=f"at least one configuration, and at least one way of {', '.join(WAYS)}",
            received=f"{len(candidates)} configurations, ways {tuple(ways)}",
        )


def checked_since(since: Any) -> Sensitivity | None:
    """An earlier answer, or None.

    Raises:
        DTypeError: Something else.
    """
    if since is None or isinstance(since, Sensitivity):
        return since
    raise DTypeError(
        "Not an answer to go on from",
        expected="what Lab.sensitivity returned before, or an UnfinishedError's `partial`",
        received=repr(since),
    )


def checked_ways(ways: Any) -> tuple[str, ...] | None:
    """Ways to measure sensitivity from one, several, or None.

    Raises:
        DTypeError: Neither text nor a sequence.
        UnknownNameError: There is no such way.
    """
    if ways is None:
        return None
    if not isinstance(ways, Iterable):
        raise DTypeError(
            "Not a way to measure sensitivity",
            expected=f"some of {', '.join(WAYS)}, or None for all",
            received=repr(ways),
        )
    found = (ways,) if isinstance(ways, str) else tuple(ways)
    for way in found:
        if way not in WAYS:
            raise UnknownNameError.of("way to measure sensitivity", way, WAYS)
    return found


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
