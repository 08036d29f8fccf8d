"""The report's charts, in colours of their own: nothing around them sets a theme."""

from __future__ import annotations

import html
import math
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from qlab.analysis import grid
from qlab.qparams import QParams
from qlab.stats import TensorStats

#: Okabe-Ito; nothing is told by colour alone.
FLOAT, LOCAL, ACCUMULATED, CLIP, NEUTRAL = "#5b6b7f", "#56b4e9", "#00466e", "#d55e00", "#7f8a96"
_FEW_NAMES = 60
#: A logarithmic axis has no zero.
_NO_COUNT = 0.5


def errors_chart(layers: pd.DataFrame) -> go.Figure:
    """Local and accumulated SQNR of each layer as dots, the ideal one as a dash above them.

    Args:
        layers: As ``Report.layers``. An infinite SQNR is drawn on the upper edge and is called so.
    """
    names = [html.escape(str(name)) for name in layers.index]
    columns = {c: layers[f"sqnr_{c}"].to_numpy(float) for c in ("local", "accumulated", "ideal")}
    finite = np.concatenate([values[np.isfinite(values)] for values in columns.values()])
    top = 1.1 * float(finite.max(initial=1.0))
    looks: dict[str, dict[str, Any]] = {
        "local": {"symbol": "circle", "size": 9, "color": LOCAL},
        "accumulated": {"symbol": "diamond", "size": 9, "color": ACCUMULATED},
        "ideal": {"symbol": "line-ew-open", "size": 14, "color": NEUTRAL},
    }
    chart = go.Figure(layout=_layout(380, "SQNR [dB]"))
    for name, values in columns.items():
        chart.add_scatter(
            x=list(range(len(names))),
            y=np.nan_to_num(values, nan=np.nan, posinf=top, neginf=0.0),
            mode="markers",
            name=name,
            marker=looks[name],
            text=[f"{n}<br>{name} {_decibels(v)}" for n, v in zip(names, values, strict=True)],
            hoverinfo="text",
        )
    shown = names if len(names) <= _FEW_NAMES else []
    chart.update_xaxes(tickvals=list(range(len(shown))), ticktext=shown, tickangle=-45)
    return chart


def histogram_chart(stats: TensorStats, qparams: QParams | None, title: str) -> go.Figure:
    """How often each value occurs, the quantizer's levels below, its ends as dashed lines.

    Args:
        stats: The float tensor.
        qparams: Its scales; of several, the widest is drawn. None where it stays in float.
        title: What the values are.
    """
    edges, counts = grid.histogram_of(stats)
    chart = go.Figure(layout=_layout(260, "count"))
    chart.add_bar(
        x=(edges[:-1] + edges[1:]) / 2,
        y=np.where(counts > 0, counts, np.nan),
        width=np.diff(edges),
        marker={"color": FLOAT},
        name="float values",
        hovertemplate="%{x:.4g}: %{y:,.0f}<extra></extra>",
    )
    if qparams is not None:
        _add_levels(chart, qparams)
    chart.update_yaxes(type="log", exponentformat="power", dtick=1)
    chart.update_xaxes(title=title)
    chart.update_layout(bargap=0, showlegend=False)
    return chart


def _add_levels(chart: go.Figure, qparams: QParams) -> None:
    widest = int(qparams.scale.flatten().argmax())
    levels = grid.codes_and_levels(grid.one_scale(qparams, widest))[1]
    chart.add_scatter(
        x=levels,
        y=np.full(len(levels), _NO_COUNT),
        mode="markers",
        name="levels",
        marker={"symbol": "line-ns-open", "size": 8, "color": LOCAL},
        hovertemplate="level %{x:.4g}<extra></extra>",
    )
    for value, side in ((levels[0], "right"), (levels[-1], "left")):
        chart.add_vline(
            x=float(value),
            line={"color": CLIP, "dash": "dash", "width": 1.5},
            annotation={"text": f"{value:.4g}", "font": {"color": CLIP}},
            annotation_position=f"top {side}",
        )


def _layout(height: int, values: str) -> dict[str, Any]:
    return {
        "template": "plotly_white",
        "height": height,
        "margin": {"l": 60, "r": 20, "t": 30, "b": 40},
        "yaxis": {"title": values, "automargin": True},
        "xaxis": {"automargin": True, "zeroline": False},
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom"},
    }


def _decibels(value: float) -> str:
    if math.isinf(value):
        return "∞ dB" if value > 0 else "−∞ dB"
    return f"{value:.1f} dB"
