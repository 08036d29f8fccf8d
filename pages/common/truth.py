"""The truth table: what was asked of every layer, what it gets, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st

from pages.common import selection
from pages.common.format import escape, layer_name
from pages.common.frame import View
from pages.common.loaded import Loaded

if TYPE_CHECKING:
    from qlab.graph.plan import Plan

#: Title, meaning and width in pixels of each column of the truth table.
COLUMNS = {
    "requested": ("Asked", "What the matching rule of the configuration asks for.", 190),
    "rule": ("By rule", "The rule that decided; more specific ones win.", 100),
    "execution": (
        "Runs as",
        "integer: codes in, codes out. simulated: float arithmetic on quantized numbers. shared: "
        "moves codes as they are. float: as in the original model.",
        75,
    ),
    "reason": ("Why", "Why it was resolved this way.", 170),
    "weight": ("Weight", "How its weight is stored.", 170),
    "output": ("Output", "How its output leaves.", 170),
    "inputs": ("Input", "How its inputs arrive.", 170),
    "type": ("Type", "The layer's class, or the function's name.", 100),
    "fused": ("Fused", "Layers that were folded into this one.", 110),
}


def draw(view: View, loaded: Loaded, plan: Plan) -> None:
    """Draws the table, the rules that match nothing, and the story of the selected row."""
    frame = plan.to_frame()
    counts = frame["execution"].value_counts()
    st.caption(" · ".join(f"{number} {kind}" for kind, number in counts.items()))
    for rule in plan.unmatched:
        st.warning(f"This rule matches nothing in the model: {escape(rule)}")
    st.dataframe(
        frame[list(COLUMNS)],
        key="plan",
        on_select="rerun",
        selection_mode="single-row",
        column_config={
            "layer": st.column_config.TextColumn("Layer", pinned=True),
            **{
                column: st.column_config.TextColumn(title, help=meaning, width=width)
                for column, (title, meaning, width) in COLUMNS.items()
            },
        },
    )
    selection.from_table(view, "plan", list(frame.index))
    name = selection.current(view, loaded.lab)
    row = frame.loc[name]
    with st.container(border=True, key="selected"):
        title, link = st.columns([8, 1], vertical_alignment="center")
        title.html(f"selected&nbsp; {layer_name(name)}")
        with link:
            selection.link(view, loaded, name)
        st.text(
            f"Asked, by the rule '{row['rule']}': {row['requested']}.\n"
            f"Runs as {row['execution']}: {row['reason']}."
        )
