"""Repaired models: the jobs that make them, again after a restart, and what is kept of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pages.common import engine, training, tried
from pages.common.collecting import loaded_key, loading
from pages.common.engine import wait_for
from pages.common.jobs import CancelledError, Key, Parts, Progress, Work
from pages.common.loaded import Loaded
from pages.common.recipes import Chain, Origin, Recipe
from pages.common.store import store
from pages.common.workspace import Choice, Workspace

if TYPE_CHECKING:
    from qlab import Lab
    from qlab.algorithms import Repaired, RepairReport
    from qlab.analysis.report import Report
    from qlab.qconfig import QConfigMapping

KIND = "repaired"


@dataclass(frozen=True)
class Consent:
    """What an algorithm may do only if the person agrees, since it changes the float function.

    Attributes:
        setting: The algorithm's setting that allows it.
        value: What allows it.
        sign: What the reasons in a report name where it would help.
        question: What is asked.
        meaning: What agreeing means.
    """

    setting: str
    value: str
    sign: str
    question: str
    meaning: str


#: By algorithm.
CONSENTS = {
    "equalize": Consent(
        "relu6",
        "replace",
        "ReLU6",
        "Replace ReLU6 by ReLU",
        "ReLU6 holds some channels back. ReLU in its place lets them be balanced, but it is "
        "another function: the float network itself changes, and may lose accuracy.",
    )
}


def in_use(choice: Choice, workspace: Workspace) -> Loaded:
    """The model in use, repaired or not; ends the page's run while it is being made.

    A repaired model that the server does not hold any more is made again from its recipe.
    """
    chain = workspace.chain(choice)
    held = engine.board().find(repaired_key(choice, chain, workspace)) if chain else None
    if held is not None and held.state == "done":
        return held.result
    found = wait_for(*loading(choice, workspace), workspace)
    for recipe in chain:
        found = wait_for(*repairing(found, recipe, choice, workspace), workspace)
    return found


def repaired_key(choice: Choice, chain: Chain, workspace: Workspace) -> Key:
    """Names a repaired model on the board."""
    return (KIND, *loaded_key(choice, workspace)[1:], chain)


def repairing(
    base: Loaded, recipe: Recipe, choice: Choice, workspace: Workspace
) -> tuple[Key, str, Work]:
    """The job that repairs a model and measures what that buys; nothing is applied by it."""

    def work(progress: Progress) -> Loaded:
        parts = parts_of(progress)
        made = _made(base, recipe, parts, progress)
        if not made.report.complete:
            raise CancelledError
        lab = base.lab.apply(made)
        lab.calibrate(parts.report, progress.should_stop)
        if progress.should_stop():
            raise CancelledError
        return replace(base, steps={}, lab=lab, chain=(*base.chain, recipe), made=made)

    title = f"{recipe.title}, again from its recipe" if recipe.subject else recipe.title
    return repaired_key(choice, (*base.chain, recipe), workspace), title, work


def parts_of(progress: Progress) -> Parts:
    """The parts of a repair: measuring before, the algorithm, measuring after."""
    measuring = ("comparing", "calibrating")
    return Parts(progress, (measuring, (), measuring), (0.2, 0.6, 0.2))


def _made(base: Loaded, recipe: Recipe, parts: Parts, progress: Progress) -> Repaired:
    asked: Any = {"on_progress": parts.report, "should_stop": progress.should_stop}
    asked |= dict(recipe.settings)
    if recipe.algorithm == training.NAME:
        data = training.batches(base)
        return base.lab.finetune(recipe.mapping, data, layers=recipe.layers, **asked)
    return base.lab.repair_with(recipe.algorithm, recipe.mapping, recipe.layers, **asked)


def again(found: Loaded) -> bool | None:
    """Whether a model that was made again from its recipe is the very same.

    Returns:
        None where it was not made again, or where it cannot be told.
    """
    wanted = found.chain[-1].subject if found.chain else ""
    return found.lab.subject == wanted if wanted else None


def apply(tried_one: Loaded, choice: Choice, workspace: Workspace) -> None:
    """Takes a repaired model into use; what was measured becomes two runs, one the other's child.

    Args:
        tried_one: What `repairing` made.
        choice: Model and preset.
        workspace: Whose.
    """
    made, lab, recipe = tried_one.made, tried_one.lab, tried_one.chain[-1]
    assert made is not None and lab.before is not None
    record(tried_one, made, workspace)
    signed = replace(recipe, subject=lab.subject)
    workspace.repair(choice, signed, made.mapping)


def record(tried_one: Loaded, made: Repaired, workspace: Workspace) -> None:
    """Keeps what was measured before and after a repair among the workspace's runs."""
    lab = tried_one.lab
    if lab.before is None or made.measured is None:
        return
    workspace.note_origin(lab.subject, Origin(lab.original.subject, tried_one.chain))
    for subject in (lab.subject, lab.before.subject):
        tried.note_model(workspace, subject, tried_one.called)
    before = Measured(lab.before, made.asked, made.measured[0])
    after = Measured(lab, made.mapping, made.measured[1])
    record_step(workspace, made.report.title, before, after, made.report.seconds)


@dataclass(frozen=True)
class Measured:
    """A comparison that was made on the way.

    Attributes:
        lab: Of which model.
        mapping: Under which configuration.
        report: What came out.
    """

    lab: Lab
    mapping: QConfigMapping
    report: Report


def record_step(
    workspace: Workspace, title: str, before: Measured, after: Measured, seconds: float
) -> None:
    """Keeps two comparisons as runs, the later one the child of the earlier and of that title."""
    from qlab.runs import record_report

    runs, subject = store().runs(workspace), before.lab.subject
    known = (run for run in runs.of(subject) if run.mapping == before.mapping)
    parent = next(known, None) or record_report(
        runs,
        before.mapping,
        before.report,
        subject=subject,
        seconds=0.0,
        calibration=after.lab.calibrated,
    )
    record_report(
        runs,
        after.mapping,
        after.report,
        subject=after.lab.subject,
        seconds=seconds,
        name=title,
        parent=None if parent is None else parent.id,
        calibration=after.lab.calibrated,
    )


def recipe_for(
    algorithm: str,
    mapping: QConfigMapping,
    layers: tuple[str, ...] | None = None,
    **settings: object,
) -> Recipe:
    """How to repair a model with an algorithm; settings that are not named have their defaults."""
    from qlab.algorithms import ALGORITHMS

    title = ALGORITHMS[algorithm].title
    return Recipe(algorithm, mapping, layers, tuple(sorted(settings.items())), title)


def held_back(report: RepairReport) -> Consent | None:
    """What the person may agree to, where that would let a repair do more."""
    consent = CONSENTS.get(report.algorithm)
    if consent is None or report.settings.get(consent.setting) == consent.value:
        return None
    reasons = report.layers["reason"]
    return consent if any(consent.sign in str(reason) for reason in reasons) else None
