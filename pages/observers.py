"""Observers: one tensor, every rule that chooses its range, and the cost of each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from pages.common import contest, grid, messages
from pages.common.contest import DISTRIBUTIONS, Contest, Outliers
from pages.common.frame import View, page
from pages.common.glossary import define
from pages.common.theme import THEME
from pages.figures.histogram import Grid, histogram
from pages.figures.layout import CONFIG
from pages.figures.thresholds import Mark, threshold_curve

if TYPE_CHECKING:
    from qlab.ranges import RangeChoice
    from qlab.stats import TensorStats

ABOUT = """
An **observer** looks at the values of a tensor and chooses the range that the codes shall cover. A
wide range clips nothing, but its levels lie far apart; a narrow one rounds finely and clips the
tails. The curve shows both for every threshold; each observer has put its mark on it.

Move the threshold to the peak. Then add a few outliers, and see which observers follow them.
"""
KEEP: Literal["session"] = "session"
LAYER, TENSORS = "a layer of the model", {"output": "activation", "weight": "weight"}


def draw(view: View) -> None:
    left, right = st.columns([1, 3], gap="large")
    with left:
        source = st.selectbox(
            "Tensor", [*DISTRIBUTIONS, LAYER], key="contest_source", persist_state="session"
        )
        base = _layer(view) if source == LAYER else None
    _bench(source, base, (left, right))


def _layer(view: View) -> TensorStats:
    """Statistics of a tensor of the loaded model, as calibration collected them."""
    loaded = view.loaded()
    names = [layer.name for layer in loaded.lab.layers if layer.quantizable]
    name = st.selectbox("Layer", names, key="contest_layer", persist_state="session")
    kinds = list(TENSORS) if loaded.has_weight(name) else ["output"]
    kind = st.segmented_control("Of it", kinds, default=kinds[0], key="contest_kind", required=True)
    return loaded.lab.statistics(name, TENSORS[kind or kinds[0]])


@st.fragment
def _bench(
    source: str, base: TensorStats | None, places: tuple[DeltaGenerator, DeltaGenerator]
) -> None:
    """Knobs and charts together: a knob redraws these and nothing else."""
    with messages.shown("contest"):
        left, right = places
        with left:
            held = _held(source, base)
        with right:
            _charts(held)


def _held(source: str, base: TensorStats | None) -> Contest:
    from qlab.dtypes import integer
    from qlab.ranges import TensorSpec

    share = st.slider(
        "Clip threshold [%]",
        1, 100, 100, key="contest_share", help=define("clip threshold"), persist_state=KEEP,
    )  # fmt: skip
    bits = st.select_slider(
        "Bits", range(2, 9), 4, key="contest_bits", help=define("bits"), persist_state=KEEP
    )
    scheme = st.segmented_control(
        "Scheme", ("affine", "symmetric"), default="affine", required=True,
        key="contest_scheme", help=define("scheme"), persist_state=KEEP,
    )  # fmt: skip
    wanted = st.slider(
        "Outliers", 0, 50, 0, key="contest_outliers", help=define("outliers"), persist_state=KEEP
    )
    strength = st.slider(
        "Their size [× RMS]", 5, 100, 20, key="contest_strength",
        help=define("rms"), disabled=not wanted, persist_state=KEEP,
    )  # fmt: skip
    outliers = Outliers(wanted, float(strength))
    stats = (
        contest.made_up(source, outliers) if base is None else contest.with_outliers(base, outliers)
    )
    symmetric = scheme == "symmetric"
    spec = TensorSpec(integer(bits, signed=symmetric), symmetric=symmetric)
    return contest.hold(stats, spec, share / 100)


def _charts(held: Contest) -> None:
    levels = grid.codes_and_levels(held.clip.qparams)[1]
    chart = histogram(
        *grid.histogram_of(held.stats), grid=Grid(levels, held.clip.error.clipped_share)
    )
    st.plotly_chart(chart, key="contest_histogram", theme=THEME, config=CONFIG)
    curve = threshold_curve(
        held.thresholds, held.sqnr, marks=[_mark(c) for c in held.choices], own=_mark(held.clip)
    )
    st.plotly_chart(curve, key="contest_curve", theme=THEME, config=CONFIG)
    _table(held)


def _mark(choice: RangeChoice) -> Mark:
    low, high = (float(end) for end in grid.bounds(choice.qparams))
    return Mark(choice.label, max(-low, high), choice.error.sqnr_db)


def _table(held: Contest) -> None:
    """Every observer in numbers, the best first, and the person's own threshold among them."""
    rows = contest.table(held)
    config = {contest.SQNR: st.column_config.NumberColumn(format="%.1f", help=define("sqnr"))}
    st.dataframe(rows, hide_index=True, column_config=config, key="contest_table")


page("Observers", ABOUT, draw)
