"""Automatic repair on *Overview*: asked for, under way, found, applied, undone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st

from pages.common import automatic, engine, messages, models, repairs_shown, training_shown
from pages.common.automatic import Found
from pages.common.engine import wait_for
from pages.common.format import count, escape, number
from pages.common.frame import View
from pages.common.glossary import define
from pages.common.jobs import Key
from pages.common.loaded import Loaded
from pages.common.recipes import Goal

if TYPE_CHECKING:
    from qlab.algorithms import AutoRepair
    from qlab.analysis.report import Report

#: By metric: its title, its unit, its term in the glossary and the largest sensible goal.
METRICS = {
    "accuracy": ("Accuracy", "%", "accuracy", 100.0),
    "top1_agreement": ("Same class as the float network", "%", "top1 agreement", 100.0),
    "sqnr": ("Output SQNR", "dB", "sqnr", 120.0),
}
#: Seconds to look, in words.
TIMES = {"30 seconds": 30, "1 minute": 60, "3 minutes": 180, "10 minutes": 600}
#: Loss of accuracy in points that a person will want to mend.
MUCH = 1.0


def draw(view: View, loaded: Loaded, report: Report) -> None:
    """Draws what was applied, what was found, and where to ask for a repair.

    Args:
        view: What the page was given.
        loaded: The model in use.
        report: What is on screen of it.
    """
    _applied(view)
    goal = view.workspace.trial(view.choice)
    if isinstance(goal, Goal):
        with st.container(border=True, key="automatic"), messages.shown("automatic"):
            _search(view, loaded, goal)
        return
    _offer(view, loaded, report)
    if training_shown.asked(view):
        repairs_shown.panel(view, loaded)


def _offer(view: View, loaded: Loaded, report: Report) -> None:
    metrics = _metrics(loaded, report)
    with st.container(horizontal=True, vertical_alignment="center", key="automatic_offer"):
        with st.popover(
            "Repair automatically…",
            icon=":material/auto_fix_high:",
            disabled=not loaded.lab.traced,
            help=define("automatic repair")
            if loaded.lab.traced
            else "This model could not be traced, and repairs need its graph.",
            width="content",
        ):
            _form(view, report, metrics)
        training_shown.offer(view, loaded)
        if lost := _lost(report, metrics):
            st.markdown(lost, width="content")


def _metrics(loaded: Loaded, report: Report) -> list[str]:
    """What can be asked for: accuracy only where it means something."""
    trained = loaded.sample.trained and not models.noise(loaded.sample)
    return [m for m in METRICS if m in report.output and (m != "accuracy" or trained)]


def _lost(report: Report, metrics: list[str]) -> str:
    if "accuracy" not in metrics:
        return ""
    lost = report.output["float_accuracy"] - report.output["accuracy"]
    return f"Quantization costs **{number(lost)} points** of accuracy." if lost >= MUCH else ""


def _form(view: View, report: Report, metrics: list[str]) -> None:
    """Goal and limits; looking for a repair starts with a click."""
    metric = st.selectbox(
        "Goal",
        metrics,
        format_func=lambda name: METRICS[name][0],
        key="goal_metric",
        help=define("goal"),
    )
    title, unit, _, most = METRICS[metric]
    now = float(report.output[metric])
    wanted = st.number_input(
        f"At least [{unit}]",
        min_value=-120.0 if unit == "dB" else 0.0,
        max_value=most,
        value=min(_usual(report, metric), most),
        step=0.5,
        format="%.1f",
        key=f"goal_{metric}_{view.choice.model}_{view.choice.preset}",
    )
    best = report.output["float_accuracy"] if metric == "accuracy" else None
    beside = "" if best is None else f"; the float network has {number(best, unit)}"
    st.caption(f"Now {number(now, unit)}{beside}.")
    time = st.selectbox(
        "Time to look", list(TIMES), index=1, key="goal_time", help=define("time to look")
    )
    keep_size = st.checkbox("No layer in float", key="goal_keep_size", help=define("keep the size"))
    goal = Goal(view.mapping, ((metric, float(wanted)),), float(TIMES[time]), keep_size)
    reached = now >= wanted
    st.button(
        f"{title} is there already" if reached else "Look for a repair",
        key="seek",
        type="primary",
        disabled=reached,
        on_click=view.workspace.try_repair,
        args=(view.choice, goal),
        help="Nothing is applied before you say so.",
    )


def _usual(report: Report, metric: str) -> float:
    """A goal to begin with: half a point below float, or the error halved."""
    if metric == "accuracy":
        return round(report.output["float_accuracy"] - 0.5, 1)
    return 99.5 if metric == "top1_agreement" else round(report.output["sqnr"] + 6, 1)


def _search(view: View, loaded: Loaded, goal: Goal) -> None:
    wanted = " and ".join(
        f"{METRICS[name][0]} at least {number(value, METRICS[name][1])}"
        for name, value in goal.least
    )
    st.markdown(f"**Automatic repair** · {wanted}")
    key, title, work = automatic.seeking(loaded, goal)
    found, stopped = None, key in view.workspace.declined
    try:
        if not stopped:
            found = wait_for(key, title, work, view.workspace, part="automatic")
        elif found := engine.left_behind(key):
            st.info("Stopped. This is the best until then.")
        else:
            st.info("Stopped. Nothing was found until then.")
        if found is not None:
            bought(found.result)
    finally:
        with st.container(horizontal=True):
            _decide(view, key, found, stopped)


def _decide(view: View, key: Key, found: Found | None, stopped: bool) -> None:
    """What a person may do with what was found, and with a search that was stopped."""
    if found is not None:
        steps = len(found.result.steps)
        st.button(
            f"Apply {_steps(steps)}" if steps else "Nothing to apply",
            type="primary",
            key="apply_automatic",
            disabled=not steps,
            on_click=automatic.apply,
            args=(found, view.choice, view.workspace),
            help="Takes the repaired network into use on all pages, as changes that can be undone "
            "one by one.",
        )
    if stopped:
        again = view.workspace.declined.discard
        st.button("Look again", key="resume_automatic", on_click=again, args=(key,))
    st.button(
        "Discard",
        key="discard_automatic",
        on_click=_discard,
        args=(view, key),
        help="Nothing was applied: the model is as it was.",
    )


def _discard(view: View, key: Key) -> None:
    engine.board().release(key, view.workspace.id)
    view.workspace.declined.discard(key)
    view.workspace.try_repair(view.choice, None)


def bought(result: AutoRepair) -> None:
    """Draws what an automatic repair bought, and why each step was taken or not."""
    names = dict.fromkeys([*result.target.least, "sqnr"])
    rows = []
    for name, (title, unit, term, _) in METRICS.items():
        if name in names:
            title = f"Network {title[0].lower()}{title[1:]} ↑"
            rows.append((title, result.before[name], result.after[name], unit, term))
    repairs_shown.changes(rows)
    _explanation(result.log)


def _explanation(log: tuple[str, ...]) -> None:
    """What was found, tried and decided, as a list."""
    st.markdown("\n".join(f"{place}. {escape(line)}" for place, line in enumerate(log, 1)))


def _steps(steps: int) -> str:
    return "1 step" if steps == 1 else f"{count(steps)} steps"


def _applied(view: View) -> None:
    """The automatic repair in force: what it did and why, and the way back."""
    found = view.workspace.automatic.get((view.choice.model, view.choice.preset))
    if found is None:
        return
    with st.container(border=True, key="automatic_applied"):
        with st.container(horizontal=True, vertical_alignment="center"):
            st.markdown(f"Repaired automatically in {_steps(found.steps)}.", width="content")
            st.button(
                "Undo the automatic repair",
                key="undo_automatic",
                icon=":material/undo:",
                on_click=view.workspace.undo_automatic,
                args=(view.choice,),
                help="Back to the model and the configuration before it. *Undo* in the sidebar "
                "takes back one step at a time.",
            )
        with st.expander("What was found, tried and kept"):
            _explanation(found.log)
