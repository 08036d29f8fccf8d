"""Colours of charts, by meaning.

Not colours but names of them: in a chart drawn with `theme=THEME` Streamlit replaces each, in the
browser, by the colour of the theme in use. `#000001` to `#000010` stand for the ten
`chartCategoricalColors` of `.streamlit/config.toml`, in their order. Text, axes and grids are left
to Streamlit altogether, which redraws them the moment the theme is switched; marks follow with the
page's next run. A chart never tells by colour alone: shape, position or text says the same.
"""

import tomllib
from functools import lru_cache
from pathlib import Path
from typing import Literal

import streamlit as st

THEME: Literal["streamlit"] = "streamlit"
THEME_FILE = Path(__file__).parents[2] / ".streamlit" / "config.toml"

FLOAT = "#000001"
QUANTIZED = "#000002"
LOCAL = "#000003"
ACCUMULATED = "#000004"
CLIPPED = "#000005"
STALE = "#000010"
#: The ten `chartSequentialColors`, from the one nearest the background to the one that stands out.
SEQUENTIAL = tuple(f"#0000{position}" for position in range(11, 21))
#: The same in both themes, seen on either.
NEUTRAL = "#7f8a96"


@lru_cache(maxsize=64)
def resolve(colour: str, theme: Literal["light", "dark"]) -> str:
    """The colour that stands in a theme for one of the ten names above, as `#rrggbb`."""
    colours = tomllib.loads(THEME_FILE.read_text(encoding="utf-8"))["theme"][theme]
    return colours["chartCategoricalColors"][int(colour[1:]) - 1]


def in_use() -> Literal["light", "dark"]:
    """The theme that the browser shows, for colours outside charts."""
    return "dark" if st.context.theme.type == "dark" else "light"
