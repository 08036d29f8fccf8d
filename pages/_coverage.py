"""Coverage: every public name of the reference, what it does, and where it runs."""

from __future__ import annotations

from typing import Any

import streamlit as st

from pages.common import covered
from pages.common.format import escape
from pages.common.frame import View, page
from pages.common.glossary import define

ABOUT = """
qlab has the names of PyTorch's deprecated quantization API, `torch.ao.quantization`, under the same
names, on an engine of its own. This table is read off the code: docstrings, the registry of layers
and the table of kernels. Select a row to read the whole documentation.

*Any* device means plain PyTorch operators. The data types are those of the codes; *any* stands
where a name does not look at them, *as the qconfigs ask* where it quantizes a model.
"""
#: All columns fit a window of 853 pixels; a cell of more than 64 wraps its text.
SHOWN = ("name", "kind", "does", "data types", "devices")
ROW = 74


def draw(view: View) -> None:
    table = covered.names()
    text = st.text_input(
        "Search", key="coverage_search", placeholder="name, place or what it does",
        persist_state="session",
    )  # fmt: skip
    chosen = st.pills(
        "Kind", list(dict.fromkeys(table["kind"])), selection_mode="multi", key="coverage_kind",
        persist_state="session",
    )  # fmt: skip
    shown = covered.filtered(table, text or "", chosen)
    st.caption(f"{len(shown)} of {len(table)} names")
    if shown.empty:
        st.info("No name matches. Clear the search or choose other kinds.")
        return
    event = st.dataframe(
        shown[list(SHOWN)],
        hide_index=True,
        on_select="rerun",
        selection_mode="single-row",
        height=520,
        row_height=ROW,
        key=covered.key(text or "", chosen),
        column_config={
            "name": st.column_config.TextColumn("Name", width=136, pinned=True),
            "kind": st.column_config.TextColumn("Kind", width=84),
            "does": st.column_config.TextColumn("What it does", width=168),
            "data types": st.column_config.TextColumn(
                "Data types", help=define("covered dtypes"), width=104
            ),
            "devices": st.column_config.TextColumn(
                "Devices", help=define("covered devices"), width=90
            ),
        },
    )
    st.download_button(
        "Download the table", shown.to_csv(index=False), "qlab-coverage.csv", "text/csv",
        key="coverage_download", on_click="ignore",
    )  # fmt: skip
    _detail(shown, event["selection"]["rows"])


def _detail(shown: Any, rows: list[int]) -> None:
    """The whole documentation of the selected name."""
    if not rows:
        st.caption("Select a row to read its documentation.")
        return
    row = shown.iloc[rows[0]]
    with st.container(border=True, key="coverage_detail"):
        st.markdown(
            f"**{escape(row['place'] + '.' + row['name'])}** · in the reference "
            f"{escape(row['reference'])}"
        )
        st.code(row["documentation"], language=None, wrap_lines=True)


page("Coverage", ABOUT, draw, of_model=False)
