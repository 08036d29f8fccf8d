"""Numbers of the whole network, and whether they still belong to the configuration in force.

Every page that shows such numbers asks `standing` for the configuration to compute them under, and
draws them inside `Standing.container`: a change greys them and offers to compute them anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from pages.common.frame import View
from pages.common.workspace import OUTCOME

if TYPE_CHECKING:
    from qlab.qconfig import QConfigMapping


@dataclass(frozen=True)
class Standing:
    """Where a page's numbers of the whole network stand.

    Attributes:
        mapping: The configuration that they belong to.
        stale: Whether another one is in force by now.
    """

    mapping: QConfigMapping
    stale: bool

    @property
    def mark(self) -> str:
        """What follows the name of a number."""
        return " · stale" if self.stale else ""

    def container(self, key: str) -> DeltaGenerator:
        """Where to draw the numbers: greyed if stale.

        Args:
            key: Unique on the page.
        """
        return st.container(key=f"stale_{key}" if self.stale else key)


def standing(view: View, kind: str = OUTCOME) -> Standing | None:
    """Where numbers stand; stale ones get their warning and refresh button drawn.

    Args:
        view: What the page was given.
        kind: Which numbers; pages that name the same kind show those of the same configuration.

    Returns:
        None where they were not asked for yet.
    """
    shown = view.workspace.shown.get((kind, view.choice))
    return None if shown is None else _stand(view, kind, shown)


def at_once(view: View, kind: str = OUTCOME) -> Standing:
    """As `standing`, for numbers that are computed without being asked for."""
    if (kind, view.choice) not in view.workspace.shown:
        view.workspace.refresh(view.choice, kind)
    return _stand(view, kind, view.workspace.shown[kind, view.choice])


def _stand(view: View, kind: str, shown: QConfigMapping) -> Standing:
    found = Standing(shown, shown != view.mapping)
    if found.stale:
        _banner(view, kind)
    return found


def ask(view: View, kind: str, label: str, key: str) -> None:
    """Draws the button that has the numbers computed for the first time."""
    st.button(label, key=key, on_click=view.workspace.refresh, args=(view.choice, kind))


def _banner(view: View, kind: str) -> None:
    words, button = st.columns([4, 1], vertical_alignment="center")
    words.warning("Stale: these numbers belong to the configuration before your last change.")
    button.button(
        "Refresh",
        icon=":material/refresh:",
        key="refresh" if kind == OUTCOME else f"refresh_{kind}",
        on_click=view.workspace.refresh,
        args=(view.choice, kind),
        width="stretch",
    )
