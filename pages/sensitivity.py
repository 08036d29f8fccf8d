"""Sensitivity: what each layer alone costs the network, and mixed precision made from that."""

from __future__ import annotations

import streamlit as st

from pages.common import address, asking, cell, messages, mixed, selection, sensitivities, sidebar
from pages.common.asking import ORDERS
from pages.common.format import count, duration, escape
from pages.common.frame import View, page
from pages.common.loaded import Loaded
from pages.common.sensitivities import Found, Quick
from pages.common.store import store
from pages.common.theme import THEME
from pages.figures.layout import CONFIG
from pages.figures.sensitivity import heat_map

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
    quick = sensitivities.quick(loaded, asked, view.workspace)
    exact = None
    if _wanted(view, quick):
        with messages.shown("exact"):
            sensitivities.exact(loaded, asked, quick.begun, view.workspace)
        exact = sensitivities.so_far(loaded, asked)
    if quick.estimate.table.empty:
        st.info("These configurations quantize no layer. Choose others above.")
        return
    _found(view, loaded, Found(asked, quick.estimate, exact, is_stale), view.workspace.generation)


@st.fragment
def _found(view: View, loaded: Loaded, found: Found, generation: int) -> None:
    """A click on a cell redraws what was found, and nothing else."""
    if view.workspace.generation != generation:
        st.rerun()  # the configuration was changed here: that concerns the whole page
    with messages.shown("found"):
        _clicks(view)
        _told(found)
        _heat_map(view, loaded, found)
        if found.exact is not None:
            cell.agreement_of(view, loaded, found.exact)
        store().save(view.workspace)


def _clicks(view: View) -> None:
    """Takes over what was clicked in a chart, before any widget shows it."""
    if clicked := selection.clicked_anew("heat_map"):
        selection.select(view, clicked[0])
        st.session_state[cell.CONFIG] = clicked[1]
    if clicked := selection.clicked_anew("agreement"):
        selection.select(view, clicked)


def _wanted(view: View, quick: Quick) -> bool:
    """Whether to measure exactly: when it is asked for, or done by having been tried."""
    space, key = view.workspace, sensitivities.asked_key(view.choice)
    if quick.begun.complete or space.settings.get(key):
        return True
    words, button = st.columns([3, 1], vertical_alignment="center")
    time = duration(quick.seconds)
    words.info(
        f"This is the estimate. Measuring exactly takes at most about {time}; the page goes on."
    )
    button.button(
        "Measure exactly", key="measure", on_click=space.set, args=(key, True), width="stretch"
    )
    return False


def _told(found: Found) -> None:
    how = "Estimated" if found.exact is None else "Measured"
    rest = "" if found.known.complete else " Stopped early: what was not reached is empty."
    st.caption(f"{how} on {count(found.known.samples)} images.{rest}")


def _heat_map(view: View, loaded: Loaded, found: Found) -> None:
    kind, measure, order = asking.shown(view, found.known, measured=found.exact is not None)
    cells = sensitivities.cells(found.known, kind, measure)
    values = cells.values
    worst = values.min(axis=1) if cells.low_is_sensitive else -values.max(axis=1)
    ordered = worst.sort_values(kind="stable").index
    name = selection.current(view, loaded.lab, at_first=str(ordered[0]))
    address.keep(view.workspace, cell.CONFIG, str(values.columns[-1]), list(values.columns))
    # The words are sent before the chart above them, which takes a browser longer to draw.
    place = st.container()
    selection.pick(view, loaded.lab)
    st.segmented_control(
        "Configuration of the selected cell",
        list(values.columns),
        required=True,
        key=cell.CONFIG,
        persist_state="session",
    )
    cell.draw(view, loaded, found.asked, found.known)
    chart = heat_map(
        values.loc[ordered] if order == ORDERS[1] else values,
        title=cells.title,
        unit=cells.unit,
        low_is_sensitive=cells.low_is_sensitive,
        least_span=cells.least_span,
        selected=(name, str(st.session_state[cell.CONFIG])),
        stale=found.stale,
    )
    place.plotly_chart(
        chart,
        key="heat_map",
        theme=THEME,
        config=CONFIG,
        on_select="rerun",
        selection_mode="points",
    )


page("Sensitivity", ABOUT, draw)
