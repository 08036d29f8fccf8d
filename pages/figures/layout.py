"""The frame every chart shares: no template, the theme's colours, nothing that moves by itself."""

from typing import Any

import plotly.graph_objects as go

from pages.common.theme import Palette, faint

MONOSPACE = "Source Code Pro, SFMono-Regular, Menlo, monospace"
#: Streamlit's argument `config`: no floating toolbar, no accidental zoom by the wheel.
CONFIG = {"displayModeBar": False, "scrollZoom": False, "doubleClick": "reset"}


def figure(palette: Palette, height: int, **layout: Any) -> go.Figure:
    """An empty figure in the theme's colours, `height` pixels tall; `layout` goes to plotly."""
    empty = go.Figure()
    empty.update_layout(
        template=None,
        height=height,
        margin={"l": 56, "r": 16, "t": 28, "b": 40},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": palette.text, "size": 13, "family": "Source Sans, sans-serif"},
        hoverlabel={"bgcolor": palette.background, "font": {"color": palette.text}},
        legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0, "xanchor": "left"},
        dragmode=False,
        bargap=0.25,
    )
    empty.update_xaxes(**_axis(palette), showgrid=False)
    empty.update_yaxes(**_axis(palette), showgrid=True, gridcolor=faint(palette.line, 0.6))
    empty.update_layout(**layout)
    return empty


def _axis(palette: Palette) -> dict[str, Any]:
    return {
        "zeroline": False,
        "linecolor": palette.line,
        "tickcolor": palette.line,
        "ticks": "outside",
        "ticklen": 4,
        "automargin": True,
    }
