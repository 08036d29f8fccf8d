"""Which layer is selected, everywhere the same."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import streamlit as st
from streamlit.errors import StreamlitAPIException

from pages.common import address, navigation, sidebar
from pages.common.frame import View
from pages.common.loaded import Loaded

if TYPE_CHECKING:
    from qlab import Lab

KEY = "layer"


def current(view: View, lab: Lab, at_first: str | None = None) -> str:
    """The selected layer.

    Args:
        view: What the page was given.
        lab: Of the model in use.
        at_first: What is selected from now on if nothing was; by default the first layer that can
            be quantized, until one is selected.
    """
    names = [layer.name for layer in lab.layers]
    addressed = st.query_params.get(KEY)
    if addressed is not None and addressed not in names:
        with suppress(StreamlitAPIException):  # on *Layer* the widget sees to it
            del st.query_params[KEY]
    remembered = view.workspace.selected.get(view.choice.model)
    for chosen in (st.session_state.get(KEY), addressed, remembered):
        if chosen in names:
            return str(chosen)
    if at_first is not None:
        select(view, at_first)
        return at_first
    return next((layer.name for layer in lab.layers if layer.quantizable), names[0])


def select(view: View, name: str) -> None:
    """Makes a layer the selected one; to be called before its widget is drawn."""
    if view.workspace.selected.get(view.choice.model) != name:
        view.workspace.select(view.choice.model, name)
    st.session_state[KEY] = name


def link(view: View, loaded: Loaded, name: str) -> None:
    """A link to the *Layer* page of one layer; it carries all that the address must say."""
    choice = view.choice
    st.page_link(
        navigation.page("layer"),
        label="Open",
        icon=":material/arrow_forward:",
        help="Open this layer: histograms, grid, knobs.",
        query_params={
            "model": sidebar.label(choice.model, loaded.sample.trained),
            "preset": choice.preset,
            "samples": str(choice.samples),
            "device": choice.device,
            KEY: name,
            address.KEY: view.workspace.id,
        },
    )


def from_chart(view: View, key: str) -> None:
    """Selects the layer whose mark was just clicked; an empty selection keeps the last one.

    To be called before the chart is drawn, which outlines the selected layer.
    """
    name = clicked_anew(key)
    if name is not None:
        select(view, name[0] if isinstance(name, list | tuple) else name)


def clicked_anew(key: str) -> Any:
    """What the point that was just clicked in a chart carries; None where there was no new click.

    A chart goes on telling of its last click. Where something else selects too, or a click changes
    something, only a new one counts.
    """
    points = _clicked(key, "points")
    return _anew(key, points[0]["customdata"] if points else None)


def from_table(view: View, key: str, names: list[str]) -> None:
    """Selects the layer whose row was just clicked; an empty selection keeps the last one.

    To be called before whatever else the page draws of the selected layer.
    """
    cells = [cell[0] for cell in _clicked(key, "cells")]
    row = _anew(key, next(iter([*cells, *_clicked(key, "rows")]), None))
    if row is not None and row < len(names):
        select(view, names[row])


def _anew(key: str, chosen: Any) -> Any:
    seen = f"{key}_seen"
    if chosen == st.session_state.get(seen):
        return None
    st.session_state[seen] = chosen
    return chosen


def rows(key: str) -> list[int]:
    """The rows that are ticked in a table, in its order."""
    return sorted(_clicked(key, "rows"))


def _clicked(key: str, what: str) -> list[Any]:
    event = st.session_state.get(key)
    return event["selection"].get(what, []) if event else []


def pick(view: View, lab: Lab) -> str:
    """Draws the picker with its neighbours' buttons and returns the selected layer."""
    names = [layer.name for layer in lab.layers]
    if st.session_state.get(KEY) not in (None, *names):
        select(view, current(view, lab))
    position = names.index(current(view, lab))
    row = st.container(horizontal=True, vertical_alignment="bottom", wrap=False)
    row.button(
        "‹ previous",
        key="previous",
        disabled=position == 0,
        on_click=select,
        args=(view, names[position - 1]),
    )
    name = row.selectbox(
        "Layer",
        names,
        index=0 if KEY in st.session_state else position,  # one of the two, not both
        key=KEY,
        bind="query-params",
        persist_state="session",
    )
    row.button(
        "next ›",
        key="next",
        disabled=position == len(names) - 1,
        on_click=select,
        args=(view, names[(position + 1) % len(names)]),
    )
    if view.workspace.selected.get(view.choice.model) != name:
        view.workspace.select(view.choice.model, str(name))
    return str(name)
