"""The workspace in the address: `?w=` and its id, on every page."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

import streamlit as st

from pages.common.store import store
from pages.common.workspace import Setting, Workspace

KEY = "w"
_HELD = "workspace_id"
_UNKNOWN = "page_of_unknown_workspace"


def current() -> Workspace:
    """The workspace of this run: that of the address, else of this session, else a new one.

    An id that the server does not know is replaced, never taken over, so that nobody can be given
    a link whose id another person has chosen.
    """
    known = store()
    asked, held = st.query_params.get(KEY), st.session_state.get(_HELD)
    space = known.find(asked) or known.find(held) or known.new()
    st.session_state[_HELD] = space.id
    if asked is not None and asked != space.id:
        st.session_state[_UNKNOWN] = None
    if asked != space.id:
        st.query_params[KEY] = space.id
    return space


def tell_unknown(page: str) -> None:
    """Says, on the page that was opened, that the address named a workspace that is not there."""
    if _UNKNOWN not in st.session_state:
        return
    if st.session_state[_UNKNOWN] is None:
        st.session_state[_UNKNOWN] = page
    if st.session_state[_UNKNOWN] != page:
        del st.session_state[_UNKNOWN]
        return
    st.warning(
        "This link names a workspace that is not on this server, or no more: what was changed and "
        "measured in it cannot be shown. The page stands in a workspace of your own."
    )


def keep(
    space: Workspace, key: str, default: Setting, options: Container[Any] | None = None
) -> None:
    """Lets a widget stand in a fresh browser as it was left; to be called before it is drawn.

    The widget is to be made with this `key`, with `persist_state="session"` and without a default
    of its own.

    Args:
        space: Where its state is kept.
        key: The widget's.
        default: How it stands at first: text, a number or True or False.
        options: What it offers, if that is a choice; another value gives way to the default.
    """
    value = st.session_state.get(key, space.settings.get(key, default))
    if options is not None and value not in options:
        value = default
    if key not in st.session_state or st.session_state[key] != value:
        st.session_state[key] = value
    if space.settings.get(key, default) != value:
        space.set(key, value)
