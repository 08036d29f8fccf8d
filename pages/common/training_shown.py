"""Fine-tuning as it is offered: how many steps, how long they take, and a button that tries it."""

from __future__ import annotations

import streamlit as st

from pages.common import address, messages, training
from pages.common.format import count, duration, escape
from pages.common.frame import View
from pages.common.glossary import define
from pages.common.loaded import Loaded
from pages.common.recipes import Recipe


def asked(view: View) -> bool:
    """Whether training is what is being tried."""
    recipe = view.workspace.trial(view.choice)
    return isinstance(recipe, Recipe) and recipe.algorithm == training.NAME


def offer(view: View, loaded: Loaded) -> None:
    """Draws the way to train the model; one step is timed when it is opened, nothing before."""
    traced = loaded.lab.traced
    place = st.popover(
        "Train on with the rounding…",
        icon=":material/model_training:",
        key="training",
        on_change="rerun",
        disabled=not traced,
        help=define("fine-tuning")
        if traced
        else "This model could not be traced, and training needs its graph.",
        width="content",
    )
    if place.open:
        with place, messages.shown("training"):
            _form(view, loaded)


def _form(view: View, loaded: Loaded) -> None:
    row = training.row()
    st.markdown(
        f"**{escape(row.title)}** {escape(row.about)}, on the calibration data. "
        "All layers are trained; you see what that buys before anything is applied.",
        help=escape(row.paper),
    )
    address.keep(view.workspace, "training_steps", training.STEPS[1], training.STEPS)
    steps = st.segmented_control(
        "Steps",
        training.STEPS,
        key="training_steps",
        format_func=count,
        required=True,
        help=define("training steps"),
        persist_state="session",
    )
    steps = steps or training.STEPS[1]
    with st.spinner("Timing one step"):
        each = training.seconds(loaded, view.mapping)
    recipe = training.recipe(view.mapping, steps)
    st.button(
        f"Try {escape(row.title)}: about {duration(steps * each)}"
        if each
        else "No layer has a quantized weight",
        key="try_training",
        icon=":material/build:",
        type="primary",
        on_click=view.workspace.try_repair,
        args=(view.choice, recipe),
        disabled=not each or recipe == view.workspace.trial(view.choice),
        help="It may end earlier: a part of the data is held out, and training stops where that "
        "does not get better.",
    )
