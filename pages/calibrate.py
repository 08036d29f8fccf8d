"""Calibrate: what the float model is shown, and whether the ranges it gave have settled."""

from __future__ import annotations

from itertools import pairwise

import streamlit as st

from pages.common import collecting, messages, models, settling, sidebar, upload_forms
from pages.common.format import count, escape
from pages.common.frame import View, page
from pages.common.glossary import define
from pages.common.loaded import Loaded
from pages.common.messages import WaitingError

ABOUT = """
Quantization needs to know the range of every tensor. The float model sees some images one time;
minimum, maximum, moments and a histogram of every layer's output are kept, and everything else in
this app is computed from them.

With too few images the ranges would come out differently with other ones. The verdict says whether
that is so here, from how much the batches differ; the curve shows one layer's range while images
come in, also during the pass. Click a row to select its layer, here and everywhere.
"""


def draw(view: View) -> None:
    _data(view)
    upload_forms.samples_form(view)
    try:
        loaded = view.loaded()
    except WaitingError:
        settling.draw_live(view)
        raise
    upload_forms.found(loaded)
    _seen(loaded)
    with messages.shown("stability"):
        settling.draw_verdict(view, loaded)
    with messages.shown("tensors"):
        settling.draw_tensors(view, loaded)


def _data(view: View) -> None:
    """Which images and how many; drawn before calibration, so that it can be changed meanwhile."""
    entry = models.offered(view.workspace)[view.choice.model]
    st.markdown(f"Data: **{escape(entry.data)}**")
    if entry.noise:
        st.warning(sidebar.NOISE)
    sizes = entry.sizes
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.session_state.amount = view.choice.samples
        st.segmented_control(
            "Calibration images",
            sizes,
            key="amount",
            required=True,
            on_change=_choose,
            help=define("calibration images"),
        )
        more = next((size for size in sizes if size > view.choice.samples), None)
        st.button(
            "All images are in use" if more is None else f"Add {more - view.choice.samples} more",
            key="add_images",
            disabled=more is None,
            on_click=_add,
            args=(view, more),
            help=define("more images"),
        )


def _choose() -> None:
    sidebar.choose("samples", st.session_state.amount)


def _add(view: View, samples: int) -> None:
    collecting.add(view.choice, samples, view.workspace)
    sidebar.choose("samples", samples)


def _seen(loaded: Loaded) -> None:
    """How much was seen, and whether any of it was no number."""
    seen = loaded.lab.calibrated
    if seen is None:
        return
    outputs = settling.described(loaded, "activation").values()
    bad = sum(stats.nan_count + stats.inf_count for stats in outputs)
    with st.container(key="seen"):
        images, batches, tensors, finite = st.columns(4)
    images.metric("Images seen", count(seen.samples), help=define("calibration images"))
    batches.metric("In batches", count(seen.batches), help=define("settled"))
    tensors.metric("Layers described", count(len(outputs)), help=define("observed tensors"))
    finite.metric("NaN or infinite ↓", count(bad), help=define("not finite"))
    if loaded.parts:
        steps = [count(b - a) for a, b in pairwise((0, *loaded.parts))]
        st.caption(f"Seen {', then '.join(steps)}: each image once.")


page("Calibrate", ABOUT, draw)
