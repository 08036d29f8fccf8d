"""What cannot fold: every norm of the loaded model, and what became of it."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from pages.common.frame import View
from pages.common.glossary import define
from pages.common.loaded import Loaded
from pages.lessons import fold

SENTENCE = (
    "Only a batch norm directly after a convolution or linear layer folds. After an addition there "
    "are no weights to multiply; the other norms compute their mean anew for every input."
)
HINT = "Choose the model *Network of unfused norms* in the sidebar to see every kind that stays."


def draw(view: View) -> None:
    """The table of norms."""
    rows = table(view.loaded())
    if rows.empty:
        st.info(f"The loaded model has no norms. {HINT}")
        return
    stays = list(rows["becomes"]).count(STAYS)
    first, second = st.columns(2)
    first.metric("Norms that fold", str(len(rows) - stays), help=define("folds"))
    second.metric("Steps of their own", str(stays), help=define("stays a step"))
    st.dataframe(
        rows,
        hide_index=True,
        key="unfolded_table",
        column_config={
            "norm": st.column_config.TextColumn("Norm", width=150),
            "type": st.column_config.TextColumn("Type", width=120),
            "after": st.column_config.TextColumn("After", width=170),
            "becomes": st.column_config.TextColumn("Becomes", width=170, help=define("folds")),
            "why": st.column_config.TextColumn("Why", width=430),
        },
    )
    if not stays:
        st.caption(HINT)


STAYS = "a step of its own"


def table(loaded: Loaded) -> pd.DataFrame:
    """Every norm of the model: what it comes after, what it becomes, and why."""
    folded = fold.pairs(loaded)
    types = {layer.name: layer.type for layer in loaded.lab.layers}
    modules = dict(loaded.sample.model.named_modules())
    rows = []
    for layer in loaded.lab.layers:
        if norm := folded.get(layer.name):
            kind, why = type(modules[norm]).__name__, "fixed numbers after a layer with weights"
            rows.append((norm, kind, f"{layer.name} ({layer.type})", "part of those weights", why))
        if "Norm" in layer.type:
            before = ", ".join(f"{name} ({types.get(name, 'input')})" for name in layer.inputs)
            rows.append((layer.name, layer.type, before, STAYS, _why(layer.type)))
    return pd.DataFrame(rows, columns=["norm", "type", "after", "becomes", "why"])


def _why(kind: str) -> str:
    if "BatchNorm" in kind:
        return "what it comes after has no weights that alone feed it"
    return "mean and variance are those of each input, not fixed in training"
