"""One output of an integer layer, from codes through the accumulator to a code."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from pages.common import messages
from pages.common.format import count, number, short
from pages.common.frame import View
from pages.common.glossary import TERMS, define
from pages.common.theme import THEME
from pages.figures.layout import CONFIG
from pages.figures.sums import accumulator
from pages.lessons import knobs, outputs
from pages.lessons.worked import hover, in_brackets, lines, signed

if TYPE_CHECKING:
    from qlab.analysis.worked_sums import WorkedSum

SENTENCE = (
    "A layer multiplies codes and adds the products in a 32-bit integer. Only then do the scales "
    "turn the sum into a real number, and the next scale turns that into a code."
)


def draw(view: View) -> None:
    """The sum term by term, and what follows it."""
    left, right = st.columns([1, 3], gap="large")
    with left:
        worked = outputs.pick(view, "sums")
    if worked is not None:
        _bench(view, worked, (left, right))


@st.fragment
def _bench(view: View, worked: WorkedSum, places: tuple[DeltaGenerator, DeltaGenerator]) -> None:
    with messages.shown("sums"):
        left, right = places
        terms = len(worked.x_codes)
        with left:
            done = knobs.slider(
                view.workspace, "sums_done", "Terms added", (1, terms, terms), help=define("terms")
            )
        with right:
            st.html(_formula(worked, done))
            products = worked.products.numpy()
            chart = accumulator(products, worked.partial.numpy(), done)
            st.plotly_chart(chart, key="sums_accumulator", theme=THEME, config=CONFIG)
            numbers = st.columns(4)
            numbers[0].metric("Accumulator", count(worked.accumulator), help=define("accumulator"))
            numbers[1].metric("Code q", count(worked.code), help=define("requantize"))
            numbers[2].metric("Stands for", number(worked.result), help=define("dequantize"))
            numbers[3].metric(
                "Float layer", number(worked.terms.result), help=define("float layer")
            )
            _table(worked)


def _formula(worked: WorkedSum, done: int) -> str:
    y, w_zero = worked.qparams[2], worked.qparams[1].zero_point_value
    z_x, _, z_y = (count(each.zero_point_value) for each in worked.qparams)
    s_x, s_w, s_y = (short(each.scale_value) for each in worked.qparams)
    last = done - 1
    x_code, w_code = (count(int(codes[last])) for codes in (worked.x_codes, worked.weight_codes))
    product, *corrections = worked.parts
    zeros, others, both = (
        hover(signed(part), meaning)
        for part, meaning in zip(
            corrections,
            (
                "− z_x·Σ q_w: what the input's zero point added",
                "− z_w·Σ q_x: what the weight's zero point added",
                "+ K·z_x·z_w: what both corrections took twice",
            ),
            strict=True,
        )
    )
    acc = hover(f"<b>{count(worked.accumulator)}</b>", TERMS["accumulator"])
    real = short(worked.real)
    kept = f"relu({real})" if worked.terms.relu else real
    ends = f"{count(y.quant_min)}, {count(y.quant_max)}"
    error = hover(number(worked.result - worked.terms.result), "output − float output")
    return lines(
        f"term {done}: ({x_code} − {z_x}) · ({w_code} − {in_brackets(w_zero)}) = "
        f"{count(int(worked.products[last]))} → sum {count(int(worked.partial[last]))}",
        f"acc = {hover(count(product), 'Σ q_x·q_w: the codes as they are')} "
        f"{zeros} {others} {both} = {acc}",
        f"{acc} · ({hover(s_x, 's_x: scale of the input')} · "
        f"{hover(s_w, 's_w: scale of the weight')}) "
        f"{hover(signed(worked.terms.bias), 'bias, a real number')} = <b>{real}</b>",
        f"q = clamp(round({kept} / {hover(s_y, 's_y: scale of the output')} + {z_y}), {ends}) = "
        f"<b>{count(worked.code)}</b> → {short(worked.result)} &nbsp; error {error}",
    )


def _table(worked: WorkedSum) -> None:
    rows = pd.DataFrame(
        {
            "x": worked.terms.x.numpy(),
            "q_x": worked.x_codes.numpy(),
            "w": worked.terms.weight.numpy(),
            "q_w": worked.weight_codes.numpy(),
            "product": worked.products.numpy(),
            "sum": worked.partial.numpy(),
        }
    )
    rows.index = pd.RangeIndex(1, len(rows) + 1, name="term")
    real = st.column_config.NumberColumn
    st.dataframe(
        rows,
        key="sums_table",
        height=250,
        column_config={
            "x": real("Input x", format="%.4g", help=define("float input")),
            "q_x": real("Code q_x", help=define("quantize")),
            "w": real("Weight w", format="%.4g", help=define("float weight")),
            "q_w": real("Code q_w", help=define("quantize")),
            "product": real("(q_x − z_x)·(q_w − z_w)", help=define("product")),
            "sum": real("Accumulator", help=define("accumulator")),
        },
    )
