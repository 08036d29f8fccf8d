"""Changing many rows of the table on *Configure* at once."""

from __future__ import annotations

from collections import Counter

import streamlit as st

from pages.common import address, editor, rows
from pages.common.editor import TITLES, Held
from pages.common.frame import View
from pages.common.loaded import Loaded
from pages.common.rows import COLUMNS, IN_FLOAT

SWITCH = {"in float": True, "quantized": False}


def draw(view: View, loaded: Loaded, held: Held) -> None:
    """Draws what to set, to what, and for which rows."""
    what, value, picked, every = st.columns([3, 3, 2, 2], vertical_alignment="bottom")
    column = what.selectbox(
        "Change in many rows",
        COLUMNS,
        format_func=lambda column: "keep in float" if column == IN_FLOAT else column,
        index=COLUMNS.index("weight bits"),
        key="bulk_column",
        help=TITLES[IN_FLOAT][1],
        persist_state="session",
    )
    offered = [*SWITCH] if column == IN_FLOAT else rows.options(loaded, held.seen.values())[column]
    key = f"bulk_to_{column}"
    # What most rows have: a click too early changes little.
    now = Counter(str(row.get(column)) for row in held.seen.values()).most_common()
    at_first = next((value for value, _ in now if value in offered), offered[0])
    address.keep(view.workspace, key, at_first, offered)
    chosen = value.selectbox("To", offered, key=key, persist_state="session")
    new = SWITCH.get(chosen, chosen)
    picked.button(
        f"Set for the {len(held.picked)} picked" if held.picked else "Set for picked rows",
        key="bulk_picked",
        disabled=not held.picked,
        on_click=editor.set_all,
        args=(view, loaded, held.picked, column, new),
        help="Rows are picked by the tick in their second column.",
        width="stretch",
    )
    every.button(
        f"Set for all {len(held.seen)}",
        key="bulk_all",
        on_click=editor.set_all,
        args=(view, loaded, list(held.seen), column, new),
        width="stretch",
    )
