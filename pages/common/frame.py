"""The frame around every page: sidebar, heading, and errors as messages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import streamlit as st

from pages.common import engine, messages, navigation, sidebar, workspace
from pages.common.loaded import Loaded, load, loaded_key
from pages.common.workspace import Choice, Workspace

if TYPE_CHECKING:
    from qlab.qconfig import QConfigMapping

STYLE = """<style>
[data-testid=stMainBlockContainer] {padding-left: 2.5rem; padding-right: 2.5rem}
[data-testid=stMetricValue] {font-size: 1.6rem}
[class*=st-key-stale] {opacity: 0.45}
</style>"""


@dataclass(frozen=True)
class View:
    """What a page is given.

    Attributes:
        choice: The sidebar's state.
        workspace: What this session entered.
    """

    choice: Choice
    workspace: Workspace

    @property
    def mapping(self) -> QConfigMapping:
        """The configuration in force."""
        return self.workspace.mapping(self.choice)

    def loaded(self) -> Loaded:
        """The calibrated lab; ends the page's run while it is being made."""
        return load(self.choice, self.workspace)


def page(title: str, about: str, draw: Callable[[View], None]) -> None:
    """Runs one page.

    Args:
        title: Its heading.
        about: Answers "What am I looking at?", Markdown.
        draw: Draws the page; whatever it raises becomes a message.
    """
    navigation.enter()
    st.html(STYLE)
    heading, explanation = st.columns([5, 2], vertical_alignment="center")
    heading.title(title, anchor=False)
    with explanation.container(horizontal=True, horizontal_alignment="right"):
        st.popover("What am I looking at?", width="content").markdown(about)
    with messages.shown():
        space = workspace.current()
        choice = sidebar.draw(space)
        if space.choice not in (None, choice):
            engine.leave(keep=loaded_key(choice))
        space.choice = choice
        draw(View(choice, space))
