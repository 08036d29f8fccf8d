"""Reduced range: pairs of products that 16 bits cannot hold, and one bit less that helps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from pages.common import messages
from pages.common.format import count, number
from pages.common.frame import View
from pages.common.glossary import TERMS, define
from pages.common.theme import THEME
from pages.figures.layout import CONFIG
from pages.figures.sums import pair_sums
from pages.lessons import knobs, outputs
from pages.lessons.worked import hover, in_brackets, lines

if TYPE_CHECKING:
    from qlab.analysis.worked_sums import WorkedSum

SENTENCE = (
    "Older x86 processors add two products of 8-bit codes in 16 bits, and what does not fit is "
    "lost. `reduce_range` gives the input one bit less, so that every pair fits."
)
RANGES = ("all 8 bits", "reduced range")


def draw(view: View) -> None:
    """The pairs of one output against what 16 bits hold."""
    left, right = st.columns([1, 3], gap="large")
    with left:
        worked = outputs.pick(view, "saturation", bright=True)
    if worked is not None:
        _bench(view, worked, (left, right))


@st.fragment
def _bench(view: View, worked: WorkedSum, places: tuple[DeltaGenerator, DeltaGenerator]) -> None:
    from qlab.analysis.worked_sums import INT16, with_reduced_range, worked_sum

    with messages.shown("saturation"), places[1]:
        used = knobs.segmented(
            view.workspace,
            "saturation_range",
            "Input codes",
            RANGES,
            help=define("reduce_range"),
        )
        if used == RANGES[1]:
            worked = worked_sum(worked.terms, with_reduced_range(worked.qparams))
        st.html(_formula(worked))
        chart = pair_sums(worked.pairs.numpy(), worked.saturated.numpy(), (INT16.min, INT16.max))
        st.plotly_chart(chart, key="saturation_pairs", theme=THEME, config=CONFIG)
        _numbers(worked)


def _formula(worked: WorkedSum) -> str:
    first = 2 * worked.worst_pair
    zero = worked.qparams[1].zero_point_value
    factors = [
        f"{count(int(x))} · {in_brackets(int(w) - zero)}"
        for x, w in zip(
            worked.x_codes[first : first + 2], worked.weight_codes[first : first + 2], strict=True
        )
    ]
    exact, held = (int(t[worked.worst_pair]) for t in (worked.pairs, worked.saturated))
    x = worked.qparams[0]
    verdict = "it fits" if exact == held else f"<b>{count(exact - held)} is lost</b>"
    return lines(
        f"input codes {count(x.quant_min)} to {count(x.quant_max)}, largest pair:",
        f"{' + '.join(factors)} = <b>{count(exact)}</b> → "
        f"{hover('16 bits', TERMS['int16'])} hold {count(held)}: {verdict}",
    )


def _numbers(worked: WorkedSum) -> None:
    numbers = st.columns(4)
    numbers[0].metric(
        "Pairs that saturate ↓",
        f"{count(worked.saturated_pairs)} of {count(len(worked.pairs))}",
        help=define("saturation"),
    )
    numbers[1].metric("Output, 16-bit pairs", number(worked.saturated_result), help=define("int16"))
    numbers[2].metric("Output, exact sum", number(worked.result), help=define("accumulator"))
    numbers[3].metric("Float layer", number(worked.terms.result), help=define("float layer"))
    st.caption(
        "qlab sums exactly on every device, so it never needs a reduced range. It costs one bit of "
        "the input: about 6 dB."
    )
