"""What a network loses against what it takes, point by point, under a budget."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from pages.common.format import number, size
from pages.common.theme import CLIPPED, FLOAT, NEUTRAL, QUANTIZED
from pages.figures.layout import figure, log_ticks


@dataclass(frozen=True)
class Anchor:
    """A configuration to compare with: what it takes, and its metric (infinity for none lost)."""

    name: str
    cost: float
    metric: float


def pareto(
    front: pd.DataFrame,
    verified: pd.DataFrame,
    *,
    by: str,
    budget: float,
    anchors: tuple[Anchor, ...] = (),
    unit: str = "dB",
    current: int | None = None,
) -> go.Figure:
    """Predicted points hollow, measured ones filled; a click carries the point in `customdata`.

    Args:
        front: Indexed by point: `cost` and `predicted`; NaN where nothing predicts the metric.
        verified: Indexed by point: `cost` and `measured`.
        by: ``"size"`` [bytes] or ``"bit_ops"``.
        budget: The most that is allowed, in the same unit.
        anchors: What the search began with, then others, such as the float network. One that takes
            more than the first is drawn at the right edge, infinity at the top.
        unit: Of the metric: `"dB"` of output SQNR, or `"%"` of accuracy.
        current: The point that is the configuration in force.
    """
    words = size if by == "size" else number
    finite = _finite(front, verified, anchors)
    low, high = float(finite.min(initial=np.inf)), float(finite.max(initial=-np.inf))
    if not finite.size:
        low, high = 0.0, 1.0
    top = high + 0.12 * max(high - low, 1.0)
    chart = figure(420, clickmode="event+select", hovermode="closest")
    _add_links(chart, front, verified)
    _add_points(chart, front, "predicted", "circle-open", (words, unit, current))
    _add_points(chart, verified, "measured", "circle", (words, unit, current))
    costs = [*front["cost"], *(anchor.cost for anchor in anchors[:1]), budget]
    ends = min(costs) * 0.93, max(costs) * 1.1
    for anchor, symbol in zip(anchors, ("diamond", "star"), strict=False):
        beyond = " →" if anchor.cost > ends[1] else ""
        chart.add_scatter(
            x=[min(anchor.cost, ends[1])],
            y=[min(anchor.metric, top)],
            mode="markers",
            name=f"{anchor.name}, {words(anchor.cost)}{beyond}",
            cliponaxis=False,
            marker={"symbol": symbol, "size": 13, "color": FLOAT},
            hovertext=f"{anchor.name}<br>{words(anchor.cost)}, {number(anchor.metric, unit)}",
            hoverinfo="text",
            selected={"marker": {"opacity": 1}},
            unselected={"marker": {"opacity": 1}},
        )
    chart.add_vline(x=budget, line={"color": CLIPPED, "width": 1.5, "dash": "dash"})
    chart.add_annotation(
        text=f"budget {words(budget)}",
        x=np.log10(budget),
        y=0.02,
        yref="paper",
        yanchor="bottom",
        xanchor="left",
        xshift=4,
        showarrow=False,
        font={"color": CLIPPED},
    )
    values = log_ticks(*ends) or [min(costs), max(costs)]
    title = "size" if by == "size" else "bit operations"
    chart.update_xaxes(
        title=f"{title}, lower is better (logarithmic)",
        type="log",
        range=[float(np.log10(end)) for end in ends],
        tickvals=values,
        ticktext=[words(value) for value in values],
        fixedrange=True,
    )
    metric = "output SQNR [dB] ↑" if unit == "dB" else "accuracy [%] ↑"
    room = 0.08 * max(high - low, 1.0)
    chart.update_yaxes(title=metric, range=[low - room, top + room], fixedrange=True)
    return chart


def _finite(front: pd.DataFrame, verified: pd.DataFrame, anchors: tuple[Anchor, ...]) -> np.ndarray:
    values = np.concatenate(
        [
            front["predicted"].to_numpy(float),
            verified["measured"].to_numpy(float),
            np.array([anchor.metric for anchor in anchors], dtype=float),
        ]
    )
    return values[np.isfinite(values)]


def _add_links(chart: go.Figure, front: pd.DataFrame, verified: pd.DataFrame) -> None:
    """A thin line from each prediction to its measurement."""
    x: list[float | None] = []
    y: list[float | None] = []
    for point, row in verified.iterrows():
        x += [row["cost"], row["cost"], None]
        y += [front["predicted"].get(point, np.nan), row["measured"], None]
    line = {"color": NEUTRAL, "width": 1}
    chart.add_scatter(x=x, y=y, mode="lines", line=line, hoverinfo="skip", showlegend=False)


def _add_points(
    chart: go.Figure, points: pd.DataFrame, column: str, symbol: str, told: tuple
) -> None:
    words, unit, current = told
    known = points.loc[np.isfinite(points[column].to_numpy(float))]
    numbers = [int(point) for point in known.index]
    chart.add_scatter(
        x=known["cost"].to_numpy(float),
        y=known[column].to_numpy(float),
        mode="markers",
        name=column,
        customdata=numbers,
        marker={
            "symbol": symbol,
            "size": [18 if point == current else 11 for point in numbers],
            "color": QUANTIZED,
            "line": {"color": NEUTRAL if symbol == "circle" else QUANTIZED, "width": 2},
        },
        hovertext=[
            f"point {point}{' (in force)' if point == current else ''}<br>"
            f"{words(cost)}<br>{column} {number(value, unit)}"
            for point, cost, value in zip(numbers, known["cost"], known[column], strict=True)
        ],
        hoverinfo="text",
        selected={"marker": {"opacity": 1}},
        unselected={"marker": {"opacity": 1}},
    )
