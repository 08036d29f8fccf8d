"""The frame every chart shares: no toolbar, no zoom by accident, colours left to the theme."""

from typing import Any

import numpy as np
import plotly.graph_objects as go

from pages.common.format import plain

MONOSPACE = "Source Code Pro, SFMono-Regular, Menlo, monospace"
#: Streamlit's argument `config`: no floating toolbar, no accidental zoom by the wheel.
CONFIG = {"displayModeBar": False, "scrollZoom": False, "doubleClick": "reset"}


def figure(height: int, **layout: Any) -> go.Figure:
    """An empty figure, `height` pixels tall; `layout` goes to plotly."""
    axis: dict[str, Any] = {"zeroline": False, "automargin": True}
    plain: dict[str, Any] = {
        "height": height,
        "margin": {"l": 56, "r": 16, "t": 28, "b": 40},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "legend": {
            "orientation": "h",
            "y": 1.0,
            "yanchor": "bottom",
            "x": 0,
            "xanchor": "left",
        },
        "dragmode": False,
        "bargap": 0.25,
        "xaxis": {**axis, "showgrid": False},
        "yaxis": {**axis, "showgrid": True},
    }
    # In one piece: each later update of a figure costs milliseconds, and a knob redraws four.
    empty = go.Figure(layout=plain | layout)
    empty.layout.template = None
    return empty


def upright(title: str) -> str:
    """A title for a vertical axis, which is turned by a quarter: its arrow has to point right."""
    return title.replace("↑", "→").replace("↓", "←")


def tick(name: str, selected: bool) -> str:
    """A name beside an axis; that of what is selected is bold behind an arrow."""
    return f"<b>▸ {plain(name)}</b>" if selected else plain(name)


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 of every power of ten between two numbers."""
    powers = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    values = [digit * 10.0**power for power in powers for digit in (1, 2, 5)]
    return [value for value in values if low <= value <= high]
