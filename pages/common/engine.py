"""Long work of this app: one board of jobs for the server, one place on it for each session.

Pages ask through `wait_for`, which draws the progress and ends the page's run until there is a
result.
"""

from __future__ import annotations

import secrets
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import streamlit as st

from pages.common import messages
from pages.common.jobs import Board, Job, Work
from pages.common.workspace import Workspace

Key = tuple[Hashable, ...]
#: Seconds that a page waits before it shows progress: a small model's answer comes without.
PATIENCE = 0.4
POLL = 0.4
KEPT = {"loaded": 4, "outcome": 64, "conversion": 8}


@dataclass(frozen=True)
class Presence:
    """A browser session on the board: when it is released, what only it wanted is cancelled."""

    board: Board
    owner: str


@st.cache_resource(show_spinner=False)
def board() -> Board:
    """The one board of the server."""
    return Board(KEPT)


def _leave(presence: Presence) -> None:
    presence.board.leave(presence.owner)


@st.cache_resource(scope="session", on_release=_leave, show_spinner=False)
def presence() -> Presence:
    """This browser session's place on the board."""
    return Presence(board(), secrets.token_hex(16))


def leave(keep: Key | None = None) -> None:
    """This session wants none of the running jobs any more, except the one named `keep`."""
    me = presence()
    me.board.leave(me.owner, keep)


def wait_for(key: Key, title: str, work: Work, workspace: Workspace) -> Any:
    """The result of a job; while there is none, draws why and ends the page's run.

    Args:
        key: Names the job on the board; its first element is its kind.
        title: What is computed, in words.
        work: Computes it.
        workspace: Remembers what was cancelled here.
    """
    me = presence()
    if key in workspace.declined:
        st.info(f"{title} was cancelled. Nothing you entered is lost.")
        st.button("Start again", key="resume", on_click=workspace.declined.discard, args=(key,))
        st.stop()
    job = me.board.submit(key, title, work, me.owner)
    if not job.wait(PATIENCE):
        _progress(key, job, workspace)
        st.stop()
    if job.state == "cancelled":
        me.board.forget(key)
        st.rerun()
    if job.error is not None:
        messages.show(job.error, retry=lambda: me.board.forget(key), key="again-job")
        st.stop()
    return job.result


@st.fragment(run_every=POLL)
def _progress(key: Key, job: Job, workspace: Workspace) -> None:
    if job.state != "running" or key in workspace.declined:
        st.rerun()
    left = job.seconds_left
    rest = f" · {left:.0f} s left" if left is not None else ""
    counted = f" · {job.done} of {job.total}" if job.total else ""
    st.progress(job.fraction, text=f"{job.title}: {job.label or 'starting'}{counted}{rest}")

    def cancel() -> None:
        workspace.declined.add(key)
        leave()

    st.button("Cancel", key="cancel", on_click=cancel)
