"""One cell of the heat map: a layer under a candidate, in numbers, and the way to use it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st

from pages.common import selection
from pages.common.format import escape, layer_name, number
from pages.common.frame import View
from pages.common.glossary import define
from pages.common.loaded import Loaded
from pages.common.sensitivities import ALONE, ESTIMATE, KINDS, LEFT_OUT, WAYS, Candidates
from pages.common.theme import THEME
from pages.figures.layout import CONFIG as PLOT
from pages.figures.sensitivity import agreement

if TYPE_CHECKING:
    from qlab.analysis.sensitivity import Sensitivity
    from qlab.qconfig import QConfigMapping

CONFIG = "sensitivity_config"
TERMS = {ALONE: "on alone", LEFT_OUT: "off alone", ESTIMATE: "sensitivity estimate"}


def draw(view: View, loaded: Loaded, asked: Candidates, found: Sensitivity) -> None:
    """Draws the numbers of the selected cell, and the button that keeps its configuration."""
    name, config = selection.current(view, loaded.lab), str(st.session_state[CONFIG])
    with st.container(border=True, horizontal=True, vertical_alignment="center", key="selected"):
        st.html(f"selected&nbsp; {layer_name(name)}")
        st.markdown(f"as **{escape(config)}**")
        if (name, config) in found.table.index:
            row = found.table.loc[(name, config)]
            for kind in KINDS:
                column = f"sqnr_{WAYS[kind]}"
                if column in row and row[column] == row[column]:
                    st.metric(f"{kind} ↑", number(row[column], "dB"), help=define(TERMS[kind]))
            _use(view, loaded, name, asked[config])
        else:
            st.caption("runs in float under this configuration")
        selection.link(view, loaded, name)


def _use(view: View, loaded: Loaded, name: str, candidate: QConfigMapping) -> None:
    asked = loaded.lab.plan(candidate).step(name)
    used = asked.requested == loaded.lab.plan(view.mapping).step(name).requested
    st.button(
        "In use for this layer" if used else "Use this configuration for this layer",
        key="use",
        type="secondary" if used else "primary",
        disabled=used,
        on_click=use,
        args=(view, loaded, name, candidate),
        help="One change of the configuration in force, which the sidebar can undo.",
    )


def use(view: View, loaded: Loaded, name: str, candidate: QConfigMapping) -> None:
    """Gives a layer what a candidate asks for it, as one change."""
    asked = loaded.lab.plan(candidate).step(name).requested
    address = loaded.lab.plan(view.mapping).step(name).address
    mapping = address.give(view.mapping.copy(), asked)
    view.workspace.configure(view.choice, mapping, [name])


def agreement_of(view: View, loaded: Loaded, exact: Sensitivity) -> None:
    """Draws how well the estimate agrees with the measurement."""
    st.subheader("Estimate and measurement", anchor=False, help=define("sensitivity estimate"))
    ranks = exact.rank_correlation
    if ranks is not None:
        st.metric("Rank correlation ↑", number(ranks), help=define("rank correlation"))
    table = exact.table.reset_index()
    points = table.assign(
        x=table["sqnr_estimate"], y=table["sqnr_on"], name=table["layer"], group=table["config"]
    )
    chart = agreement(
        points,
        x="estimated output SQNR [dB] ↑",
        y="measured output SQNR [dB] ↑",
        selected=selection.current(view, loaded.lab),
    )
    st.plotly_chart(chart, key="agreement", theme=THEME, config=PLOT, on_select="rerun")
