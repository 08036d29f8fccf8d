"""Where a lesson's numbers come from: made up, or a tensor of the loaded model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import streamlit as st

from pages.common import address
from pages.common.frame import View

if TYPE_CHECKING:
    from torch import Tensor

    from qlab.stats import TensorStats

LAYER = "a layer of the model"
TENSORS = {"output": "activation", "weight": "weight"}


def pick(
    view: View,
    prefix: str,
    made_up: Sequence[str],
    label: str = "Tensor",
    at_first: str | None = None,
) -> str:
    """Draws the choice between made-up tensors and the model's layers; returns what was chosen."""
    key, options = f"{prefix}_source", [*made_up, LAYER]
    address.keep(view.workspace, key, at_first or options[0], options)
    return st.selectbox(label, options, key=key, persist_state="session")


def layer(view: View, prefix: str, names: Sequence[str]) -> str | None:
    """Draws the choice of a layer; None, with what to do, where the model has none to offer."""
    if not names:
        st.info("The loaded model has no layer of that kind. Choose another model in the sidebar.")
        return None
    key = f"{prefix}_layer"
    address.keep(view.workspace, key, names[0], names)
    return st.selectbox("Layer", names, key=key, persist_state="session")


def layer_statistics(view: View, prefix: str) -> TensorStats | None:
    """Draws the choice of a layer's output or weight; returns what calibration saw of it."""
    loaded = view.loaded()
    name = layer(view, prefix, [each.name for each in loaded.lab.layers if each.quantizable])
    if name is None:
        return None
    kinds = list(TENSORS) if loaded.has_weight(name) else ["output"]
    key = f"{prefix}_kind"
    address.keep(view.workspace, key, kinds[0], kinds)
    kind = st.segmented_control("Of it", kinds, key=key, required=True, persist_state="session")
    return loaded.lab.statistics(name, TENSORS[kind or kinds[0]])


def layer_weight(view: View, prefix: str) -> Tensor | None:
    """Draws the choice of a layer with a weight; returns that."""
    loaded = view.loaded()
    names = [each.name for each in loaded.lab.layers if loaded.has_weight(each.name)]
    name = layer(view, prefix, names)
    return None if name is None else loaded.lab.weight(name)


def statistics(view: View, prefix: str, at_first: str | None = None) -> TensorStats | None:
    """Draws the whole choice; a made-up tensor or a layer's, as statistics."""
    from pages.common import contest

    source = pick(view, prefix, list(contest.DISTRIBUTIONS), at_first=at_first)
    if source == LAYER:
        return layer_statistics(view, prefix)
    return contest.made_up(source, contest.Outliers(0, 0.0))
