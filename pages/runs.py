"""Runs: every configuration that was tried here; two side by side, and back to any."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st

from pages.common import address, selection, sidebar, tried
from pages.common.format import count, escape, number
from pages.common.frame import View, page
from pages.common.glossary import define
from pages.common.store import store
from pages.common.theme import THEME
from pages.figures.layout import CONFIG
from pages.figures.versus import versus

if TYPE_CHECKING:
    from qlab.runs import Run, Runs

ABOUT = """
Every configuration that was measured in this workspace, on any page. They outlive the browser and
the server.

Tick one run to rename it or to go back to it: its configuration becomes the one in force. Tick two
to see what differs between them, in words, in numbers and layer by layer.
"""
ERRORS = {"accumulated": "sqnr_accumulated", "local": "sqnr_local"}


def draw(view: View) -> None:
    runs = store().runs(view.workspace)
    known = list(runs)[::-1]
    if not known:
        st.info(
            "Nothing was measured in this workspace yet. Open *Overview*: the comparison that it "
            "makes is the first run. Change something, refresh, and the next one is beside it."
        )
        return
    st.caption(f"{count(len(known))} {'run' if len(known) == 1 else 'runs'}, newest first.")
    text = st.column_config.TextColumn
    columns = {metric.title: text(help=define(metric.term)) for metric in tried.METRICS}
    columns["Measured"] = st.column_config.DatetimeColumn(format="D MMM, HH:mm")
    columns["Calibrated on"] = text(help="The calibration data that the ranges come from.")
    columns["Made from"] = text(help="The run whose configuration this one was made from.")
    st.dataframe(
        tried.table(view.workspace, known),
        key="runs",
        on_select="rerun",
        selection_mode="multi-row",
        hide_index=True,
        column_config=columns,
    )
    chosen = [known[row] for row in selection.rows("runs") if row < len(known)][:2]
    chosen.sort(key=lambda run: run.id)
    if not chosen:
        st.info("Tick a run at its left edge: one to go back to it, two to compare them.")
        return
    for column, run, letter in zip(st.columns(2), chosen, "AB", strict=False):
        with column.container(border=True, key=f"run_{letter}"):
            _card(view, runs, run, letter if len(chosen) == 2 else "")
    if len(chosen) == 2:
        _compare(view, runs, chosen[0], chosen[1])


def _card(view: View, runs: Runs, run: Run, letter: str) -> None:
    model = tried.model_of(view.workspace, run)
    key = f"name_{run.id}"
    if st.session_state.get(key, "").strip() in ("", run.name):
        st.session_state[key] = run.name
    st.text_input(
        f"Name of {letter or 'this run'}", key=key, on_change=_rename, args=(runs, run.id, key)
    )
    told = f"{escape(model)} · {run.created.astimezone():%d %b %Y, %H:%M}"
    if run.seconds is not None:
        told += f" · measured in {number(run.seconds, 's')}"
    st.caption(told)
    same, used = model == view.choice.model, tried.in_force(view.workspace, view.choice, run)
    st.button(
        "In force" if used else "Go back to this one" + ("" if same else f", on {escape(model)}"),
        key=f"back_{run.id}",
        disabled=used or model == tried.OTHER,
        on_click=_go_back,
        args=(view, runs, run, model),
        help="Makes it the configuration in force, as one change that can be undone.",
    )


def _rename(runs: Runs, id: int, key: str) -> None:
    name = str(st.session_state[key]).strip()
    if name:
        runs.rename(id, name)


def _go_back(view: View, runs: Runs, run: Run, model: str) -> None:
    choice = view.choice._replace(model=model)
    layers = () if run.layers is None else [str(name) for name in run.layers.index]
    chain = tried.chain_of(view.workspace, run)
    view.workspace.configure(choice, run.mapping, layers, chain=chain)
    runs.go_to(run.id)
    sidebar.choose_model(model)


def _compare(view: View, runs: Runs, a: Run, b: Run) -> None:
    models = {tried.model_of(view.workspace, run) for run in (a, b)}
    comparable = tried.origin_of(view.workspace, a) == tried.origin_of(view.workspace, b)
    if not comparable:
        st.warning("These runs are of different models or data: only their numbers are shown.")
    table = tried.metrics_of(a, b)
    st.dataframe(table, key="metrics", column_config=tried.sides(table, tried.defined()))
    if not comparable:
        return
    st.subheader("Configurations", anchor=False)
    if models == {view.choice.model}:
        told = tried.repairs(view.workspace, a, b)
        told += tried.differences(view.loaded().lab, a.mapping, b.mapping)
        for sentence in told or ["They give every layer the same."]:
            st.markdown(f"- {escape(sentence)}")
    else:
        st.caption("Choose their model in the sidebar to see what differs.")
    _layers(view, runs, a, b)


def _layers(view: View, runs: Runs, a: Run, b: Run) -> None:
    title, choice = st.columns([3, 1], vertical_alignment="bottom")
    title.subheader("Error by layer", anchor=False, help=define("sqnr"))
    address.keep(view.workspace, "runs_error", "accumulated", ERRORS)
    error = choice.segmented_control(
        "Error",
        list(ERRORS),
        required=True,
        key="runs_error",
        label_visibility="collapsed",
        persist_state="session",
        help=f"{define('local')} {define('accumulated')}",
    )
    clicked = selection.clicked_anew("versus")
    if clicked:
        selection.select(view, clicked)
    layers, column = runs.compare(a.id, b.id), ERRORS[str(error)]
    chosen = st.session_state.get(selection.KEY)
    chart = versus(layers, column, (a.name, b.name), selected=chosen)
    st.plotly_chart(chart, key="versus", theme=THEME, config=CONFIG, on_select="rerun")
    with st.expander("As a table"):
        shown = [f"{column}_{part}" for part in ("a", "b", "change")]
        told = tried.sides(shown, f"{define(str(error))} {define('sqnr')}", " [dB] ↑")
        st.dataframe(layers[shown], key="by_layer", column_config=told)


page("Runs", ABOUT, draw)
