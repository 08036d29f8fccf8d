"""Symmetric against affine: where the codes lie on one tensor."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from pages.common import messages, source
from pages.common.format import count, number
from pages.common.frame import View
from pages.common.glossary import define
from pages.common.theme import THEME
from pages.figures.histogram import Grid, histogram, span_of
from pages.figures.layout import CONFIG
from pages.lessons import knobs, worked
from qlab.analysis import grid

if TYPE_CHECKING:
    from qlab.analysis.formats import FormatCost
    from qlab.stats import TensorStats

SENTENCE = (
    "An affine range starts and ends where the values do; a symmetric one is centred on 0, so that "
    "the zero point costs nothing, and may spend codes where no value lies."
)
KINDS = ("affine", "symmetric")


def draw(view: View) -> None:
    """One tensor with the codes of both schemes under it."""
    left, right = st.columns([1, 3], gap="large")
    with left:
        stats = source.statistics(view, "schemes", "after a ReLU")
    if stats is not None:
        _bench(view, stats, (left, right))


@st.fragment
def _bench(view: View, stats: TensorStats, places: tuple[DeltaGenerator, DeltaGenerator]) -> None:
    with messages.shown("schemes"):
        left, right = places
        with left:
            bits = knobs.bits(view.workspace, "schemes", 4)
        costs = {kind: _cost(stats, bits, symmetric=kind == "symmetric") for kind in KINDS}
        with right:
            _charts(stats, costs)


def _cost(stats: TensorStats, bits: int, *, symmetric: bool) -> FormatCost:
    from qlab.analysis.formats import cost_of
    from qlab.dtypes import integer
    from qlab.ranges import TensorSpec

    return cost_of(stats, TensorSpec(integer(bits, signed=symmetric), symmetric))


def _charts(stats: TensorStats, costs: dict[str, FormatCost]) -> None:
    edges, counts = grid.histogram_of(stats)
    grids = {
        kind: Grid(grid.codes_and_levels(cost.qparams)[1], cost.error.clipped_share)
        for kind, cost in costs.items()
    }
    shared = span_of(edges, list(grids.values()))
    for kind, cost in costs.items():
        levels = grids[kind].levels
        st.html(worked.scale_of(stats, cost.qparams, symmetric=kind == "symmetric"))
        numbers = st.columns(3)
        numbers[0].metric(
            "Zero point", count(cost.qparams.zero_point_value), help=define("zero point")
        )
        numbers[1].metric(
            "Codes used",
            f"{count(grid.codes_used(stats, levels))} of {count(len(levels))}",
            help=define("codes used"),
        )
        numbers[2].metric("SQNR ↑", number(cost.error.sqnr_db, "dB"), help=define("sqnr"))
        chart = histogram(edges, counts, grid=grids[kind], title=f"value, {kind} codes")
        chart.update_xaxes(range=shared)
        chart.update_layout(height=200)
        st.plotly_chart(chart, key=f"schemes_{kind}", theme=THEME, config=CONFIG)
