"""How a repair is run: checked, timed, measured before and after, and stopped without a trace."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
import torch
from torch import fx

from qlab.algorithms.base import (
    Algorithm,
    Change,
    Hooks,
    Outcome,
    Repaired,
    RepairReport,
    StoppedError,
    Subject,
    names_given,
    settings_dict,
)
from qlab.algorithms.memory import MemoryWatch
from qlab.analysis.report import Report
from qlab.errors import UnknownNameError
from qlab.execution import full_precision
from qlab.graph.plan import WITH_WEIGHT
from qlab.qconfig import QConfigMapping

_COLUMNS = ("sqnr_local", "sqnr_accumulated")


@torch.inference_mode(False)
@torch.enable_grad()  # a caller may have turned gradients off
def run_repair(
    algorithm: Algorithm,
    subject: Subject,
    mapping: QConfigMapping,
    layers: Sequence[str] | str | None = None,
    *,
    chosen: Mapping[str, Any] | None = None,
    before: Report | None = None,
    hooks: Hooks | None = None,
) -> Repaired:
    """Runs one algorithm and measures what it bought; the subject stays as it is.

    Args:
        algorithm: A row of `qlab.algorithms.ALGORITHMS`.
        subject: The model and its data.
        mapping: The configuration to repair it for.
        layers: The layers to repair; all that have a quantized weight if not given.
        chosen: Settings by name; the others have their defaults.
        before: What was measured of ``mapping`` already; measured if not given.
        hooks: For progress and to stop.

    Raises:
        UnknownNameError: No such layer.
        ArgumentError: No such setting.
        UnsupportedError: The model has no graph; says why.
    """
    hooks, study = hooks or Hooks(), subject.study
    base = study.whole_graph(algorithm.title)
    settings = algorithm.settings_from(chosen or {})
    names, named = layers_of(subject, mapping, layers), settings_dict(settings)
    watch, began = MemoryWatch(), time.monotonic()
    try:
        ensure_calibrated(subject, hooks)
        before = before or measured_report(subject, mapping, hooks)
        began = time.monotonic()
        with watch, full_precision():  # learning and searching run networks of their own
            change = algorithm.run(subject, mapping, names, settings, hooks)
        if not names:
            change = replace(change, notes=(*change.notes, _why_none(subject, mapping)))
        seconds = time.monotonic() - began
        after_study = study.repaired(change.graph, change.reference)
        after_subject = Subject(after_study, subject.evaluation)
        ensure_calibrated(after_subject, hooks)
        after = measured_report(after_subject, change.mapping, hooks)
    except StoppedError:
        told = {"seconds": time.monotonic() - began, "peak_bytes": watch.peak_bytes}
        report = _report(algorithm, named, _nothing(base, mapping, names), None, told)
        return Repaired(base, mapping, report, None, base, mapping)
    told = {"seconds": seconds, "peak_bytes": watch.peak_bytes, "asked": _as_json(mapping)}
    report = _report(algorithm, named, change, (before, after), told)
    made = Repaired(change.graph, change.mapping, report, change.reference, base, mapping)
    return replace(made, measured=(before, after), calibration=after_study.calibration)


def _nothing(base: fx.GraphModule, mapping: QConfigMapping, names: tuple[str, ...]) -> Change:
    return Change(base, mapping, tuple(Outcome(n, False, "stopped before") for n in names))


def layers_of(
    subject: Subject, mapping: QConfigMapping, layers: Sequence[str] | None
) -> tuple[str, ...]:
    """The layers to repair, in graph order; without a choice all that have a quantized weight.

    Raises:
        UnknownNameError: No such layer.
        DTypeError: Not names.
    """
    steps = subject.study.plan(mapping).steps
    if layers is None:
        return tuple(step.name for step in steps if step.weight is not None)
    layers = names_given("layers", (layers,) if isinstance(layers, str) else layers)
    known = [step.name for step in steps]
    for name in layers:
        if name not in known:
            raise UnknownNameError.of("layer", name, known)
    return tuple(name for name in known if name in layers)


def _why_none(subject: Subject, mapping: QConfigMapping) -> str:
    """Why there was no layer to repair."""
    steps = subject.study.plan(mapping).steps
    if any(step.weight is not None for step in steps):
        return "No layer was named."
    why = dict.fromkeys(f"{s.name}: {s.reason}" for s in steps if s.row in WITH_WEIGHT)
    return "; ".join(["No layer has a quantized weight", *list(why)[:3]]) + "."


def ensure_calibrated(subject: Subject, hooks: Hooks) -> None:
    """Has the float model see its data where that has not happened.

    Raises:
        StoppedError: It was asked to stop.
    """
    study = subject.study
    if study.calibration is None or not study.calibration.complete:
        asked = {"on_progress": hooks.on_progress, "should_stop": hooks.should_stop}
        if not study.calibrate(**asked).complete:
            raise StoppedError


def measured_report(subject: Subject, mapping: QConfigMapping, hooks: Hooks) -> Report:
    """What a configuration costs on the evaluation data.

    Raises:
        StoppedError: It was asked to stop.
    """
    asked = {"on_progress": hooks.on_progress, "should_stop": hooks.should_stop}
    report = subject.study.compare(mapping, subject.evaluation, **asked)
    if not report.complete:
        raise StoppedError
    return report


def _as_json(mapping: QConfigMapping) -> str | None:
    """A configuration's JSON; None where it holds something unregistered."""
    try:
        return mapping.to_json()
    except UnknownNameError:
        return None


def _report(
    algorithm: Algorithm,
    settings: dict[str, Any],
    change: Change,
    measured: tuple[Report, Report] | None,
    told: dict[str, Any],
) -> RepairReport:
    before, after = measured or (None, None)
    return RepairReport(
        algorithm=algorithm.name,
        title=algorithm.title,
        paper=algorithm.paper,
        settings=settings,
        before={} if before is None else dict(before.output),
        after={} if after is None else dict(after.output),
        layers=_table(change.outcomes, before, after),
        samples=change.samples,
        notes=change.notes,
        complete=measured is not None,
        **told,
    )


def _table(
    outcomes: Sequence[Outcome], before: Report | None, after: Report | None
) -> pd.DataFrame:
    table = pd.DataFrame(
        {
            "changed": pd.array([o.changed for o in outcomes], dtype=bool),
            "reason": [o.reason for o in outcomes],
        },
        index=pd.Index([o.layer for o in outcomes], name="layer", dtype="str"),
    )
    numbers = list(dict.fromkeys(name for o in outcomes for name in o.numbers))
    for name in numbers:
        table[name] = [float(o.numbers.get(name, float("nan"))) for o in outcomes]
    for column in _COLUMNS:
        for when, report in (("before", before), ("after", after)):
            if report is not None:
                table[f"{column}_{when}"] = report.layers[column].reindex(table.index)
    return table
