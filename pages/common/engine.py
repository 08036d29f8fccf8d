"""Long work of this app: one board of jobs for the server, on which workspaces ask.

Pages ask through `wait_for`, which draws the progress and ends the page's run until there is a
result. A job belongs to its workspace, so that a reload finds it again; when the last tab of a
workspace has been closed for a while, its jobs are cancelled and its results dropped.
"""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from typing import Any

import streamlit as st

from pages.common import messages
from pages.common.attendance import Attendance
from pages.common.format import duration, escape
from pages.common.jobs import Board, Job, Key, Work
from pages.common.messages import WaitingError
from pages.common.store import store
from pages.common.workspace import Workspace

#: Seconds that a page waits before it shows progress: a small model's answer comes without.
PATIENCE = 0.4
POLL = 0.4
#: Seconds that a page waits for cancelled work to finish the step it is in.
STOPPING = 5.0
#: Seconds that jobs live on when nobody looks at their workspace any more.
GRACE = float(os.environ.get("QLAB_GRACE_SECONDS", "60"))
KEPT = {
    "loaded": 4,
    "repaired": 8,
    "automatic": 8,
    "lesson": 16,
    "model_file": 4,
    "sample_file": 4,
    "outcome": 64,
    "causes": 64,
    "channels": 16,
    "stability": 8,
    "conversion": 8,
    "file": 8,
    "fidelity": 8,
    "latency": 8,
    "estimate": 16,
    "sensitivity": 16,
    "search": 8,
    "verified": 16,
}
_AWAITED = "awaited_job"


@dataclass(frozen=True)
class Presence:
    """One browser tab that shows one workspace."""

    workspace: Workspace
    tab: str


@st.cache_resource(show_spinner=False)
def board() -> Board:
    """The one board of the server."""
    return Board(KEPT)


@st.cache_resource(show_spinner=False)
def attendance() -> Attendance:
    """Who looks at which workspace."""
    return Attendance(board().abandon, GRACE)


def _leave(presence: Presence) -> None:
    store().save(presence.workspace)
    attendance().leave(presence.workspace.id, presence.tab)


@st.cache_resource(scope="session", on_release=_leave, show_spinner=False)
def _presence(_workspace: Workspace, id: str) -> Presence:
    return Presence(_workspace, secrets.token_hex(8))


def attend(workspace: Workspace) -> None:
    """This tab shows the workspace; to be said at every run, since a lost connection ends it."""
    here = _presence(workspace, workspace.id)
    attendance().arrive(workspace.id, here.tab)


def wait_for(key: Key, title: str, work: Work, workspace: Workspace, *, part: str = "") -> Any:
    """The result of a job; while there is none, draws why and ends this part of the page.

    Args:
        key: Names the job on the board; its first element is its kind.
        title: What is computed, in words.
        work: Computes it.
        workspace: Whose job it is; remembers what was cancelled.
        part: Names the part of the page that waits, where another part may wait beside it.

    Raises:
        WaitingError: There is none; `messages.shown` catches it.
    """
    ending = f"_{part}" if part else ""
    if key in workspace.declined:
        left = left_behind(key) is not None
        kept = "It goes on from where it was." if left else "Nothing you entered is lost."
        st.info(f"{title} was cancelled. {kept}")
        st.button(
            "Go on" if left else "Start again",
            key=f"resume{ending}",
            on_click=workspace.declined.discard,
            args=(key,),
        )
        raise WaitingError
    job = board().submit(key, title, work, workspace.id)
    if not job.wait(PATIENCE):
        st.session_state.setdefault(_AWAITED, set()).add(key)
        _progress(key, job, workspace, ending)
        raise WaitingError
    if job.state == "cancelled":
        board().forget(key)
        st.rerun()
    if job.error is not None:
        messages.show(job.error, retry=lambda: board().forget(key), key=f"again-job{ending}")
        raise WaitingError
    return job.result


def left_behind(key: Key) -> Any:
    """What a cancelled job has left to go on from; None if nothing."""
    job = board().stopped(key)
    return job.partial if job is not None and job.wait(STOPPING) else None


def cancel(key: Key, workspace: Workspace) -> None:
    """The workspace wants a job no more, until someone asks for it again."""
    workspace.declined.add(key)
    board().release(key, workspace.id)


def others(workspace: Workspace, *, live: bool = True) -> None:
    """Draws the workspace's running jobs that this page does not wait for, in the sidebar.

    To be called when the page has been drawn.

    Args:
        workspace: Whose jobs.
        live: Whether the progress moves on its own.
    """
    awaited = st.session_state.pop(_AWAITED, ())
    jobs = [(key, job) for key, job in board().running(workspace.id) if key not in awaited]
    if not jobs:
        return
    with st.sidebar:
        if live:
            st.fragment(_others, run_every=POLL)(jobs, workspace)
        else:
            _others(jobs, workspace)


def _others(jobs: list[tuple[Key, Job]], workspace: Workspace) -> None:
    if any(job.state != "running" for _, job in jobs):
        st.rerun()
    st.caption("Running")
    for position, (key, job) in enumerate(jobs):
        st.progress(job.fraction, text=progress_text(job))
        st.button("Cancel", key=f"cancel_other_{position}", on_click=cancel, args=(key, workspace))


@st.fragment(run_every=POLL)
def _progress(key: Key, job: Job, workspace: Workspace, ending: str) -> None:
    attend(workspace)
    if job.state != "running" or key in workspace.declined:
        st.rerun()
    st.progress(job.fraction, text=progress_text(job))
    st.button("Cancel", key=f"cancel{ending}", on_click=cancel, args=(key, workspace))


def progress_text(job: Job) -> str:
    """What a job does, how far it is and how long it will take, as Markdown."""
    left = job.seconds_left
    most = "at most " if job.timed else ""
    rest = f" · {most}{duration(left)} left" if left is not None else ""
    counted = f" · {job.done} of {job.total}" if job.total and not job.timed else ""
    part, shares = job.part
    if len(shares) > 1:
        counted = f" · part {part + 1} of {len(shares)}{counted.replace(' · ', ', ')}"
    return f"{escape(job.title)}: {escape(job.label or 'starting')}{counted}{rest}"
