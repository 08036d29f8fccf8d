"""The frame around every page: sidebar, heading, and errors as messages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import streamlit as st

from pages.common import (
    address,
    engine,
    messages,
    navigation,
    repairs,
    repairs_shown,
    sidebar,
)
from pages.common.loaded import Loaded
from pages.common.store import store
from pages.common.workspace import Choice, Workspace

if TYPE_CHECKING:
    from qlab.qconfig import QConfigMapping

#: Chosen segments and sliders' values have the links' colour: on dark the theme's blue is too dark
#: for words, and a lighter one would be too light behind the white words of a button.
STYLE = """<style>
:is([data-testid=stSidebarNavLink], [data-testid=stPageLink-NavLink]):focus-visible {
  outline: 2px solid currentColor; outline-offset: -2px}
[data-testid=stMainBlockContainer] {padding-left: 2.5rem; padding-right: 2.5rem}
[data-testid=stMetricValue] {font-size: 1.6rem}
[class*=st-key-stale] {opacity: 0.45}
.st-key-causes {min-height: 8rem}
.st-key-choices_arrived {display: none}
[data-testid=stButtonGroup] button[data-selected=true], [data-testid=stSliderThumbValue] {
  color: light-dark(#005a8d, #8cccf2) !important}
@media (max-width: 1000px) {
  [data-testid=stMainBlockContainer] {padding-left: 1rem; padding-right: 1rem}
  [data-testid=stMetricValue] {font-size: 1.3rem}
  section[data-testid=stSidebar][data-collapsed=false] {
    width: 200px !important; min-width: 200px !important}
  :is(.st-key-verdict, .st-key-seen, [class*=st-key-headline], [class*=st-key-stale_headline],
  [class*=st-key-worst_], .st-key-trial) [data-testid=stColumn] {min-width: calc(50% - 1rem)}
  .st-key-sides > [data-testid=stLayoutWrapper] > [data-testid=stHorizontalBlock] >
  [data-testid=stColumn] {min-width: 100%}
  [data-testid=stColumn] [data-testid=stButtonGroup] button {
    padding-left: 0.35rem; padding-right: 0.35rem}
}
</style>"""


@dataclass(frozen=True)
class View:
    """What a page is given.

    Attributes:
        choice: The sidebar's state.
        workspace: What was entered in it.
    """

    choice: Choice
    workspace: Workspace

    @property
    def mapping(self) -> QConfigMapping:
        """The configuration in force."""
        return self.workspace.mapping(self.choice)

    def loaded(self) -> Loaded:
        """The calibrated lab, of a repaired model where it was repaired.

        It ends the page's run while it is being made.
        """
        return repairs.in_use(self.choice, self.workspace)


def page(
    title: str,
    about: str,
    draw: Callable[[View], None],
    *,
    live_jobs: bool = True,
    of_model: bool = True,
) -> None:
    """Runs one page.

    Args:
        title: Its heading.
        about: Answers "What am I looking at?", Markdown.
        draw: Draws the page; whatever it raises becomes a message.
        live_jobs: Whether the progress of jobs that the page does not wait for moves on its own;
            not beside a table that is edited, which would lose entries to it.
        of_model: Whether it shows the model in use; it then says so where that was repaired.
    """
    navigation.enter()
    st.html(STYLE)
    with st.container(horizontal=True, vertical_alignment="center", wrap=False):
        st.title(title, anchor=False)
        st.popover("What am I looking at?", width="content").markdown(about)
    with messages.shown():
        space = address.current()
        address.tell_unknown(title)
        engine.attend(space)
        _draw(space, title, draw, of_model)
        store().save(space)
        engine.others(space, live=live_jobs)


def _draw(space: Workspace, title: str, draw: Callable[[View], None], of_model: bool) -> None:
    with messages.shown("body"):
        choice = sidebar.draw(space, title)
        if space.choice != choice:
            space.choose(choice)
        view = View(choice, space)
        if not (of_model and space.chain(choice)):
            draw(view)
            return
        place = repairs_shown.banner(view)
        draw(view)
        repairs_shown.made_again(view, place)
