"""Mixed precision on *Sensitivity*: the front under a budget, and a click that takes a point."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
import streamlit as st

from pages.common import address, messages, searches, selection
from pages.common.format import count, number, size
from pages.common.frame import View
from pages.common.glossary import define
from pages.common.loaded import Loaded, compare
from pages.common.searches import BUDGETS, NEAREST, Question, Searched
from pages.common.sensitivities import ACCURACY, SQNR
from pages.common.theme import THEME
from pages.figures.layout import CONFIG
from pages.figures.pareto import Anchor, pareto
from pages.figures.sensitivity import agreement

if TYPE_CHECKING:
    from qlab.analysis.report import Report
    from qlab.analysis.search import Verified

KIND = "search"
MEASURES = {"size": "size", "bit_ops": "bit operations"}
ASKED, VERIFY = "search_asked", "search_verify"
POINT = "search_point"


def draw(view: View, loaded: Loaded) -> None:
    """Draws the question, the front and what was verified of it."""
    _ask(view)
    asked = _question(view, loaded)
    if asked is None:
        st.info(
            "Name a budget and search: qlab measures how sensitive every layer is to every width, "
            "then solves exactly which layer gets how many bits."
        )
        return
    found = searches.search(loaded, asked, view.workspace)
    base = compare(loaded, asked.base, view.workspace).report
    verified = None
    if view.workspace.settings.get(VERIFY) == _words(asked):
        with messages.shown("verify"):
            searches.verify(loaded, asked, found, view.workspace)
        verified = searches.verified_so_far(asked)
    _front(view, found, base, verified)
    _point(view, found, verified)
    _verified(view, asked, verified)


def _ask(view: View) -> None:
    space = view.workspace
    slider, by, button = st.columns([4, 3, 2], vertical_alignment="bottom")
    address.keep(space, "budget", 60, BUDGETS)
    slider.select_slider(
        "Budget [%]",
        BUDGETS,
        key="budget",
        persist_state="session",
        help=define("budget"),
    )
    address.keep(space, "search_by", "size", MEASURES)
    by.segmented_control(
        "Of its",
        list(MEASURES),
        format_func=lambda measure: MEASURES[measure],
        required=True,
        key="search_by",
        persist_state="session",
        help=define("bit operations"),
    )
    button.button(
        "Search", type="primary", key="search", on_click=_search, args=(view,), width="stretch"
    )


def _search(view: View) -> None:
    """Asks; another budget keeps the configuration that the search before began with."""
    base, space = view.workspace.shown.get((KIND, view.choice)), view.workspace
    taken = base is not None and space.settings.get(f"{KIND}_taken") == view.workspace.generation
    if not taken:
        space.refresh(view.choice, KIND)
    space.set(ASKED, f"{st.session_state.search_by} {st.session_state.budget}")


def _question(view: View, loaded: Loaded) -> Question | None:
    base = view.workspace.shown.get((KIND, view.choice))
    by, _, percent = str(view.workspace.settings.get(ASKED, "")).partition(" ")
    if base is None or by not in MEASURES or not percent.isdigit():
        return None
    return Question(loaded.sample.name, loaded.samples, base, by, int(percent), loaded.chain)


def _words(asked: Question) -> str:
    repaired = f" repaired {len(asked.chain)}" if asked.chain else ""
    return f"{asked.model} {asked.by} {asked.percent}{repaired}"


def _front(view: View, found: Searched, base: Report, verified: Verified | None) -> None:
    clicked = selection.clicked_anew("pareto")
    if clicked is not None:
        take(view, found, int(clicked))
        st.rerun()
    labelled = "accuracy" in base.output
    by = (SQNR, ACCURACY) if labelled else (SQNR,)
    title, choice = st.columns([3, 2], vertical_alignment="bottom")
    title.subheader("Loss against budget", anchor=False, help=define("pareto"))
    address.keep(view.workspace, "pareto_measure", SQNR, by)
    measure = choice.segmented_control(
        "Measure",
        by,
        required=True,
        key="pareto_measure",
        label_visibility="collapsed",
        persist_state="session",
    )
    search, accuracy = found.search, measure == ACCURACY
    front = search.front.assign(
        cost=search.front[search.by],
        predicted=float("nan") if accuracy else search.front["sqnr"],
    )
    table = pd.DataFrame({"accuracy": [], "measured_sqnr": []})
    table = table if verified is None or verified.table.empty else verified.table
    points = pd.DataFrame(
        {
            "cost": front["cost"].reindex(table.index),
            "measured": table["accuracy" if accuracy else "measured_sqnr"],
        }
    )
    metric = "accuracy" if accuracy else "sqnr"
    anchors = (
        Anchor("before the search", search.base_cost, base.output[metric]),
        Anchor(
            "float",
            search.float_cost,
            base.output["float_accuracy"] if accuracy else float("inf"),
        ),
    )
    chart = pareto(
        front,
        points,
        by=search.by,
        budget=search.budget,
        anchors=anchors,
        unit="%" if accuracy else "dB",
        current=found.point_of(view.mapping),
    )
    st.plotly_chart(
        chart,
        key="pareto",
        theme=THEME,
        config=CONFIG,
        on_select="rerun",
        selection_mode="points",
    )
    if accuracy and points.empty:
        st.caption("Accuracy is not predicted: verify points to see theirs.")


def take(view: View, found: Searched, point: int) -> None:
    """Makes a point the configuration in force, as one change."""
    space = view.workspace
    space.configure(view.choice, found.mappings[point], found.search.choices(point))
    space.set(f"{KIND}_taken", space.generation)
    st.session_state[POINT] = point


def _point(view: View, found: Searched, verified: Verified | None) -> None:
    """One point in numbers, by keyboard too."""
    current = found.point_of(view.mapping)
    offered = list(range(len(found.search)))
    address.keep(view.workspace, POINT, offered[-1] if current is None else current, offered)
    picker, facts, button = st.columns([2, 5, 2], vertical_alignment="bottom")
    point = picker.selectbox("Point", offered, key=POINT, persist_state="session")
    row = found.search.front.loc[point]
    told = (
        f"{size(row['size'])} · {number(row['bit_ops'])} bit operations · predicted "
        f"{number(row['sqnr'], 'dB')}"
    )
    if verified is not None and point in verified.table.index:
        told += f" · measured {number(verified.table.loc[point, 'measured_sqnr'], 'dB')}"
    facts.markdown(told)
    button.button(
        "In force" if point == current else "Take this point",
        key="take",
        disabled=point == current,
        on_click=take,
        args=(view, found, point),
        help="One change of the configuration in force, which the sidebar can undo.",
        width="stretch",
    )
    with st.expander("What each layer gets"):
        column = st.column_config
        st.dataframe(
            searches.per_candidate(found.search, int(point)),
            key="gets",
            column_config={
                "gets": column.TextColumn("Gets", help=define("candidates")),
                "weight bits": column.NumberColumn(
                    "Weight [bits] ↓", help=f"{define('bits')} 32: it stays in float."
                ),
                "activation bits": column.NumberColumn(
                    "Activation [bits] ↓", help=f"{define('bits')} 32: it stays in float."
                ),
            },
        )


def _verified(view: View, asked: Question, verified: Verified | None) -> None:
    title, button = st.columns([3, 2], vertical_alignment="bottom")
    title.subheader("Predicted and measured", anchor=False, help=define("predicted"))
    wanted = _words(asked)
    if verified is None or not verified.complete:
        button.button(
            f"Verify the {NEAREST} points nearest the budget",
            key="verify",
            on_click=view.workspace.set,
            args=(VERIFY, wanted),
            disabled=view.workspace.settings.get(VERIFY) == wanted,
            width="stretch",
        )
    if verified is None or verified.table.empty:
        st.caption("Nothing verified yet. A prediction adds up what each layer costs alone.")
        return
    table = verified.table
    if verified.rank_correlation is not None:
        st.metric("Rank correlation ↑", number(verified.rank_correlation), help=define("predicted"))
    points = table.assign(
        x=table["predicted_sqnr"],
        y=table["measured_sqnr"],
        name=[f"point {point}" for point in table.index],
        group="verified",
    )
    st.plotly_chart(
        agreement(points, x="predicted output SQNR [dB] ↑", y="measured output SQNR [dB] ↑"),
        key="predicted",
        theme=THEME,
        config=CONFIG,
    )
    st.caption(f"{count(len(table))} points measured; each is among the workspace's runs.")
