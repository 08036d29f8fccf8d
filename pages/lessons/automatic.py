"""The automatic repair explained: at work on a sample, with every step that it took and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
import streamlit as st

from pages.common import automatic_shown, messages
from pages.common.engine import wait_for
from pages.common.format import number
from pages.common.frame import View
from pages.common.glossary import define
from pages.common.jobs import CancelledError, Progress
from pages.common.theme import THEME
from pages.figures.layout import CONFIG
from pages.figures.versus import versus
from pages.lessons.worked import lines

if TYPE_CHECKING:
    from qlab.algorithms import AutoRepair

TITLE = "Automatic repair"
IDEA = (
    "Which remedy helps depends on what is wrong. The automatic repair measures the network, looks "
    "for the causes of its layers' errors, and tries what fits them, the cheapest first. What "
    "brings the goal nearer is kept and the next cause is looked for; what does not is taken back. "
    "It ends at the goal, or says what the best was that it found."
)
MODEL, PRESET = "depthwise", "int8-per-tensor"
GOAL = {"accuracy": 97.5, "sqnr": 30.0}
KEY = ("lesson", "automatic")


def draw(view: View) -> None:
    """The search on its sample: what it bought, its log, what each attempt measured."""
    st.html(lines("measure → causes → cheapest remedy that fits → nearer the goal? keep → again"))
    with messages.shown("automatic"):
        result = _at_work(view)
        st.markdown(
            f"On **{MODEL}** under *{PRESET}*, computed by this server in "
            f"{number(result.seconds, 's')}. The same in Python:"
        )
        st.code(f'lab.repair("{PRESET}", {GOAL})', wrap_lines=True)
        automatic_shown.bought(result)
        st.subheader("What was tried", anchor=False)
        st.dataframe(attempts(result), key="attempts", hide_index=True)
        st.subheader("Every layer, before and after", anchor=False, help=define("local"))
        chart = versus(layers(result), "sqnr_local", ("before", "after"))
        st.plotly_chart(chart, key="versus_automatic", theme=THEME, config=CONFIG)


def _at_work(view: View) -> AutoRepair:
    """What is found for the sample; ends this part of the page while it is looked for."""

    def work(progress: Progress) -> AutoRepair:
        import sample_models
        from qlab import Lab

        progress.report(0, 0, "reading the sample")
        sample = sample_models.load(MODEL)
        lab = Lab(sample.model, sample.example_inputs, sample.calibration(128), sample.evaluation())
        found = lab.repair(
            PRESET, GOAL, on_progress=progress.report, should_stop=progress.should_stop
        )
        if not found.complete:
            raise CancelledError
        return found

    return wait_for(KEY, "Looking for a repair", work, view.workspace, part="lesson_automatic")


def attempts(result: AutoRepair) -> pd.DataFrame:
    """What each remedy did to the metrics that count, and whether it was kept."""
    rows = []
    for attempt in result.attempts:
        row = {"Remedy": attempt.title}
        for name in GOAL:
            title, unit, *_ = automatic_shown.METRICS[name]
            row[f"{title} [{unit}] ↑"] = "not measured"
            if attempt.measured is not None:
                a, b = (report.output[name] for report in attempt.measured)
                row[f"{title} [{unit}] ↑"] = f"{number(a)} → {number(b)}"
        row["Time"] = number(attempt.seconds, "s")
        row["Kept"] = "yes" if attempt.kept else "no"
        rows.append(row)
    return pd.DataFrame(rows)


def layers(result: AutoRepair) -> pd.DataFrame:
    """Local SQNR [dB] of each layer at the start, `_a`, and at the end, `_b`."""
    first, last = result.steps[0].measured, result.steps[-1].measured
    assert first is not None and last is not None
    table = {"a": first[0].layers["sqnr_local"], "b": last[1].layers["sqnr_local"]}
    return pd.DataFrame({f"sqnr_local_{run}": values for run, values in table.items()})
