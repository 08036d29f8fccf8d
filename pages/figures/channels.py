"""Ranges channel by channel: the spread that one shared scale has to cover."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from pages.common.format import number
from pages.common.theme import FLOAT, LOCAL, NEUTRAL, QUANTIZED
from pages.figures.layout import figure, upright

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
    order, shown = _thinned(np.argsort(low - high, kind="stable"))
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
    _label(chart, f"{shown} {noun}, widest first", len(order))
    return chart


def channel_errors(table: pd.DataFrame) -> go.Figure:
    """One bar per channel, its SQNR, the worst first; a dashed line at the median.

    Args:
        table: Indexed by channel, with `sqnr` in dB; `+inf` is drawn at the top and `-inf` at the
            bottom, the hover says so.
    """
    values = table["sqnr"].to_numpy(float)
    finite = values[np.isfinite(values)]
    top = float(finite.max()) * 1.1 if finite.size else 100.0
    bottom = min(0.0, float(finite.min())) if finite.size else 0.0
    order, shown = _thinned(np.argsort(values, kind="stable"))
    chart = figure(220, showlegend=False)
    chart.add_bar(
        x=np.arange(len(order)),
        y=np.nan_to_num(values, posinf=top, neginf=bottom)[order],
        marker={"color": LOCAL, "line": {"width": 0}},
        hovertext=[
            f"channel {c}: {number(v, 'dB')}"
            for c, v in zip(table.index[order], values[order], strict=True)
        ],
        hoverinfo="text",
    )
    if finite.size:
        chart.add_hline(
            y=float(np.median(finite)), line={"color": NEUTRAL, "width": 1.5, "dash": "dash"}
        )
    chart.update_yaxes(title=upright("SQNR [dB] ↑"), fixedrange=True)
    _label(chart, f"{shown} channels, worst first", len(order))
    return chart


def _thinned(order: np.ndarray) -> tuple[np.ndarray, str]:
    """At most `MOST_BARS` of some channels, and how many that are, in words."""
    if len(order) <= MOST_BARS:
        return order, f"{len(order):,}"
    kept = order[np.linspace(0, len(order) - 1, MOST_BARS).astype(int)]
    return kept, f"{MOST_BARS} of {len(order):,}"


def _label(chart: go.Figure, title: str, bars: int) -> None:
    chart.update_xaxes(
        title=title,
        range=[-0.7, bars - 0.3],
        showticklabels=False,
        ticks="",
        fixedrange=True,
    )
