"""What is measured of a converted model: whether its simulation can be trusted, and its time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st

from pages.common import conversion
from pages.common.format import count, number, percent, size
from pages.common.frame import View
from pages.common.glossary import define
from pages.common.loaded import Loaded

if TYPE_CHECKING:
    import pandas as pd

    from qlab.analysis.fidelity import Fidelity
    from qlab.analysis.latency import Latency, Spread

Columns = tuple[tuple[str, str, str, int], ...]
PLACES = ("local", "accumulated")
#: Column of the engine's table, title, term of the glossary, and width in pixels.
COLUMNS: Columns = (
    ("sqnr_float_fake", "float – simulated", "float and simulation", 115),
    ("sqnr_float_integer", "float – integer", "float and integers", 105),
    ("sqnr_fake_integer", "simulated – integer", "simulation and integers", 130),
    ("exact", "Equal codes", "exact codes", 95),
    ("off_by_1", "Off by 1", "off by", 70),
    ("off_by_2", "by 2", "off by", 60),
    ("off_by_more", "by more", "off by", 70),
    ("max_steps", "Largest", "largest difference", 70),
    ("ties", "Ties", "ties", 65),
)


def draw(view: View, loaded: Loaded) -> None:
    """Both measurements, the slower one below; ends the page's run while one is being made."""
    st.subheader("Simulation and integers", anchor=False, help=define("simulation"))
    _fidelity(conversion.fidelity(loaded, view.mapping, view.workspace))
    st.subheader("Latency on this machine", anchor=False, help=define("latency"))
    _latency(conversion.latency(loaded, view.mapping, view.workspace))


def sizes(table: pd.DataFrame) -> None:
    """Draws what every layer takes before and after.

    Args:
        table: The engine's, bytes by layer.
    """
    st.subheader("Size by layer", anchor=False, help=define("layer size"))
    before, after = (table[column] for column in ("float_bytes", "quantized_bytes"))
    st.caption(
        f"All layers: {size(sum(before))} in float, {size(sum(after))} quantized. What has no "
        "parameters takes nothing."
    )
    told = define("layer size")
    st.dataframe(
        table.assign(share=100 * after / before.where(before > 0)),
        key="sizes",
        column_config={
            "layer": st.column_config.TextColumn("Layer", pinned=True),
            "float_bytes": st.column_config.NumberColumn(
                "Float [B]", format="localized", help=told
            ),
            "quantized_bytes": st.column_config.NumberColumn(
                "Quantized [B] ↓", format="localized", help=told
            ),
            "share": st.column_config.ProgressColumn(
                "Quantized / float [%] ↓",
                format="%.3g %%",
                min_value=0,
                max_value=100,
                help="Quantized bytes over float bytes. Empty where the layer has no parameters.",
            ),
        },
    )


def _fidelity(fidelity: Fidelity) -> None:
    out = fidelity.output
    told = f"Network output, simulated and integer: {number(out['sqnr_fake_integer'], 'dB')} SQNR"
    if "top1_fake_integer" in out:
        told += f", the same class on {number(out['top1_fake_integer'], '%')}"
    st.caption(f"{told} of {count(fidelity.samples)} images.")
    agreement(fidelity.table, COLUMNS, "fidelity")


def agreement(table: pd.DataFrame, columns: Columns, key: str) -> None:
    """Draws how far two networks' tensors agree, each fed the same, or inside its network.

    Args:
        table: The engine's, each column once with ``_local`` and once with ``_accumulated``.
        columns: Which, as `COLUMNS`.
        key: Of the table; the choice beside it is kept under ``<key>_where``.
    """
    where = st.segmented_control(
        "Fed with",
        PLACES,
        default=PLACES[0],
        required=True,
        key=f"{key}_where",
        label_visibility="collapsed",
        persist_state="session",
    )
    st.dataframe(
        _shown(table, columns, str(where)),
        key=key,
        column_config={
            str(table.index.name): st.column_config.TextColumn(
                str(table.index.name).capitalize(), pinned=True
            ),
            **{
                title: st.column_config.TextColumn(
                    title, help=define(term), width=width, alignment="right"
                )
                for _, title, term, width in columns
            },
        },
    )


def _shown(table: pd.DataFrame, columns: Columns, where: str) -> pd.DataFrame:
    """The engine's table in words: decibels, shares and whole numbers."""
    shown: dict[str, list[str]] = {}
    for column, title, _, _ in columns:
        words = count
        if column.startswith("sqnr"):
            words = _decibels
        elif column == "exact":
            words = _share
        shown[title] = [words(value) for value in table[f"{column}_{where}"]]
    return type(table)(shown, index=table.index)


def _decibels(value: float) -> str:
    return number(value, "dB")


def _share(value: float) -> str:
    return "real numbers" if value != value else percent(value)  # NaN: there are no codes


def _latency(latency: Latency) -> None:
    before, after, ratio = st.columns(3)
    for place, name, spread in (
        (before, "Float", latency.floating),
        (after, "Quantized", latency.quantized),
    ):
        place.metric(name, number(spread.median, "ms"), help=define("latency"))
        place.caption(_quartiles(spread))
    ratio.metric("Float / quantized", f"{number(latency.ratio)}×", help=define("latency ratio"))
    ratio.caption("above 1: the quantized network was faster")
    st.caption(f"{latency.describe()}. Another machine, batch or load gives other numbers.")


def _quartiles(spread: Spread) -> str:
    return f"half of the runs between {number(spread.low)} and {number(spread.high, 'ms')}"
