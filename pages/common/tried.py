"""The workspace's runs as tables and words: what was tried, of which model, and what differs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from pages.common.format import count, number, percent, size
from pages.common.glossary import define
from pages.common.recipes import Chain, in_words
from pages.common.workspace import Choice, Workspace

if TYPE_CHECKING:
    from streamlit.elements.lib.column_types import ColumnConfig

    from qlab import Lab
    from qlab.qconfig import QConfigMapping
    from qlab.runs import Run

OTHER = "another model"


@dataclass(frozen=True)
class Metric:
    """A number of a run that people compare.

    Attributes:
        name: Its name in `Run.metrics`.
        title: With its direction.
        term: Of the glossary.
        unit: Behind the number; bytes and shares have their own.
    """

    name: str
    title: str
    term: str
    unit: str = ""

    def words(self, value: float | None) -> str:
        """A value with its unit."""
        if value is None:
            return "n/a"
        if self.name == "quantized_bytes":
            return size(value)
        if self.name == "integer_share":
            return percent(value)
        if self.name == "samples":
            return count(value)
        return number(value, self.unit)


METRICS = (
    Metric("accuracy", "Accuracy ↑", "accuracy", "%"),
    Metric("sqnr", "Output SQNR ↑", "sqnr", "dB"),
    Metric("top1_agreement", "Same class ↑", "top1 agreement", "%"),
    Metric("quantized_bytes", "Size ↓", "size"),
    Metric("integer_share", "Integer ↑", "integer"),
)

#: What the columns of two runs side by side hold.
SIDES = {
    "A": "The earlier run.",
    "B": "The later run.",
    "B − A": "What the later run changes; an arrow in a row's name says which way is better.",
}


def note_model(space: Workspace, subject: str, model: str) -> None:
    """Remembers what model a subject is, since a run tells the subject alone."""
    if space.settings.get(_setting(subject)) != model:
        space.set(_setting(subject), model)


def model_of(space: Workspace, run: Run) -> str:
    """The model that a run measured."""
    return str(space.settings.get(_setting(run.subject), OTHER))


def chain_of(space: Workspace, run: Run) -> Chain:
    """How the model that a run measured was repaired; empty for an original one."""
    found = space.origins.get(run.subject)
    return () if found is None else found.chain


def origin_of(space: Workspace, run: Run) -> str:
    """Fingerprint of the original model of a run and its data; equal ones can be compared."""
    found = space.origins.get(run.subject)
    return run.subject if found is None else found.subject


def in_force(space: Workspace, choice: Choice, run: Run) -> bool:
    """Whether a run is of the model and the configuration in use."""
    same = model_of(space, run) == choice.model and chain_of(space, run) == space.chain(choice)
    return same and run.mapping == space.mapping(choice)


def _setting(subject: str) -> str:
    return f"subject {subject}"


def table(space: Workspace, runs: Sequence[Run]) -> pd.DataFrame:
    """One row per run, indexed by its number, in words."""
    names = {run.id: run.name for run in runs}
    rows = [
        {
            "Name": run.name,
            "Model": _model(space, run),
            "Measured": run.created,
            **{metric.title: metric.words(run.metrics.get(metric.name)) for metric in METRICS},
            "Calibrated on": run.calibration or "not kept",
            "Made from": names.get(run.parent, "") if run.parent is not None else "",
        }
        for run in runs
    ]
    columns = ["Name", "Model", "Measured", *(m.title for m in METRICS), "Calibrated on"]
    columns.append("Made from")
    return pd.DataFrame(rows, index=pd.Index([run.id for run in runs], name="run"), columns=columns)


def _model(space: Workspace, run: Run) -> str:
    chain = chain_of(space, run)
    return model_of(space, run) + (f", repaired: {in_words(chain)}" if chain else "")


def sides(columns: Iterable[str], told: str, unit: str = "") -> dict[str, ColumnConfig]:
    """Titles and help of three columns: of one run, of the other, and what changes.

    Args:
        columns: Their names in a table.
        told: What the numbers are.
        unit: Behind the titles, with the direction.
    """
    return {
        column: {"label": side + unit, "help": f"{meaning} {told}"}
        for column, (side, meaning) in zip(columns, SIDES.items(), strict=True)
    }


def defined() -> str:
    """What each metric means, for the help of columns that hold all of them."""
    return " ".join(f"**{metric.title}:** {define(metric.term)}" for metric in METRICS)


def metrics_of(a: Run, b: Run) -> pd.DataFrame:
    """The metrics of two runs side by side, in words, and what changes from a to b."""
    rows = {}
    for metric in METRICS:
        before, after = (run.metrics.get(metric.name) for run in (a, b))
        if before is None and after is None:
            continue
        rows[metric.title] = {
            "A": metric.words(before),
            "B": metric.words(after),
            "B − A": _change(metric, before, after),
        }
    return pd.DataFrame.from_dict(rows, orient="index", columns=list(SIDES))


def _change(metric: Metric, before: float | None, after: float | None) -> str:
    if before is None or after is None:
        return "n/a"
    change = 0.0 if before == after else after - before
    if metric.name == "quantized_bytes":
        words = size(abs(change))
        return words if change == 0 else f"{'+' if change > 0 else '−'}{words}"
    scaled, unit = (
        (100 * change, "points")
        if metric.name == "integer_share"
        else (
            change,
            "points" if metric.unit == "%" else metric.unit,
        )
    )
    return f"{'+' if scaled > 0 else ''}{number(scaled, unit)}"


def repairs(space: Workspace, a: Run, b: Run) -> list[str]:
    """How two runs' models were repaired, a sentence for each where they differ."""
    chains = [chain_of(space, run) for run in (a, b)]
    if chains[0] == chains[1]:
        return []
    told = [f"repaired by {in_words(chain)}" if chain else "the original" for chain in chains]
    return [f"the model of {letter}: {words}" for letter, words in zip("AB", told, strict=True)]


def differences(lab: Lab, a: QConfigMapping, b: QConfigMapping) -> list[str]:
    """How two configurations differ, one sentence per kind of change, layers together."""
    frames = [lab.plan(mapping).to_frame() for mapping in (a, b)]
    found: dict[str, list[str]] = {}
    for name in frames[0].index:
        for part in ("weight", "output", "execution"):
            before, after = (str(frame.loc[name, part]) for frame in frames)
            if before != after:
                what = "runs as" if part == "execution" else part
                found.setdefault(f"{what} {before} → {after}", []).append(str(name))
    return [f"{change}: {', '.join(names)}" for change, names in found.items()]
