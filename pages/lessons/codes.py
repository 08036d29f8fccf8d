"""What every code of a format means, and how finely formats resolve."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from pages.common import messages, source
from pages.common.format import count, number, short
from pages.common.frame import View
from pages.common.glossary import TERMS, define
from pages.common.theme import THEME
from pages.figures.formats import code_line, resolution
from pages.figures.layout import CONFIG
from pages.lessons import knobs
from pages.lessons.worked import hover, lines
from qlab.analysis import grid

if TYPE_CHECKING:
    from qlab.dtypes import QDType
    from qlab.qparams import QParams

SENTENCE = (
    "A code is a pattern of bits. Of an integer it counts steps of one scale; of float8 it holds a "
    "sign, an exponent and a mantissa."
)
RESOLUTION = (
    "Integers keep the step, so small values suffer most. Float8 keeps the step in proportion to "
    "the value."
)
FLOATS = ("float8 e4m3", "float8 e5m2")
INTEGERS = tuple(f"{bits}-bit integer" for bits in range(2, 9))
UNIT, OF_LAYER = "scale 1", "scale of a layer"


def draw(view: View) -> None:
    """All codes on a line, one of them taken apart."""
    left, right = st.columns([1, 3], gap="large")
    with left:
        space = view.workspace
        options = [*INTEGERS, *FLOATS]
        name = knobs.choice(space, "codes_format", "Format", options, INTEGERS[2])
        signed = True
        if name in INTEGERS:
            sign = knobs.segmented(
                space, "codes_sign", "Codes", ("signed", "unsigned"), help=define("signs")
            )
            signed = sign == "signed"
        qparams = _qparams(view, dtype_of(name, signed=signed))
    if qparams is not None:
        _bench(view, qparams, (left, right))


def dtype_of(name: str, *, signed: bool) -> QDType:
    """A format by what the page calls it."""
    from qlab.dtypes import as_qdtype, integer

    if name in INTEGERS:
        return integer(int(name[0]), signed=signed)
    return as_qdtype({"float8 e4m3": "float8_e4m3fn", "float8 e5m2": "float8_e5m2"}[name])


def _qparams(view: View, dtype: QDType) -> QParams | None:
    """Scale 1, or the scale that covers a layer's tensor."""
    from qlab.qparams import QParams
    from qlab.ranges import TensorSpec

    if knobs.segmented(view.workspace, "codes_scale", "Scale", (UNIT, OF_LAYER)) == UNIT:
        return QParams.per_tensor(1.0, 0, dtype)
    stats = source.layer_statistics(view, "codes")
    if stats is None:
        return None
    return TensorSpec(dtype, symmetric=dtype.signed and not dtype.is_float).qparams(stats)


@st.fragment
def _bench(view: View, qparams: QParams, places: tuple[DeltaGenerator, DeltaGenerator]) -> None:
    from qlab.analysis.formats import all_codes

    with messages.shown("codes"):
        left, right = places
        table = all_codes(qparams)
        finite = np.isfinite(table["value"].to_numpy(float))
        ordered: pd.DataFrame = table.loc[finite].sort_values(by="value", kind="stable")
        key = f"codes_at_{len(ordered)}"
        with left:
            limits = (0, len(ordered) - 1, len(ordered) * 3 // 4)
            at = knobs.slider(
                view.workspace, key, "Code, from the smallest up", limits, help=define("code")
            )
        with right:
            bits, code, value = (list(ordered[name])[at] for name in ("bits", "code", "value"))
            st.html(_meaning(str(bits), int(code), float(value), qparams))
            labels = [
                f"{bits} (code {code})"
                for bits, code in zip(ordered["bits"], ordered["code"], strict=True)
            ]
            chart = code_line(ordered["value"].to_numpy(), labels, at)
            st.plotly_chart(chart, key="codes_line", theme=THEME, config=CONFIG)
            _table(table, qparams)


def _meaning(pattern: str, code: int, real: float, qparams: QParams) -> str:
    bits = hover(f"<b>{pattern}</b>", TERMS["bit pattern"])
    scale = hover(short(qparams.scale_value), TERMS["scale"])
    value = hover(f"<b>{short(real)}</b>", "what the code stands for")
    if qparams.dtype.is_float:
        sign, exponent, mantissa = pattern.split()
        return lines(
            f"{bits} → sign {sign}, exponent {exponent}, mantissa {mantissa}",
            f"float8 value · {scale} = {value}",
        )
    zero = hover(count(qparams.zero_point_value), TERMS["zero point"])
    return lines(
        f"{bits} → code q = {count(code)}", f"({count(code)} − {zero}) · {scale} = {value}"
    )


def _table(table: pd.DataFrame, qparams: QParams) -> None:
    values = table["value"].to_numpy(float)
    finite = np.isfinite(values)
    largest = float(values[finite].max())
    note = f"{count(len(table))} codes"
    if not finite.all():
        note += f", of which {count((~finite).sum())} stand for no number (NaN, ∞)"
    st.caption(f"{note}; largest value {number(largest)}.")
    shown = table.assign(
        code=[count(code) for code in table["code"]],
        value=[short(value) for value in table["value"]],
    )
    label = "Byte" if qparams.dtype.is_float else "Code q"
    st.dataframe(
        shown,
        hide_index=True,
        height=260,
        key="codes_table",
        column_config={
            "bits": st.column_config.TextColumn("Bits", help=define("bit pattern")),
            "code": st.column_config.TextColumn(label, help=define("code"), alignment="right"),
            "value": st.column_config.TextColumn(
                "Stands for", help=define("dequantize"), alignment="right"
            ),
        },
    )


def draw_resolution(view: View) -> None:
    """Formats that cover the same range, step against magnitude."""
    from qlab.analysis.formats import FLOAT8, spacing
    from qlab.dtypes import integer
    from qlab.ranges import TensorSpec

    left, right = st.columns([1, 3], gap="large")
    with left:
        stats = source.statistics(view, "resolution")
        bits = knobs.bits(view.workspace, "resolution", 8)
        how = knobs.segmented(
            view.workspace, "resolution_how", "Step", ("relative", "absolute"),
            help=define("relative step"),
        )  # fmt: skip
    if stats is None:
        return
    names = (f"{bits}-bit integer", *FLOATS)
    dtypes = (integer(bits, signed=True), *FLOAT8)
    qparams = {
        name: TensorSpec(dtype, symmetric=not dtype.is_float).qparams(stats)
        for name, dtype in zip(names, dtypes, strict=True)
    }
    rows = {name: spacing(each) for name, each in qparams.items()}
    with right:
        columns = st.columns(3)
        for column, (name, each) in zip(columns, qparams.items(), strict=True):
            high = float(grid.bounds(each)[1])
            first = float(rows[name]["value"].to_numpy(float).min())
            column.metric(name, f"{number(first)} … {number(high)}", help=define("levels from to"))
        chart = resolution(rows, relative=how == "relative")
        st.plotly_chart(chart, key="resolution_chart", theme=THEME, config=CONFIG)
        st.caption(
            "All three cover the same tensor. Left of its first level a format knows only 0."
        )
