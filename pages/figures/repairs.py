"""What repairs did: one of their numbers by layer, and how far weights were moved."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from pages.common.format import number, plain
from pages.common.theme import NEUTRAL, QUANTIZED
from pages.figures.layout import MONOSPACE, figure


def by_layer(values: pd.Series, title: str, *, line: float | None = None) -> go.Figure:
    """A bar for each layer.

    Args:
        values: Indexed by layer; NaN leaves a gap.
        title: Of the vertical axis, with unit.
        line: Where to draw a dashed line.
    """
    chart = figure(260, showlegend=False)
    names = [str(name) for name in values.index]
    chart.add_bar(
        x=names,
        y=values.to_numpy(float),
        marker={"color": QUANTIZED},
        hovertext=[f"{plain(n)}: {number(float(v))}" for n, v in zip(names, values, strict=True)],
        hoverinfo="text",
    )
    if line is not None:
        chart.add_hline(y=line, line={"color": NEUTRAL, "dash": "dash", "width": 1.5})
    chart.update_xaxes(
        tickangle=-45, tickfont={"family": MONOSPACE, "size": 11}, fixedrange=True, type="category"
    )
    chart.update_yaxes(title=title, fixedrange=True)
    return chart


def moved(edges: np.ndarray, counts: np.ndarray, bound: str = "rounding to nearest") -> go.Figure:
    """A histogram of how far weights moved, with a line at half a step to each side.

    Args:
        edges: Of the bins, in steps of the weight's scale, shape (bins + 1,).
        counts: Weights in each bin, shape (bins,).
        bound: What the lines are.
    """
    chart = figure(260, showlegend=False, bargap=0)
    middle = (edges[1:] + edges[:-1]) / 2
    chart.add_bar(
        x=middle,
        y=counts,
        width=np.diff(edges),
        marker={"color": QUANTIZED},
        hovertext=[f"{number(float(n))} weights" for n in counts],
        hoverinfo="text",
    )
    for half in (-0.5, 0.5):
        chart.add_vline(x=half, line={"color": NEUTRAL, "dash": "dash", "width": 1.5})
    chart.update_xaxes(title=f"moved by [steps]; dashed: {bound}", fixedrange=True)
    chart.update_yaxes(title="weights", fixedrange=True)
    return chart
