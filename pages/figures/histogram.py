"""A tensor's distribution with the quantization grid and the clip bounds drawn on it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go

from pages.common.format import number, percent
from pages.common.theme import CLIPPED, FLOAT, QUANTIZED
from pages.figures.layout import figure

#: Up to this many levels the grid is drawn as lines through the histogram, above as ticks below.
MOST_LINES = 64
#: More ticks than this are thinned: the screen has no room for them.
MOST_TICKS = 512
HEIGHT = 270
#: A logarithmic axis has no zero: empty bins are drawn at half a count.
FLOOR = 0.5


@dataclass(frozen=True)
class Grid:
    """What a quantizer can express: `levels` in real units, ascending, and what it clips.

    Attributes:
        levels: float64, every real number that has a code.
        clipped_share: Share of the values outside their range, 0 to 1.
        shared: Whether every value is quantized by these levels; otherwise they are one channel's,
            and what lies outside them is not clipped by them.
    """

    levels: np.ndarray
    clipped_share: float
    shared: bool = True

    @property
    def bounds(self) -> tuple[float, float]:
        """The smallest and the largest real number that has a code."""
        return float(self.levels[0]), float(self.levels[-1])


def histogram(
    edges: np.ndarray,
    counts: np.ndarray,
    *,
    grid: Grid | None,
    log: bool = True,
    title: str = "value",
) -> go.Figure:
    """A filled histogram; with a grid, its levels, clip bounds and clipped mass.

    Args:
        edges: Bin edges in real units, ascending, shape (bins + 1,).
        counts: Values per bin, shape (bins,).
        grid: The quantizer's levels; None where the tensor stays in float.
        log: Logarithmic counts.
        title: What the values are, written below the axis.
    """
    floor = FLOOR if log else 0.0
    tallest = max(float(counts.max(initial=0)), 1.0)
    chart = figure(HEIGHT, showlegend=False)
    _add_area(chart, edges, np.maximum(counts, floor), floor, FLOAT, "float values")
    if grid is not None:
        _add_clipped(chart, edges, np.maximum(counts, floor), floor, grid)
        _add_levels(chart, grid.levels, (floor, tallest))
        _add_bounds(chart, grid)
    chart.update_yaxes(
        title="count (log)" if log else "count",
        type="log" if log else "linear",
        range=[np.log10(floor), np.log10(tallest) + 0.3] if log else [0.0, tallest * 1.15],
        exponentformat="power",
        dtick=1 if log else None,
        nticks=5,
        fixedrange=True,
        domain=[0.1, 1.0],
    )
    chart.update_layout(
        yaxis2={"domain": [0.0, 0.08], "visible": False, "fixedrange": True, "range": [-1, 1]}
    )
    chart.update_xaxes(
        title=title, range=span_of(edges, [] if grid is None else [grid]), anchor="y2"
    )
    return chart


def span_of(edges: np.ndarray, grids: Sequence[Grid]) -> list[float]:
    """Both ends of an axis that shows all values and all levels."""
    low = min([float(edges[0]), *(grid.bounds[0] for grid in grids)])
    high = max([float(edges[-1]), *(grid.bounds[1] for grid in grids)])
    margin = 0.06 * (high - low) or 1.0
    return [low - margin, high + margin]


def _add_area(
    chart: go.Figure, edges: np.ndarray, heights: np.ndarray, floor: float, colour: str, name: str
) -> None:
    """Steps from bin to bin, filled down to `floor`."""
    chart.add_scatter(
        x=np.concatenate([edges[:1], edges, edges[-1:]]),
        y=np.concatenate([[floor], heights, heights[-1:], [floor]]),
        mode="lines",
        name=name,
        line={"color": colour, "width": 1, "shape": "hv"},
        fill="toself",
        fillcolor=colour,
        opacity=0.6,
        hovertemplate=f"{name}<br>from %{{x:.4g}}: %{{y:,.0f}}<extra></extra>",
        hoveron="points",
    )


def _add_clipped(
    chart: go.Figure,
    edges: np.ndarray,
    heights: np.ndarray,
    floor: float,
    grid: Grid,
) -> None:
    """Shades what lies outside the bounds; a bin that a bound cuts is shaded up to the bound."""
    low, high = grid.bounds
    for start, stop in ((edges[0], min(low, edges[-1])), (max(high, edges[0]), edges[-1])):
        if grid.clipped_share == 0 or not grid.shared or start >= stop:
            continue
        cut = np.concatenate([[start], edges[(edges > start) & (edges < stop)], [stop]])
        bins = np.clip(np.searchsorted(edges, cut[:-1], side="right") - 1, 0, len(heights) - 1)
        _add_area(chart, cut, heights[bins], floor, CLIPPED, "clipped")


def _add_levels(chart: go.Figure, levels: np.ndarray, span: tuple[float, float]) -> None:
    """Ticks below the histogram, and lines through it where there are few enough."""
    if len(levels) <= MOST_LINES:
        gap = np.full(len(levels), np.nan)
        low, high = np.full(len(levels), span[0]), np.full(len(levels), span[1])
        chart.add_scatter(
            x=np.stack([levels, levels, gap], axis=1).ravel(),
            y=np.stack([low, high, gap], axis=1).ravel(),
            mode="lines",
            name="grid lines",
            line={"color": QUANTIZED, "width": 1},
            hoverinfo="skip",
        )
    ticks = levels[:: -(-len(levels) // MOST_TICKS)]
    chart.add_scatter(
        x=ticks,
        y=np.zeros(len(ticks)),
        yaxis="y2",
        mode="markers",
        name="levels",
        marker={"symbol": "line-ns-open", "size": 9, "color": QUANTIZED},
        hovertemplate="level %{x:.4g}<extra></extra>",
    )


def _add_bounds(chart: go.Figure, grid: Grid) -> None:
    lines, notes = [], []
    # Each label stands inside its bound, clear of the axis.
    for value, anchor in zip(grid.bounds, ("left", "right"), strict=True):
        lines.append(
            {
                "type": "line",
                "x0": value,
                "x1": value,
                "xref": "x",
                "y0": 0,
                "y1": 1,
                "yref": "y domain",
                "line": {"color": CLIPPED, "width": 1.5, "dash": "dash"},
            }
        )
        notes.append(
            {
                "text": number(value),
                "x": value,
                "xref": "x",
                "xanchor": anchor,
                "y": 1,
                "yref": "y domain",
                "yanchor": "bottom",
                "showarrow": False,
                "font": {"color": CLIPPED, "size": 12},
            }
        )
    if grid.clipped_share > 0:
        notes.append(
            {
                "text": f"clipped {percent(grid.clipped_share)}",
                "x": 0.5,
                "xref": "paper",
                "y": 1,
                "yref": "paper",
                "yanchor": "bottom",
                "showarrow": False,
                "font": {"color": CLIPPED, "size": 13},
            }
        )
    chart.update_layout(shapes=lines, annotations=notes)
