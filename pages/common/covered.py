"""The table of *Coverage*: read once, filtered by words and kinds."""

from __future__ import annotations

import zlib

import pandas as pd
import streamlit as st


@st.cache_data(show_spinner="Reading the names")
def names() -> pd.DataFrame:
    """Every public name of the reference, as the engine describes it."""
    from qlab.coverage import table

    return table()


def filtered(table: pd.DataFrame, text: str, kinds: list[str]) -> pd.DataFrame:
    """The rows of some kinds (of all, if none are chosen) that hold every word of a search."""
    if kinds:
        table = table.loc[table["kind"].isin(kinds)]
    for word in text.lower().split():
        columns = table[["name", "does", "place"]].agg(" ".join, axis=1)
        table = table.loc[columns.str.lower().str.contains(word, regex=False)]
    return table


def key(text: str, kinds: list[str]) -> str:
    """A key for the table under a filter, so that a selection never outlives its rows."""
    return f"coverage_{zlib.crc32(repr((text, kinds)).encode())}"
