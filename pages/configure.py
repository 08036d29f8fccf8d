"""Configure: what is asked of every layer, by preset, by rule and one by one, and what it gets."""

from __future__ import annotations

import streamlit as st

from pages.common import bulk, editor, rules, sidebar, truth
from pages.common.format import escape
from pages.common.frame import View, page

ABOUT = """
A configuration is a preset and rules that change it. The first table says what is **asked** of each
layer, W for its weight and A for its output; type into it, or change many rows at once. The rules
below it reach many layers by name or type.

The last table says what each layer **gets**, by which rule, and why: not everything that can be
asked for has an integer form. Every change can be undone in the sidebar, one at a time.
"""


def draw(view: View) -> None:
    loaded = view.loaded()
    name = sidebar.label(view.choice.model, loaded.sample.trained)
    st.markdown(f"**{escape(name)}** · {escape(view.choice.preset)}")
    _presets(view)
    st.subheader(
        "Asked of each layer",
        anchor=False,
        help="A layer without a rule of its own has this from a weaker rule, in the end from the "
        "preset.",
    )
    held = editor.draw(view, loaded)
    bulk.draw(view, loaded, held)
    plan = loaded.lab.plan(view.mapping)
    rules.draw(view, loaded, plan)
    st.subheader("What each layer gets", anchor=False)
    truth.draw(view, loaded, plan)


def _presets(view: View) -> None:
    """The presets side by side; the sidebar's choice is the same."""
    from qlab.presets import PRESETS

    st.session_state.configure_preset = view.choice.preset
    st.pills(
        "Preset",
        list(PRESETS),
        format_func=lambda name: PRESETS[name].title,
        key="configure_preset",
        required=True,
        on_change=_choose,
        help="A named configuration to begin with. Each keeps the changes that you made to it.",
    )


def _choose() -> None:
    sidebar.choose("preset", st.session_state.configure_preset)


page("Configure", ABOUT, draw, live_jobs=False)
