"""Layer: one layer's tensors, why it is bad, and knobs that answer at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st

from pages.common import bench, causes, channels, headline, messages, selection
from pages.common.format import count, escape, layer_name, plain, shape
from pages.common.frame import View, page
from pages.common.loaded import Loaded

if TYPE_CHECKING:
    from qlab.graph.plan import Step

ABOUT = """
One layer of the network. Grey is the float distribution that calibration saw, blue the levels that
the codes can express, vermillion what lies outside them.

**Why is this layer bad?** names the causes that were measured, each with what helps and by how
much; its button makes that part of the configuration.

Move a knob and what stands below answers at once, from statistics that were collected one time;
nothing is calibrated again. **Apply to configuration** keeps the change. The numbers of the whole
network are then stale until you refresh them.
"""


def draw(view: View) -> None:
    loaded = view.loaded()
    name = selection.pick(view, loaded.lab)
    _title(loaded, loaded.lab.plan(view.mapping).step(name))
    # Drawn last: the knobs need not wait for it.
    reasons = st.container(key="causes")
    bench.draw(view, loaded, name)
    with messages.shown("channels"):
        channels.draw(view, loaded, name)
    with messages.shown("network"):
        headline.network(view, loaded)
    with reasons, messages.shown("causes"):
        causes.draw(view, loaded, name)


def _title(loaded: Loaded, step: Step) -> None:
    layer = loaded.lab.layer(step.name)
    fused = f" with {plain(', '.join(step.fused))} folded in" if step.fused else ""
    st.html(
        f"{layer_name(step.name)} &nbsp; {plain(step.type)}{fused} &nbsp; "
        f"{shape(layer.input_shape)} → {shape(layer.output_shape)} &nbsp; "
        f"{count(layer.parameters)} parameters"
    )
    st.caption(escape(f"{step.execution}: {step.reason}"))


page("Layer", ABOUT, draw)
