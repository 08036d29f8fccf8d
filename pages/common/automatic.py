"""Automatic repair: the job that looks for one, and what applying it does."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pages.common import engine, repairs, tried
from pages.common.jobs import CancelledError, Key, Progress, Work
from pages.common.loaded import Loaded
from pages.common.recipes import Goal, Recipe
from pages.common.repairs import Measured
from pages.common.workspace import Choice, Workspace

if TYPE_CHECKING:
    from qlab.algorithms import AutoRepair

KIND = "automatic"


@dataclass(frozen=True)
class Found:
    """What an automatic repair found; nothing is applied by it.

    Attributes:
        base: The model that it was to repair.
        result: What was found, tried and decided.
        models: The model after each of the result's steps.
    """

    base: Loaded
    result: AutoRepair
    models: tuple[Loaded, ...]


def goal_key(base: Loaded, goal: Goal) -> Key:
    """Names the search on the board."""
    return (KIND, *base.key, goal)


def seeking(base: Loaded, goal: Goal) -> tuple[Key, str, Work]:
    """The job that looks for a repair. Where it is cancelled it leaves the best until then."""

    def work(progress: Progress) -> Found:
        began, progress.timed = time.monotonic(), True

        def report(done: int, total: int, label: str) -> None:
            spent = min(time.monotonic() - began, goal.seconds)
            counted = f", {done} of {total}" if total else ""
            progress.report(int(spent), int(goal.seconds), f"{label}{counted}")

        result = base.lab.repair(
            goal.mapping,
            dict(goal.least),
            max_seconds=goal.seconds,
            keep_size=goal.keep_size,
            on_progress=report,
            should_stop=progress.should_stop,
        )
        found = Found(base, result, _models(base, result)) if result.before else None
        if result.complete and found is not None:
            return found
        progress.partial = found
        raise CancelledError

    return goal_key(base, goal), "Looking for a repair", work


def _models(base: Loaded, result: AutoRepair) -> tuple[Loaded, ...]:
    """The model after each step; one that only changes the configuration leaves it as it was."""
    now, asked, found = base, result.asked, []
    for step in result.steps:
        assert step.mapping is not None
        if step.repaired is not None:
            lab = now.lab.apply(step.repaired)
            lab.calibrate()
            report = step.repaired.report
            recipe = Recipe(
                step.remedy,
                asked,
                tuple(map(str, report.layers.index)),
                (("seed", report.settings["seed"]),),
                step.title,
                lab.subject,
            )
            now = replace(now, steps={}, lab=lab, chain=(*now.chain, recipe), made=step.repaired)
        found.append(now)
        asked = step.mapping
    return tuple(found)


def apply(found: Found, choice: Choice, workspace: Workspace) -> None:
    """Takes what was found into use: each step is a change that can be undone, and a run."""
    place, before = workspace.changes(choice), found.base
    asked = found.result.asked
    for step, model in zip(found.result.steps, found.models, strict=True):
        assert step.mapping is not None and step.measured is not None
        if step.repaired is None:
            tried.note_model(workspace, model.lab.subject, model.called)
            states = zip((before, model), (asked, step.mapping), step.measured, strict=True)
            earlier, later = (Measured(m.lab, mapping, report) for m, mapping, report in states)
            repairs.record_step(workspace, step.title, earlier, later, step.seconds)
            workspace.configure(choice, step.mapping, [entry.name for entry in model.lab.layers])
        else:
            key = repairs.repaired_key(choice, model.chain, workspace)
            engine.board().submit(key, step.title, _as_it_is(model), workspace.id)
            repairs.record(model, step.repaired, workspace)
            workspace.repair(choice, model.chain[-1], step.mapping)
        before, asked = model, step.mapping
    workspace.try_repair(choice, None)
    workspace.note_automatic(choice, place, found.result.log)
    workspace.refresh(choice)


def _as_it_is(model: Loaded) -> Work:
    """Work that is done already: what the pages wait for is there."""
    return lambda progress: model
