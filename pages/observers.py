"""Observers: one tensor, every rule that chooses its range, and the cost of each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from pages.common import address, contest, messages, source
from pages.common.contest import DISTRIBUTIONS, Contest, Outliers
from pages.common.frame import View, page
from pages.common.glossary import define
from pages.common.store import store
from pages.common.theme import THEME
from pages.common.workspace import Workspace
from pages.figures.histogram import Grid, histogram
from pages.figures.layout import CONFIG
from pages.figures.thresholds import Mark, threshold_curve
from pages.lessons import knobs
from qlab.analysis import grid

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
SCHEMES = ("affine", "symmetric")
#: How each knob stands at first, and what it offers, by its key.
KNOBS = {
    "contest_share": (100, range(1, 101)),
    "contest_bits": (4, range(2, 9)),
    "contest_scheme": (SCHEMES[0], SCHEMES),
    "contest_outliers": (0, range(51)),
    "contest_strength": (20, range(5, 101)),
}


def draw(view: View) -> None:
    with knobs.narrow():
        _draw(view)


def _draw(view: View) -> None:
    left, right = st.columns([1, 3], gap="large")
    with left:
        chosen = source.pick(view, "contest", list(DISTRIBUTIONS))
        base = source.layer_statistics(view, "contest") if chosen == source.LAYER else None
    if base is not None or chosen != source.LAYER:
        _bench(view.workspace, chosen, base, (left, right))


@st.fragment
def _bench(
    space: Workspace,
    chosen: str,
    base: TensorStats | None,
    places: tuple[DeltaGenerator, DeltaGenerator],
) -> None:
    """Knobs and charts together: a knob redraws these and nothing else."""
    with messages.shown("contest"):
        left, right = places
        with left:
            held = _held(space, chosen, base)
        with right:
            _charts(held)
        store().save(space)


def _held(space: Workspace, chosen: str, base: TensorStats | None) -> Contest:
    from qlab.dtypes import integer
    from qlab.ranges import TensorSpec

    for key, (at_first, offered) in KNOBS.items():
        address.keep(space, key, at_first, offered)
    share = st.slider(
        "Clip threshold [%]",
        1, 100, key="contest_share", help=define("clip threshold"), persist_state=KEEP,
    )  # fmt: skip
    bits = st.select_slider(
        "Bits", range(2, 9), key="contest_bits", help=define("bits"), persist_state=KEEP
    )
    scheme = st.segmented_control(
        "Scheme", SCHEMES, required=True,
        key="contest_scheme", help=define("scheme"), persist_state=KEEP,
    )  # fmt: skip
    wanted = st.slider(
        "Outliers", 0, 50, key="contest_outliers", help=define("outliers"), persist_state=KEEP
    )
    strength = st.slider(
        "Their size [× RMS]", 5, 100, key="contest_strength",
        help=define("rms"), disabled=not wanted, persist_state=KEEP,
    )  # fmt: skip
    outliers = Outliers(wanted, float(strength))
    stats = (
        contest.made_up(chosen, outliers) if base is None else contest.with_outliers(base, outliers)
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
    config = {
        contest.SQNR: st.column_config.NumberColumn(format="%.1f", help=define("sqnr")),
        **{
            column: st.column_config.TextColumn(title, help=define(term))
            for column, (title, term) in contest.COLUMNS.items()
        },
    }
    st.dataframe(rows, hide_index=True, column_config=config, key="contest_table")


page("Observers", ABOUT, draw)
