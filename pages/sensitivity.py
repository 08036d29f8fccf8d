"""Sensitivity: what each layer alone costs the network, and mixed precision made from that."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st

from pages.common import address, asking, cell, messages, mixed, selection, sensitivities, sidebar
from pages.common.asking import ORDERS
from pages.common.format import count, duration, escape
from pages.common.frame import View, page
from pages.common.loaded import Loaded
from pages.common.sensitivities import Quick
from pages.common.theme import THEME
from pages.figures.layout import CONFIG
from pages.figures.sensitivity import heat_map

if TYPE_CHECKING:
    from qlab.analysis.sensitivity import Sensitivity

ABOUT = """
Which layers can take fewer bits, and which cannot? Each cell is one layer under one configuration.

*On alone*: this layer is quantized and all others are float. *Off alone*: all are quantized and
this one stays float. *Estimate* answers the first question in one pass over the network, without
running it once per layer. What stands out is sensitive.

Click a cell to select its layer everywhere, then use that configuration for it. **Mixed precision**
chooses for all layers at once: the least loss for a size you name.
"""
LAYERS, MIXED = "layer by layer", "mixed precision"


def draw(view: View) -> None:
    loaded = view.loaded()
    name = sidebar.label(view.choice.model, loaded.sample.trained)
    st.markdown(f"**{escape(name)}** · {escape(view.choice.preset)}")
    address.keep(view.workspace, "sensitivity_section", LAYERS, (LAYERS, MIXED))
    section = st.segmented_control(
        "Section",
        (LAYERS, MIXED),
        required=True,
        key="sensitivity_section",
        label_visibility="collapsed",
        persist_state="session",
    )
    if section == MIXED:
        mixed.draw(view, loaded)
    else:
        _layers(view, loaded)


def _layers(view: View, loaded: Loaded) -> None:
    asked, is_stale = asking.configurations(view, loaded)
    if not asked:
        st.info("Choose at least one configuration or weight width above.")
        return
    _clicks(view)
    quick = sensitivities.quick(loaded, asked, view.workspace)
    exact = None
    if _wanted(view, loaded, quick):
        with messages.shown("exact"):
            sensitivities.exact(loaded, asked, quick.begun, view.workspace)
        exact = sensitivities.so_far(loaded, asked)
    found = quick.estimate if exact is None else exact
    if found.table.empty:
        st.info("These configurations quantize no layer. Choose others above.")
        return
    _told(found, exact)
    _heat_map(view, loaded, found, is_stale, measured=exact is not None)
    cell.draw(view, loaded, asked, found)
    if exact is not None:
        cell.agreement_of(view, loaded, exact)


def _clicks(view: View) -> None:
    """Takes over what was clicked in a chart, before any widget shows it."""
    clicked = selection.clicked_anew("heat_map")
    if clicked:
        selection.select(view, clicked[0])
        st.session_state[cell.CONFIG] = clicked[1]
    clicked = selection.clicked_anew("agreement")
    if clicked:
        selection.select(view, clicked)


def _wanted(view: View, loaded: Loaded, quick: Quick) -> bool:
    """Whether to measure exactly: at once if that is quick, else when it is asked for."""
    space, key = view.workspace, sensitivities.asked_key(view.choice)
    small = sum(layer.parameters for layer in loaded.lab.layers) < sensitivities.SMALL
    if small or quick.seconds <= sensitivities.AT_ONCE or space.settings.get(key):
        return True
    words, button = st.columns([3, 1], vertical_alignment="center")
    words.info(
        "This is the estimate. Measuring exactly takes at most about "
        f"{duration(quick.seconds)}; the page goes on meanwhile."
    )
    button.button(
        "Measure exactly", key="measure", on_click=space.set, args=(key, True), width="stretch"
    )
    return False


def _told(found: Sensitivity, exact: Sensitivity | None) -> None:
    told = f"Measured on {count(found.samples)} images."
    if exact is not None and not exact.complete:
        told += " Stopped early: what was not reached is empty."
    st.caption(told)


def _heat_map(
    view: View, loaded: Loaded, found: Sensitivity, is_stale: bool, *, measured: bool
) -> None:
    kind, measure, order = asking.shown(view, found, measured=measured)
    cells = sensitivities.cells(found, kind, measure)
    values = cells.values
    worst = values.min(axis=1) if cells.low_is_sensitive else -values.max(axis=1)
    ordered = worst.sort_values(kind="stable").index
    name = selection.current(view, loaded.lab, at_first=str(ordered[0]))
    address.keep(view.workspace, cell.CONFIG, str(values.columns[-1]), list(values.columns))
    config = str(st.session_state[cell.CONFIG])
    chart = heat_map(
        values.loc[ordered] if order == ORDERS[1] else values,
        title=cells.title,
        unit=cells.unit,
        low_is_sensitive=cells.low_is_sensitive,
        least_span=cells.least_span,
        selected=(name, config),
        stale=is_stale,
    )
    st.plotly_chart(
        chart,
        key="heat_map",
        theme=THEME,
        config=CONFIG,
        on_select="rerun",
        selection_mode="points",
    )
    selection.pick(view, loaded.lab)
    st.segmented_control(
        "Configuration of the selected cell",
        list(values.columns),
        required=True,
        key=cell.CONFIG,
        persist_state="session",
    )


page("Sensitivity", ABOUT, draw)
