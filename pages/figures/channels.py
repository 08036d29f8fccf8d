"""Ranges channel by channel: the spread that one shared scale has to cover."""

import numpy as np
import plotly.graph_objects as go

from pages.common.format import number
from pages.common.theme import FLOAT, QUANTIZED
from pages.figures.layout import figure

#: More bars than this are thinned: the screen has no room for them.
MOST_BARS = 400


def channel_ranges(
    low: np.ndarray,
    high: np.ndarray,
    *,
    clip: tuple[np.ndarray, np.ndarray] | None = None,
    noun: str = "channels",
) -> go.Figure:
    """One thin vertical bar per channel from its smallest to its largest value, widest first.

    Args:
        low: Smallest value per channel, real units, shape (channels,).
        high: Largest value per channel, same shape.
        clip: Smallest and largest number each channel's quantizer can express, each of shape
            (channels,) or (); drawn behind: a band where they are shared, steps where not.
        noun: What the bars are called.
    """
    order = np.argsort(low - high, kind="stable")
    shown = f"{len(order):,}"
    if len(order) > MOST_BARS:
        order = order[np.linspace(0, len(order) - 1, MOST_BARS).astype(int)]
        shown = f"{MOST_BARS} of {len(low):,}"
    positions = np.arange(len(order))
    chart = figure(200, showlegend=False, barmode="overlay")
    if clip is not None:
        bottom, top = (np.broadcast_to(bound, low.shape)[order] for bound in clip)
        chart.add_bar(
            x=positions,
            y=top - bottom,
            base=bottom,
            width=1,
            name="what the codes can express",
            marker={"color": QUANTIZED, "opacity": 0.25, "line": {"width": 0}},
            hoverinfo="skip",
        )
    chart.add_bar(
        x=positions,
        y=(high - low)[order],
        base=low[order],
        width=0.7,
        name="values of the channel",
        marker={"color": FLOAT, "line": {"width": 0}},
        hovertext=[
            f"channel {c}: {number(a)} to {number(b)}"
            for c, a, b in zip(order, low[order], high[order], strict=True)
        ],
        hoverinfo="text",
    )
    chart.update_yaxes(title="range", fixedrange=True)
    chart.update_xaxes(
        title=f"{shown} {noun}, widest first",
        range=[-0.7, len(order) - 0.3],
        showticklabels=False,
        ticks="",
        fixedrange=True,
    )
    return chart
