"""How sensitive each layer is to each candidate configuration: the jobs, and what a cell says."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pages.common import engine
from pages.common.engine import wait_for
from pages.common.jobs import CancelledError, Key, Parts, Progress, Work
from pages.common.loaded import Loaded
from pages.common.workspace import Choice, Workspace

if TYPE_CHECKING:
    import pandas as pd

    from qlab.analysis.sensitivity import Sensitivity
    from qlab.qconfig import QConfigMapping

Candidates = dict[str, "QConfigMapping"]
#: What the configuration in force is called among the candidates.
YOURS = "yours"
WIDTHS = ("2", "3", "4", "6", "8")
ALONE, LEFT_OUT, ESTIMATE = "on alone", "off alone", "estimate"
KINDS = (ALONE, LEFT_OUT, ESTIMATE)
SQNR, ACCURACY = "output SQNR", "accuracy"
#: A difference that hardly matters, by unit: half a bit, and a few images.
LITTLE = {"dB": 3.0, "points": 2.0}
#: The column of the engine's table behind each kind.
WAYS = {ALONE: "on", LEFT_OUT: "off", ESTIMATE: "estimate"}
#: Tasks of the exact measurement that are tried, to tell how long all of it takes.
TRIED = 2


@dataclass(frozen=True)
class Quick:
    """The estimate, and how long the exact measurement would take.

    Attributes:
        estimate: The estimate for every layer and candidate.
        begun: The exact measurement as far as it was tried; it holds the estimate.
        seconds: What the rest of it takes at most, at the pace of the first layer, which is
            followed by most of the network.
    """

    estimate: Sensitivity
    begun: Sensitivity
    seconds: float


@dataclass(frozen=True)
class Found:
    """What there is to show.

    Attributes:
        asked: The candidates.
        estimate: The estimate for each of them.
        exact: The measurement as far as it came; None where none was asked for.
        stale: Whether a candidate is an older state of the configuration in force.
    """

    asked: Candidates
    estimate: Sensitivity
    exact: Sensitivity | None
    stale: bool

    @property
    def known(self) -> Sensitivity:
        """The best there is."""
        return self.estimate if self.exact is None else self.exact


@dataclass(frozen=True)
class Cells:
    """What the heat map shows.

    Attributes:
        values: Layers in graph order × candidates; NaN where it is not known.
        title: What a number is, with unit and direction.
        unit: Of the numbers.
        low_is_sensitive: Whether the lowest number stands for the most sensitive layer.
    """

    values: pd.DataFrame
    title: str
    unit: str
    low_is_sensitive: bool

    @property
    def least_span(self) -> float:
        """Differences below this are not worth a strong colour."""
        return LITTLE[self.unit]


def with_weight_bits(loaded: Loaded, mapping: QConfigMapping, bits: int) -> QConfigMapping:
    """A configuration with weights of another width; activations stay as they are."""
    from qlab.qconfig import qconfig_of
    from qlab.ranges import MSE

    made = mapping.copy()
    for step in loaded.lab.plan(mapping).steps:
        if step.weight is None or step.requested is None or step.weight.dtype.bits == bits:
            continue
        weight = replace(step.weight.with_bits(bits), policy=MSE())
        qconfig = qconfig_of(step.requested.activation_spec, weight)
        step.address.give(made, qconfig)
    return made


def candidates(
    loaded: Loaded, preset: str, names: list[str], bits: list[str], own: QConfigMapping | None
) -> Candidates:
    """Configurations by name.

    Args:
        loaded: The model.
        preset: Whose weights get other widths.
        names: Presets.
        bits: Widths of weights.
        own: The configuration in force, if that is a candidate.
    """
    from qlab import presets

    found = {} if own is None else {YOURS: own}
    found |= {name: presets.get(name).mapping() for name in names}
    base = presets.get(preset).mapping()
    found |= {f"w{n}": with_weight_bits(loaded, base, int(n)) for n in bits}
    return found


def quick(loaded: Loaded, asked: Candidates, workspace: Workspace) -> Quick:
    """The estimate; ends this part of the page while it is being made."""

    def work(progress: Progress) -> Quick:
        from qlab.analysis.sensitivity import MEASURING

        lab, parts = loaded.lab, Parts(progress, (("preparing",), ()), (0.5, 0.5))
        estimate = lab.sensitivity(
            dict(asked),
            ways=("estimate",),
            since=progress.partial,
            on_progress=parts.report,
            should_stop=progress.should_stop,
        )
        if progress.should_stop():
            progress.partial = estimate
            raise CancelledError
        seen: list[tuple[float, int, int]] = []

        def report(done: int, total: int, label: str) -> None:
            parts.report(done, total, label)
            if label == MEASURING:
                seen.append((time.monotonic(), done, total))

        begun = lab.sensitivity(
            dict(asked),
            since=estimate,
            on_progress=report,
            should_stop=lambda: len(seen) >= TRIED or progress.should_stop(),
        )
        if not seen:  # no layer is quantized
            return Quick(estimate, begun, 0.0)
        (first, *_), (last, done, total) = seen[0], seen[-1]
        pace = (last - first) / max(len(seen) - 1, 1)
        return Quick(estimate, begun, pace * (total - done))

    key = _key("estimate", loaded, asked)
    _supersede(key, workspace)
    return wait_for(key, "Estimating sensitivities", work, workspace)


def _supersede(key: Key, workspace: Workspace) -> None:
    """Ends what the workspace asked before with other candidates; it keeps what it has."""
    for other, _ in engine.board().running(workspace.id):
        if other[0] in ("estimate", "sensitivity") and other[1:] != key[1:]:
            engine.board().release(other, workspace.id)


def exact_job(loaded: Loaded, asked: Candidates, begun: Sensitivity) -> tuple[Key, str, Work]:
    """The job that measures what was estimated, from where a trial left it."""

    def work(progress: Progress) -> Sensitivity:
        parts = Parts(progress, (("preparing",), ()), (0.1, 0.9))
        found = loaded.lab.sensitivity(
            dict(asked),
            since=progress.partial or begun,
            on_progress=parts.report,
            should_stop=progress.should_stop,
        )
        if not found.complete:
            progress.partial = found
            raise CancelledError
        return found

    return _key("sensitivity", loaded, asked), "Measuring sensitivities", work


def exact(loaded: Loaded, asked: Candidates, begun: Sensitivity, space: Workspace) -> Sensitivity:
    """The exact measurement; ends this part of the page while it is being made."""
    return wait_for(*exact_job(loaded, asked, begun), space)


def so_far(loaded: Loaded, asked: Candidates) -> Sensitivity | None:
    """What is known of the exact measurement: all of it, or what a cancelled one left."""
    key = _key("sensitivity", loaded, asked)
    job = engine.board().find(key)
    return job.result if job is not None and job.state == "done" else engine.left_behind(key)


def _key(kind: str, loaded: Loaded, asked: Candidates) -> Key:
    return (kind, *loaded.key, tuple(asked.items()))


def asked_key(choice: Choice) -> str:
    """The workspace's setting that says that a slow measurement was asked for."""
    return f"sensitivity_asked {choice.model} {choice.samples}"


