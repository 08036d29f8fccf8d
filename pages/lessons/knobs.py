"""Knobs that several lessons have; each comes back by link."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from pages.common import address
from pages.common.frame import View
from pages.common.glossary import define
from pages.common.workspace import Workspace

BITS = tuple(range(2, 9))


#: On a narrow screen the knobs stand above their figure, and numbers wrap instead of being cut.
NARROW = """<style>@media (max-width: 1000px) {
.st-key-lesson [data-testid=stHorizontalBlock] {flex-wrap: wrap}
.st-key-lesson [data-testid=stColumn] {min-width: 8.5rem}
.st-key-lesson > * > [data-testid=stHorizontalBlock] > [data-testid=stColumn] {min-width: 100%}
}</style>"""
#: Names the lesson in the address, so that a link can lead to it.
LESSON = "lesson"
Lesson = tuple[str, Callable[[View], None]]


def lessons(view: View, key: str, offered: Mapping[str, Lesson]) -> None:
    """Draws the choice of a lesson, its sentence and the lesson.

    Args:
        view: What the page was given.
        key: Of the choice.
        offered: Sentence and drawing of each, by title.
    """
    titles = list(offered)
    asked = st.query_params.get(LESSON)
    if key not in st.session_state and asked in titles:
        st.session_state[key] = asked
    address.keep(view.workspace, key, titles[0], titles)
    title = st.segmented_control(
        "Lesson",
        titles,
        key=key,
        required=True,
        persist_state="session",
        label_visibility="collapsed",
    )
    title = title or titles[0]
    if asked != title:
        st.query_params[LESSON] = title
    sentence, lesson = offered[title]
    st.markdown(sentence)
    with narrow():
        lesson(view)


def narrow() -> DeltaGenerator:
    """A container whose columns wrap on a narrow screen."""
    st.html(NARROW)
    return st.container(key="lesson")


def bits(space: Workspace, prefix: str, at_first: int) -> int:
    """The width of a code, 2 to 8."""
    key = f"{prefix}_bits"
    address.keep(space, key, at_first, BITS)
    return st.select_slider("Bits", BITS, key=key, help=define("bits"), persist_state="session")


def segmented(
    space: Workspace, key: str, label: str, options: Sequence[str], *, help: str | None = None
) -> str:
    """One of a few; the first at first."""
    address.keep(space, key, options[0], options)
    chosen = st.segmented_control(
        label, options, key=key, required=True, help=help, persist_state="session"
    )
    return chosen or options[0]


def slider(
    space: Workspace, key: str, label: str, limits: tuple[int, int, int], **options: Any
) -> int:
    """A whole number.

    Args:
        space: Where its state is kept.
        key: The widget's.
        label: Its label.
        limits: Smallest, largest and first value; where the first two are equal it is disabled.
        options: Of `st.slider`.
    """
    low, high, at_first = limits
    address.keep(space, key, min(at_first, high), range(low, high + 1))
    if low == high:
        return low
    return st.slider(label, low, high, key=key, persist_state="session", **options)


def place(space: Workspace, key: str, label: str, count: int, **options: Any) -> int:
    """An index below `count`."""
    address.keep(space, key, 0, range(count))
    return int(
        st.number_input(
            f"{label} (0 to {count - 1})", 0, max(count - 1, 0), key=key, persist_state="session",
            disabled=count == 1, **options,
        )
    )  # fmt: skip


def choice(
    space: Workspace,
    key: str,
    label: str,
    options: Sequence[str],
    at_first: str,
    help: str | None = None,
) -> str:
    """One of many, from a list that drops down."""
    address.keep(space, key, at_first, options)
    return st.selectbox(label, options, key=key, help=help, persist_state="session")
