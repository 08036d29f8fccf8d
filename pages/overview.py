"""Overview: what quantization cost this network, and which layers are to blame."""

from __future__ import annotations

import streamlit as st

from pages.common import (
    address,
    automatic_shown,
    headline,
    messages,
    models,
    repairs_shown,
    selection,
    sidebar,
    stale,
    training_shown,
)
from pages.common.causes import remedy_button
from pages.common.format import escape, layer_name, number
from pages.common.frame import View, page
from pages.common.glossary import define
from pages.common.loaded import Loaded, Outcome, compare
from pages.common.repairs_fitting import fitting
from pages.common.store import store
from pages.common.theme import THEME
from pages.figures.errors import by_layer
from pages.figures.layout import CONFIG

ABOUT = """
The float network and its quantized self, side by side on the same images.

Each layer has two bars. *Local* is its own error: it is fed the float network's values. \\
*Accumulated* is its error inside the quantized network, with everything that earlier layers did to
its input. The dashed line is what an ideal quantizer of that bit width would reach: only the gap
below it can be avoided.

Click a bar to select its layer, then open it.
"""
ORDERS = ("graph order", "worst first")


def draw(view: View) -> None:
    loaded = view.loaded()
    _subtitle(view, loaded)
    shown = stale.at_once(view)
    outcome = compare(loaded, shown.mapping, view.workspace)
    headline.draw(outcome.report, shown, loaded.sample)
    automatic_shown.draw(view, loaded, outcome.report)
    if not outcome.worst:
        st.info(
            "Nothing is quantized under this configuration, so no layer has an error. "
            "Choose a preset in the sidebar, or ask for fewer bits on *Configure*."
        )
        return
    _chart(view, loaded, outcome, shown.stale)
    _worst(view, loaded, outcome)


def _subtitle(view: View, loaded: Loaded) -> None:
    name = sidebar.label(view.choice.model, loaded.sample.trained)
    st.markdown(f"**{escape(name)}** · {escape(view.choice.preset)} · {escape(loaded.sample.data)}")
    if loaded.sample.trained and models.noise(loaded.sample):
        st.warning(f"{sidebar.NOISE} Bring data of yours on *Calibrate*.")
    if not loaded.sample.trained:
        st.warning(
            "Untrained: its weights are random, so its accuracy would mean nothing. "
            f"Calibrated and compared on noise images. {sidebar.NOISE}"
        )


@st.fragment
def _chart(view: View, loaded: Loaded, outcome: Outcome, is_stale: bool) -> None:
    """A click on a bar redraws the chart and the selected layer's numbers, nothing else."""
    with messages.shown("by_layer"):
        _bars(view, loaded, outcome, is_stale)
        store().save(view.workspace)


def _bars(view: View, loaded: Loaded, outcome: Outcome, is_stale: bool) -> None:
    top = st.container(horizontal=True, vertical_alignment="bottom", wrap=False)
    top.subheader("Error by layer", anchor=False, help=f"{define('local')} {define('ideal')}")
    address.keep(view.workspace, "order", ORDERS[0], ORDERS)
    by = top.segmented_control(
        "Order",
        ORDERS,
        required=True,
        key="order",
        label_visibility="collapsed",
        persist_state="session",
    )
    selection.from_chart(view, "by_layer")
    selected = selection.current(view, loaded.lab, at_first=outcome.worst[0].name)
    layers = outcome.report.layers
    # The words are sent before the chart above them, which takes a browser longer to draw.
    place = st.container()
    with st.container(border=True, horizontal=True, vertical_alignment="center", key="selected"):
        st.html(f"selected&nbsp; {layer_name(selected)}")
        if selected in layers.index:
            row = layers.loc[selected]
            for column, term in (("sqnr_local", "local"), ("sqnr_accumulated", "accumulated")):
                st.metric(f"{term} ↑", number(float(row[column]), "dB"), help=define(term))
            st.metric("ideal ↑", number(float(row["sqnr_ideal"]), "dB"), help=define("ideal"))
        else:
            st.caption("runs in float")
        selection.link(view, loaded, selected)
    place.plotly_chart(
        by_layer(layers, worst_first=by == ORDERS[1], selected=selected, stale=is_stale),
        key="by_layer",
        theme=THEME,
        config=CONFIG,
        on_select="rerun",
        selection_mode="points",
    )


def _worst(view: View, loaded: Loaded, outcome: Outcome) -> None:
    st.subheader("Worst layers", anchor=False, help=define("worst"))
    if not training_shown.asked(view):  # that is offered, and shown, above
        repairs_shown.panel(view, loaded, outcome.worst[0].name)
    left = dict(outcome.repairs)
    for position, finding in enumerate(outcome.worst):
        cause = next((c for c in finding.causes if c.remedy and (c.gain or 0) > 0), None)
        with st.container(border=True, key=f"worst_{position}"):
            # The name has a line to itself: no column is wide enough for every model's names.
            with st.container(horizontal=True, vertical_alignment="center"):
                st.html(layer_name(finding.name), width="content")
                sqnr = number(finding.sqnr, "dB")
                st.markdown(f"**{sqnr}**", help=define("local"), width="content")
                st.space("stretch")
                selection.link(view, loaded, finding.name)
            reason, *remedy = st.columns([5, 3] if cause else 1, vertical_alignment="center")
            reason.markdown(escape(finding.reason))
            if cause:
                with remedy[0]:
                    remedy_button(view, cause, key=f"remedy_{position}")
            repairs_shown.offer(view, finding.stated, left, key=f"repair_{position}")
            for name in fitting(finding.stated):  # one button for each is enough
                left.pop(name, None)


page("Overview", ABOUT, draw)
