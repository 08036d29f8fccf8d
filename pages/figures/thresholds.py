"""What clipping at every threshold costs, with each observer's choice on the curve."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go

from pages.common.format import number, plain
from pages.common.theme import CLIPPED, FLOAT, NEUTRAL, QUANTIZED
from pages.figures.layout import figure, log_ticks

#: One shape per observer, so that they are told apart without colour.
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x")
#: How far above the best of the sum the two parts are drawn [dB].
HEADROOM = 12
#: The lowest SQNR drawn [dB]: here the error is half the signal.
BOTTOM = -3


class Mark(NamedTuple):
    """An observer's choice: where it clips, in real units, and the SQNR there in dB."""

    label: str
    threshold: float
    sqnr: float


def threshold_curve(
    thresholds: np.ndarray,
    parts: dict[str, np.ndarray],
    *,
    marks: Sequence[Mark],
    own: Mark,
) -> go.Figure:
    """A wide range rounds badly, a narrow one clips: the SQNR of both together has a peak.

    Args:
        thresholds: Magnitudes at which to clip, real units, ascending, shape (points,).
        parts: SQNR [dB], by `"rounding"`, `"clipping"` and `"together"`; the first two if that
            were the only error; same shape.
        marks: The observers' choices.
        own: The person's own threshold.
    """
    known = parts["together"][np.isfinite(parts["together"])]
    top = float(known.max(initial=BOTTOM)) + HEADROOM
    chart = figure(330, legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0})
    for name, title, colour, dash in (
        ("rounding", "rounding alone", QUANTIZED, "dot"),
        ("clipping", "clipping alone", CLIPPED, "dash"),
        ("together", "together", FLOAT, "solid"),
    ):
        chart.add_scatter(
            x=thresholds,
            y=np.where(np.isfinite(parts[name]), parts[name], np.nan),
            mode="lines",
            name=title,
            line={"color": colour, "width": 2.5 if dash == "solid" else 1.5, "dash": dash},
            hovertemplate=f"{title} %{{y:.3g}} dB<br>clip at %{{x:.4g}}<extra></extra>",
        )
    for mark, symbol in zip(marks, SYMBOLS, strict=False):
        _add_mark(chart, mark, symbol, top)
    _add_own(chart, own, left=own.threshold > float(np.median(thresholds)))
    values = log_ticks(float(thresholds[0]), float(thresholds[-1]))
    chart.update_xaxes(
        title="clip threshold (logarithmic)",
        type="log",
        tickvals=values,
        ticktext=[f"{value:g}" for value in values],
        fixedrange=True,
    )
    chart.update_yaxes(title="SQNR [dB], higher is better", range=[BOTTOM, top], fixedrange=True)
    return chart


def _add_own(chart: go.Figure, own: Mark, *, left: bool) -> None:
    chart.add_vline(x=own.threshold, line={"color": CLIPPED, "width": 1.5, "dash": "dash"})
    chart.add_annotation(
        text=f"yours: {number(own.threshold)}",
        x=np.log10(own.threshold),
        y=0.02,
        yref="paper",
        yanchor="bottom",
        xanchor="right" if left else "left",
        showarrow=False,
        font={"color": CLIPPED},
    )


def _add_mark(chart: go.Figure, mark: Mark, symbol: str, top: float) -> None:
    chart.add_scatter(
        x=[mark.threshold],
        y=[min(max(mark.sqnr, BOTTOM), top)],
        mode="markers",
        name=plain(mark.label),
        marker={
            "symbol": symbol,
            "size": 12,
            "color": QUANTIZED,
            "line": {"color": NEUTRAL, "width": 1},
        },
        hovertext=f"{plain(mark.label)}<br>clips at {number(mark.threshold)}, "
        f"{number(mark.sqnr, 'dB')}",
        hoverinfo="text",
        cliponaxis=False,
    )
