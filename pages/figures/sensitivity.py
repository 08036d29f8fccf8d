"""Sensitivity of layers: a heat map to click, and how well an estimate agrees with measurement."""

from itertools import cycle

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from pages.common.format import number, plain
from pages.common.theme import NEUTRAL, QUANTIZED, SEQUENTIAL, STALE
from pages.figures.layout import MONOSPACE, figure, tick

#: Pixels of a row.
ROW = 26
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star", "triangle-down")


def heat_map(
    values: pd.DataFrame,
    *,
    title: str,
    unit: str,
    low_is_sensitive: bool,
    least_span: float = 0.0,
    selected: tuple[str, str] | None = None,
    stale: bool = False,
) -> go.Figure:
    """Layers × configurations; a click carries both names in `customdata`.

    Args:
        values: Indexed by layer, a column per configuration; NaN is left empty, infinity is
            coloured as the nearest finite number.
        title: What a number is, written on the colour bar.
        unit: Of the numbers, told on hover.
        low_is_sensitive: Whether low numbers stand out, instead of high ones.
        least_span: Difference that the colours span at least, so that a small one looks small.
        selected: Layer and configuration of the cell that gets an outline.
        stale: Grey out everything: the numbers belong to an older configuration.
    """
    layers, configs = [str(n) for n in values.index], [str(c) for c in values.columns]
    given = values.to_numpy(float)
    low, high = _limits(given, least_span, low_is_sensitive)
    scale = [[i / 9, colour] for i, colour in enumerate(SEQUENTIAL)]
    chart = figure(
        max(160, 90 + ROW * len(layers)),
        clickmode="event+select",
        hovermode="closest",
        hoverdistance=-1,
        margin={"l": 56, "r": 16, "t": 40, "b": 8},
    )
    chart.add_heatmap(
        x=list(range(len(configs))),
        y=list(range(len(layers))),
        z=np.nan_to_num(given, nan=np.nan, posinf=high, neginf=low),
        zmin=low,
        zmax=high,
        text=[["" if np.isnan(v) else number(v) for v in row] for row in given],
        texttemplate="%{text}",
        colorscale=[[0, STALE], [1, STALE]] if stale else scale,
        reversescale=low_is_sensitive and not stale,
        colorbar={"title": {"text": title, "side": "right"}, "thickness": 12},
        showscale=not stale,
        xgap=2,
        ygap=2,
        hoverinfo="skip",
    )
    _add_targets(chart, values, unit)
    if selected is not None and selected[0] in layers and selected[1] in configs:
        x, y = configs.index(selected[1]), layers.index(selected[0])
        box = {"x0": x - 0.5, "x1": x + 0.5, "y0": y - 0.5, "y1": y + 0.5}
        chart.add_shape(type="rect", **box, line={"color": NEUTRAL, "width": 4})
    chosen = (None, None) if selected is None else selected
    chart.update_xaxes(
        tickvals=list(range(len(configs))),
        ticktext=[tick(config, config == chosen[1]) for config in configs],
        side="top",
        range=[-0.5, len(configs) - 0.5],
        fixedrange=True,
    )
    chart.update_yaxes(
        tickvals=list(range(len(layers))),
        ticktext=[tick(layer, layer == chosen[0]) for layer in layers],
        tickfont={"family": MONOSPACE, "size": 11},
        range=[len(layers) - 0.5, -0.5],
        showgrid=False,
        fixedrange=True,
    )
    return chart


def _add_targets(chart: go.Figure, values: pd.DataFrame, unit: str) -> None:
    """An invisible mark in each cell: what Streamlit lets a click select."""
    cells = [
        (x, y, str(layer), str(config), float(value))
        for y, (layer, row) in enumerate(values.iterrows())
        for x, (config, value) in enumerate(row.items())
    ]
    chart.add_scatter(
        x=[x for x, *_ in cells],
        y=[y for _, y, *_ in cells],
        mode="markers",
        marker={"symbol": "square", "size": ROW - 2, "color": NEUTRAL, "opacity": 0},
        customdata=[[layer, config] for _, _, layer, config, _ in cells],
        hovertext=[
            f"<b>{plain(layer)}</b><br>{plain(config)}: "
            + ("not known" if np.isnan(value) else number(value, unit))
            for _, _, layer, config, value in cells
        ],
        hoverinfo="text",
        showlegend=False,
        selected={"marker": {"opacity": 0}},
        unselected={"marker": {"opacity": 0}},
    )


def agreement(points: pd.DataFrame, *, x: str, y: str, selected: str | None = None) -> go.Figure:
    """Each point as estimated and as measured; on the dashed diagonal both are equal.

    Args:
        points: Columns `x` and `y` [dB], `name` and `group`; points that are not finite are left
            out. A click carries the name in `customdata`.
        x: Title of the horizontal axis.
        y: Title of the vertical one.
        selected: The name whose points get an outline.
    """
    known = points.loc[np.isfinite(points[["x", "y"]].to_numpy(float)).all(axis=1)]
    chart = figure(340, clickmode="event+select", hovermode="closest")
    numbers = known[["x", "y"]].to_numpy(float)
    low, high = (numbers.min(), numbers.max()) if numbers.size else (0.0, 1.0)
    room = max(0.04 * (high - low), 0.5)
    ends = [float(low - room), float(high + room)]
    chart.add_scatter(
        x=ends,
        y=ends,
        mode="lines",
        name="equal",
        line={"color": NEUTRAL, "width": 1.5, "dash": "dash"},
        hoverinfo="skip",
    )
    for group, symbol in zip(known["group"].unique(), cycle(SYMBOLS)):
        rows = known.loc[known["group"] == group]
        names = [str(name) for name in rows["name"]]
        chart.add_scatter(
            x=rows["x"].to_numpy(float),
            y=rows["y"].to_numpy(float),
            mode="markers",
            name=plain(str(group)),
            customdata=names,
            marker={
                "symbol": symbol,
                "size": 11,
                "color": QUANTIZED,
                "opacity": 0.85,
                "line": {"color": NEUTRAL, "width": [4 if n == selected else 0 for n in names]},
            },
            hovertext=[
                f"<b>{plain(n)}</b><br>{plain(str(group))}<br>{number(a, 'dB')} → {number(b, 'dB')}"
                for n, a, b in zip(names, rows["x"], rows["y"], strict=True)
            ],
            hoverinfo="text",
            selected={"marker": {"opacity": 0.85}},
            unselected={"marker": {"opacity": 0.85}},
        )
    chart.update_xaxes(title=x, range=ends, showgrid=True, fixedrange=True)
    chart.update_yaxes(title=y, range=ends, fixedrange=True)
    return chart


def _limits(values: np.ndarray, least: float, low_stands_out: bool) -> tuple[float, float]:
    """Where the colours begin and end; room is made at the end that stands out."""
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    span = max(least, high - low, 1e-9)
    return (high - span, high) if low_stands_out else (low, low + span)
