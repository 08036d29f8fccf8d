"""Two runs layer by layer."""

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from pages.common.format import number, plain
from pages.common.theme import FLOAT, NEUTRAL, QUANTIZED
from pages.figures.errors import MOST_NAMES
from pages.figures.layout import MONOSPACE, figure, tick


def versus(
    layers: pd.DataFrame, column: str, names: tuple[str, str], *, selected: str | None = None
) -> go.Figure:
    """A hollow mark for run A, a filled one for run B, a line between them for each layer.

    Args:
        layers: Indexed by layer: `<column>_a` and `<column>_b` [dB], NaN where a run lacks the
            layer; infinity is drawn above all others. A click carries the layer in `customdata`.
        column: Such as `sqnr_local`.
        names: What the runs are called.
        selected: The layer whose marks get an outline.
    """
    pair = [layers[f"{column}_{run}"].to_numpy(float) for run in "ab"]
    finite = np.concatenate(pair)[np.isfinite(np.concatenate(pair))]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    drawn = [np.nan_to_num(v, nan=np.nan, posinf=high * 1.1 + 1, neginf=min(low, 0)) for v in pair]
    titles = [str(name) for name in layers.index]
    places = list(range(len(titles)))
    chart = figure(360, clickmode="event+select", hovermode="closest")
    _add_lines(chart, drawn)
    for values, heights, run, symbol in zip(
        pair, drawn, "AB", ("circle-open", "circle"), strict=True
    ):
        marker: dict[str, Any] = {
            "symbol": symbol,
            "size": 12,
            "color": FLOAT if run == "A" else QUANTIZED,
            "line": {
                "color": FLOAT if run == "A" else NEUTRAL,
                "width": [4 if t == selected else (2 if run == "A" else 0) for t in titles],
            },
        }
        chart.add_scatter(
            x=places,
            y=heights,
            mode="markers",
            name=f"{run}: {plain(names['AB'.index(run)])}",
            customdata=titles,
            marker=marker,
            hovertext=[
                f"<b>{plain(t)}</b><br>{run} {number(v, 'dB')}"
                for t, v in zip(titles, values, strict=True)
            ],
            hoverinfo="text",
            selected={"marker": {"opacity": 1}},
            unselected={"marker": {"opacity": 1}},
        )
    shown = titles if len(titles) <= MOST_NAMES else []
    chart.update_xaxes(
        tickvals=list(range(len(shown))),
        ticktext=[tick(name, name == selected) for name in shown],
        tickangle=-45,
        tickfont={"family": MONOSPACE, "size": 11},
        range=[-0.6, len(titles) - 0.4],
        fixedrange=True,
    )
    chart.update_yaxes(title="SQNR [dB] ↑", fixedrange=True)
    return chart


def _add_lines(chart: go.Figure, pair: list[np.ndarray]) -> None:
    places = np.arange(len(pair[0]), dtype=float)
    gap = np.full_like(places, np.nan)
    chart.add_scatter(
        x=np.stack([places, places, gap], axis=1).ravel(),
        y=np.stack([*pair, gap], axis=1).ravel(),
        mode="lines",
        line={"color": NEUTRAL, "width": 1.5},
        hoverinfo="skip",
        showlegend=False,
    )
