"""The bench of *Layer*: knobs, and what they make of the layer, redrawn by each of them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from pages.common import knobs, messages, tensors
from pages.common.format import count, number
from pages.common.frame import View
from pages.common.glossary import define
from pages.common.knobs import Knobs
from pages.common.loaded import Loaded
from pages.common.tensors import Shown
from pages.common.workspace import Draft

if TYPE_CHECKING:
    from qlab.analysis.what_if import WhatIf
    from qlab.graph.plan import Step

Places = tuple[DeltaGenerator, DeltaGenerator, DeltaGenerator]


@st.fragment
def draw(view: View, loaded: Loaded, name: str) -> None:
    """Knobs and charts together: a knob redraws these and nothing else."""
    with messages.shown("bench"):
        quantizable = loaded.lab.layer(name).quantizable
        if not quantizable or loaded.lab.plan(view.mapping).step(name).execution == "shared":
            tensors.draw(Shown("activation", loaded.lab.statistics(name)))
            return
        with st.container(key="verdict"):
            verdict = st.columns([2, 2, 1.5, 2], vertical_alignment="center")
        with st.container(key="sides"):
            left, right = st.columns(2, gap="large")
        step = loaded.lab.plan(view.mapping).step(name)
        draft = _knobs(view, loaded, step, (verdict[2], left, right))
        what = loaded.what_if(name, draft, view.mapping)
        _verdict(view, loaded, (draft, what), verdict)
        with left:
            if draft.weight is None:
                st.caption("This layer has no weight to quantize.")
            else:
                tensors.draw(_weight(loaded, draft, what))
        with right:
            tensors.draw(_activation(loaded, draft, what))


def _knobs(view: View, loaded: Loaded, step: Step, places: Places) -> Draft:
    """Draws the knobs, each above its charts, and remembers how they stand."""
    space, choice, name = view.workspace, view.choice, step.name
    base = loaded.configured(step)
    start = space.draft(choice, name) or base
    token = (choice, name, space.generation)
    top, left, right = places
    with top:
        in_float = knobs.keep_in_float(start.in_float, token)
    weight = activation = None
    if base.weight is not None and start.weight is not None:
        sizes = tuple(loaded.lab.weight(name).shape)
        with left:
            weight = knobs.draw(Knobs("weight", base.weight, start.weight, token, sizes))
    if base.activation is not None and start.activation is not None:
        with right:
            activation = knobs.draw(Knobs("activation", base.activation, start.activation, token))
    space.set_draft(choice, name, Draft(weight, activation, in_float))
    return Draft(weight, activation, in_float)


def _verdict(
    view: View, loaded: Loaded, answer: tuple[Draft, WhatIf], places: Sequence[DeltaGenerator]
) -> None:
    """What the knobs make of the layer, against what the configuration has."""
    draft, what = answer
    configured = loaded.configured(loaded.lab.plan(view.mapping).step(what.name))
    before = None
    if not configured.in_float:
        before = loaded.configured_sqnr(what.name, configured, view.mapping)
    value, change, _, apply = places
    value.metric(
        "Layer output SQNR ↑",
        "float" if draft.in_float else number(what.output_sqnr, "dB"),
        help=define("output sqnr"),
    )
    change.metric(
        "In the configuration ↑",
        "float" if before is None else number(before, "dB"),
        help=define("configured sqnr"),
    )
    how = "in float" if draft.in_float else what.execution
    value.caption(f"on {count(what.samples)} calibration images, {how}")
    unchanged = draft == configured
    change.caption("the knobs stand as configured" if unchanged else "before the knobs were moved")
    if apply.button(
        "Apply to configuration", type="primary", key="apply", disabled=unchanged, width="stretch"
    ):
        view.workspace.apply(view.choice, what.name, draft)
        st.rerun()


def _weight(loaded: Loaded, draft: Draft, what: WhatIf) -> Shown:
    weight, stats = loaded.lab.weight(what.name), loaded.lab.statistics(what.name, "weight")
    if draft.in_float or draft.weight is None:
        return Shown("weight", stats, weight=weight)
    observers = partial(loaded.policies, what.name, draft.weight, "weight")
    label = draft.weight.policy.label
    return Shown("weight", stats, what.weight_qparams, what.weight_error, weight, observers, label)


def _activation(loaded: Loaded, draft: Draft, what: WhatIf) -> Shown:
    stats = loaded.lab.statistics(what.name)
    if draft.in_float or draft.activation is None:
        return Shown("activation", stats)
    observers = partial(loaded.policies, what.name, draft.activation, "activation")
    label = draft.activation.policy.label
    return Shown(
        "activation", stats, what.activation_qparams, what.activation_error, None, observers, label
    )
