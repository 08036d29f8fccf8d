"""The frame every chart shares: no toolbar, no zoom by accident, colours left to the theme."""

from typing import Any

import plotly.graph_objects as go

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