def cells(found: Sensitivity, kind: str, measure: str) -> Cells:
    """One number per layer and candidate.

    Args:
        found: What was measured.
        kind: One of `KINDS`.
        measure: `SQNR` or `ACCURACY`; the estimate has the former only.
    """
    table, way = found.table, WAYS[kind]
    if measure == ACCURACY and kind != ESTIMATE:
        given = _wide(table, f"accuracy_{way}")
        if kind == ALONE:
            lost = (found.float_accuracy or 0.0) - given
            return Cells(lost, "accuracy lost [points] ↓", "points", low_is_sensitive=False)
        won = given - found.whole["accuracy"]
        return Cells(won, "accuracy won [points] ↑", "points", low_is_sensitive=False)
    given = _wide(table, f"sqnr_{way}")
    if kind == LEFT_OUT:
        won = given - found.whole["sqnr"]
        return Cells(won, "output SQNR won [dB] ↑", "dB", low_is_sensitive=False)
    return Cells(given, "output SQNR [dB] ↑", "dB", low_is_sensitive=True)


def _wide(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """A column as layers × candidates, each in its own order."""
    layers, configs = (table.index.unique(level) for level in ("layer", "config"))
    wide: pd.DataFrame = table[[column]].unstack()[column]  # pyright: ignore[reportAssignmentType]
    return wide.reindex(index=layers, columns=configs)
