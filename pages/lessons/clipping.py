"""Rounding and clipping: what a narrower range wins and loses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from pages.common import contest, messages, source
from pages.common.format import number, percent
from pages.common.frame import View
from pages.common.glossary import define
from pages.common.theme import THEME
from pages.figures.histogram import Grid, histogram
from pages.figures.layout import CONFIG
from pages.figures.thresholds import Mark, threshold_curve
from pages.lessons import knobs
from qlab.analysis import grid

if TYPE_CHECKING:
    from qlab.stats import TensorStats

SENTENCE = (
    "Narrow the range: the levels move together and round more finely, but what lies outside is "
    "clipped. Somewhere between the two the error is smallest."
)


def draw(view: View) -> None:
    """A tensor, its range, and the error of every range."""
    left, right = st.columns([1, 3], gap="large")
    with left:
        stats = source.statistics(view, "clipping")
    if stats is not None:
        _bench(view, stats, (left, right))


@st.fragment
def _bench(view: View, stats: TensorStats, places: tuple[DeltaGenerator, DeltaGenerator]) -> None:
    from qlab.dtypes import integer
    from qlab.ranges import TensorSpec

    with messages.shown("clipping"):
        left, right = places
        with left:
            limits = (1, 100, 100)
            share = knobs.slider(
                view.workspace, "clipping_share", "Clip threshold [%]", limits,
                help=define("clip threshold"),
            )  # fmt: skip
            bits = knobs.bits(view.workspace, "clipping", 4)
        spec = TensorSpec(integer(bits, signed=False))
        held = contest.hold(stats, spec, share / 100)
        with right:
            _charts(held)


def _charts(held: contest.Contest) -> None:
    own, error = held.clip.qparams, held.clip.error
    total = error.total or 1.0
    numbers = st.columns(4)
    numbers[0].metric("Scale", number(own.scale_value), help=define("scale"))
    numbers[1].metric("Rounding", percent(error.rounding / total), help=define("rounding share"))
    numbers[2].metric("Clipping", percent(error.clipping / total), help=define("clipping share"))
    numbers[3].metric("SQNR ↑", number(error.sqnr_db, "dB"), help=define("sqnr"))
    levels = grid.codes_and_levels(own)[1]
    chart = histogram(*grid.histogram_of(held.stats), grid=Grid(levels, error.clipped_share))
    chart.update_layout(height=240)
    st.plotly_chart(chart, key="clipping_histogram", theme=THEME, config=CONFIG)
    low, high = (float(end) for end in grid.bounds(own))
    mark = Mark(held.clip.label, max(-low, high), error.sqnr_db)
    curve = threshold_curve(held.thresholds, held.sqnr, marks=[], own=mark)
    curve.update_layout(height=280)
    st.plotly_chart(curve, key="clipping_curve", theme=THEME, config=CONFIG)
