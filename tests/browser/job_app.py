"""A page with a job of its own length, on the app's own workspaces and board."""

import time

import streamlit as st

from pages.common import address, engine, messages
from pages.common.jobs import CancelledError, Progress

STEPS, SECONDS = 1000, 0.02


def count(progress: Progress) -> str:
    """Counts until it is told to stop, and on from there the next time."""
    for step in range(progress.partial or 0, STEPS):
        if progress.should_stop():
            raise CancelledError
        progress.report(step, STEPS, "counting")
        progress.partial = step
        time.sleep(SECONDS)
    return "counted to the end"


st.title("Job")
space = address.current()
engine.attend(space)
st.text(f"workspace {space.id}")
st.slider("another widget", 0, 9, 0, key="other")
with messages.shown():
    st.text(engine.wait_for(("loaded", space.id), "Counting", count, space))
