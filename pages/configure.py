"""Configure: what is asked of every layer, by preset, by rule and one by one, and what it gets."""

from __future__ import annotations

import streamlit as st

from pages.common import address, bulk, editor, rules, sidebar, truth
from pages.common.format import escape
from pages.common.frame import View, page

ABOUT = """
A configuration is a preset and rules that change it. The left table says what is **asked** of each
layer, W for its weight and A for its output; type into it, or change many rows at once. The rules
below it reach many layers by name or type.

The right table says what each layer **gets**, by which rule, and why: not everything that can be
asked for has an integer form. Click a row to read all of it. Every change can be undone in the
sidebar, one at a time.
"""


def draw(view: View) -> None:
    loaded = view.loaded()
    name = sidebar.label(view.choice.model, loaded.sample.trained)
    st.markdown(f"**{escape(name)}** · {escape(view.choice.preset)}")
    _presets(view)
    plan = loaded.lab.plan(view.mapping)
    part = _part(view)
    asked, gets = st.columns([62, 38], gap="xxsmall")
    with asked:
        held = editor.draw(view, loaded, part)
    with gets:
        truth.beside(plan, part)
    truth.unmatched(plan)
    editor.problems(view, held)
    truth.story(view, loaded, plan)
    bulk.draw(view, loaded, held)
    rules.draw(view, loaded, plan)


def _part(view: View) -> str:
    """Draws the heading, and the choice of which part of what is asked both tables show."""
    top = st.container(horizontal=True, vertical_alignment="bottom")
    top.subheader(
        "Asked, and what each layer gets",
        anchor=False,
        help="A layer without a rule of its own has this from a weaker rule, in the end from the "
        "preset.",
    )
    address.keep(view.workspace, "part", "bits", tuple(editor.PARTS))
    chosen = top.segmented_control(
        "Part",
        list(editor.PARTS),
        required=True,
        key="part",
        label_visibility="collapsed",
        persist_state="session",
    )
    return editor.PARTS[chosen or "bits"]


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
