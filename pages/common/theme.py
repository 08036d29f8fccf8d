"""Colours: one palette for every chart, read from the theme that Streamlit itself uses."""

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import streamlit as st

THEME_FILE = Path(__file__).parents[2] / ".streamlit" / "config.toml"


@dataclass(frozen=True)
class Palette:
    """Colours by meaning, each `#rrggbb`; the first ten in the order of the theme's chart colours.

    A chart never tells by colour alone: shape, position or text says the same.
    """

    float_: str
    quantized: str
    local: str
    accumulated: str
    clipped: str
    green: str
    orange: str
    purple: str
    yellow: str
    stale: str
    text: str
    background: str
    line: str


def faint(colour: str, opacity: float) -> str:
    """`colour`, given as `#rrggbb`, as `rgba(…)` with an opacity from 0 to 1."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity:g})"


@cache
def palette(name: str) -> Palette:
    """The palette of a theme, `"light"` or `"dark"`."""
    theme = tomllib.loads(THEME_FILE.read_text(encoding="utf-8"))["theme"][name]
    return Palette(
        *theme["chartCategoricalColors"],
        text=theme["textColor"],
        background=theme["backgroundColor"],
        line=theme["borderColor"],
    )


def current() -> Palette:
    """The palette of the theme that the browser shows; light until it has said."""
    return palette("dark" if st.context.theme.type == "dark" else "light")
