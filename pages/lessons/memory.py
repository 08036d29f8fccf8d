"""Every format on one tensor: the bytes it takes against the error it makes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
import streamlit as st

from pages.common import source
from pages.common.format import size
from pages.common.frame import View
from pages.common.glossary import define
from pages.common.theme import THEME
from pages.figures.formats import memory_and_error
from pages.figures.layout import CONFIG
from pages.lessons import granularity, knobs

if TYPE_CHECKING:
    from torch import Tensor

    from qlab.analysis.formats import FormatCost
    from qlab.stats import TensorStats

SENTENCE = (
    "Each bit more costs memory and halves the error. Points high and to the left are the better "
    "bargain."
)
ACTIVATION, WEIGHT = "values", "weights"


def draw(view: View) -> None:
    """A point per format, and all of them in numbers."""
    left, right = st.columns([1, 3], gap="large")
    with left:
        what = knobs.segmented(view.workspace, "memory_what", "Of", (ACTIVATION, WEIGHT))
        x = source.statistics(view, "memory") if what == ACTIVATION else _weight(view)
    if x is None:
        return
    with right:
        rows = _rows(x)
        from qlab.analysis.formats import DB_PER_BIT

        chart = memory_and_error(rows, db_per_bit=DB_PER_BIT)
        st.plotly_chart(chart, key="memory_chart", theme=THEME, config=CONFIG)
        _table(rows)


def _weight(view: View) -> Tensor | None:
    chosen = source.pick(view, "memory_weight", list(granularity.MADE_UP), "Weight")
    if chosen == source.LAYER:
        weight = source.layer_weight(view, "memory_weight")
        return None if weight is None else weight.flatten(1)
    return granularity.made_up(chosen)


def _rows(x: Tensor | TensorStats) -> pd.DataFrame:
    from qlab.analysis.formats import format_costs
    from qlab.granularity import PerAxis, PerTensor
    from qlab.stats import TensorStats

    each = (PerTensor(),) if isinstance(x, TensorStats) else (PerTensor(), PerAxis(0))
    return pd.DataFrame([_row(cost) for cost in format_costs(x, each)])


def _row(cost: FormatCost) -> dict[str, object]:
    from qlab.granularity import PerTensor

    per_tensor = isinstance(cost.granularity, PerTensor)
    return {
        "format": cost.dtype.name.removeprefix("q").removesuffix("fn").replace("_", " "),
        "one scale": granularity.KINDS[0 if per_tensor else 1],
        "float": cost.dtype.is_float,
        "bytes": cost.bytes,
        "bits a value": cost.bits_per_value,
        "SQNR": cost.error.sqnr_db,
    }


def _table(rows: pd.DataFrame) -> None:
    shown = rows.drop(columns="float").assign(bytes=[size(each) for each in rows["bytes"]])
    column = st.column_config
    st.dataframe(
        shown,
        hide_index=True,
        height=260,
        key="memory_table",
        column_config={
            "format": column.TextColumn("Format", help=define("format")),
            "one scale": column.TextColumn("One scale", help=define("granularity")),
            "bytes": column.TextColumn("Codes and scales ↓", help=define("stored bytes")),
            "bits a value": column.NumberColumn(
                "Bits a value ↓", format="%.3g", help=define("bits per value")
            ),
            "SQNR": column.NumberColumn("SQNR [dB] ↑", format="%.1f", help=define("sqnr")),
        },
    )
