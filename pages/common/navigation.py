"""Which pages there are, and the way into a page that was opened without `app.py`."""

from pathlib import Path

import streamlit as st

FOLDER = Path(__file__).parents[1]
ENTERED, THROUGH_APP = "entered", "through_app"
#: File, section and title of each page; the first one greets.
PAGES = {
    "overview": ("Explore", "Overview"),
    "model": ("Explore", "Model"),
    "calibrate": ("Explore", "Calibrate"),
    "configure": ("Explore", "Configure"),
    "layer": ("Explore", "Layer"),
    "sensitivity": ("Explore", "Sensitivity"),
    "convert": ("Explore", "Convert"),
    "runs": ("Explore", "Runs"),
    "learn": ("Learn", "Quantization math"),
    "observers": ("Learn", "Observers"),
    "formats": ("Learn", "Bits and formats"),
    "norms": ("Learn", "Norms and fusions"),
    "repairs": ("Learn", "Repairs"),
    # Streamlit leaves the underscore out of the address. Without it the file would hide the package
    # `coverage`, which numba imports, wherever `pages` is on Python's path.
    "_coverage": ("Learn", "Coverage"),
}


def page(name: str) -> st.Page:
    """A page by the name of its file."""
    return st.Page(FOLDER / f"{name}.py", title=PAGES[name][1], default=name == next(iter(PAGES)))


def navigation() -> st.Page:
    """Declares every page to Streamlit, all in sight, and returns the one that is asked for."""
    sections: dict[str, list[st.Page]] = {}
    for name, (section, _) in PAGES.items():
        sections.setdefault(section, []).append(page(name))
    return st.navigation(sections, expanded=True)


def enter() -> None:
    """Declares the pages where `app.py` has not, and sends a session through it once.

    On a fresh server an address such as `/learn` runs `pages/learn.py` alone, without the app's
    layout and menu, until `st.navigation` has been called for the first time.
    """
    if st.session_state.pop(THROUGH_APP, False):
        return
    navigation()
    if ENTERED not in st.session_state:
        st.session_state[ENTERED] = True
        st.rerun()
