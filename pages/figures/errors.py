"""Error by layer: local beside accumulated, against the bound of an ideal quantizer."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from pages.common.format import number, plain
from pages.common.theme import ACCUMULATED, LOCAL, NEUTRAL, STALE
from pages.figures.layout import MONOSPACE, figure, tick, upright

SERIES = (
    ("local", "local: fed float inputs", LOCAL, 0.5),
    ("accumulated", "accumulated: inside the network", ACCUMULATED, 1.0),
)
#: Above this many layers their names would overlap; the hover still tells each.
MOST_NAMES = 40


def by_layer(
    layers: pd.DataFrame,
    *,
    worst_first: bool = False,
    selected: str | None = None,
    stale: bool = False,
) -> go.Figure:
    """Grouped bars of SQNR per layer; a click on one carries the layer's name in `customdata`.

    Args:
        layers: Indexed by layer name in graph order, with `sqnr_local`, `sqnr_accumulated` and
            `sqnr_ideal` in dB; `+inf` (no error at all) is drawn at the top, `-inf` at 0; the
            hover says so.
        worst_first: Order by local SQNR, lowest first, instead of graph order.
        selected: The layer whose bars get an outline.
        stale: Grey out everything: the numbers belong to an older configuration.
    """
    if worst_first:
        layers = layers.sort_values("sqnr_local", kind="stable")
    names = [str(name) for name in layers.index]
    top = _top(layers)
    chart = figure(360, barmode="group", bargroupgap=0.06, clickmode="event+select")
    for series, title, colour, stale_opacity in SERIES:
        values = layers[f"sqnr_{series}"].to_numpy(float)
        chart.add_bar(
            x=list(range(len(names))),
            y=np.nan_to_num(values, posinf=top, neginf=0.0),
            name=title,
            customdata=names,
            marker={
                "color": STALE if stale else colour,
                "opacity": stale_opacity if stale else 1.0,
                "line": {
                    "color": NEUTRAL,
                    "width": [3 if name == selected else 0 for name in names],
                },
            },
            hovertext=[
                f"{plain(n)}<br>{series} {number(v, 'dB')}"
                for n, v in zip(names, values, strict=True)
            ],
            hoverinfo="text",
            selected={"marker": {"opacity": 1}},
            unselected={"marker": {"opacity": 1}},
        )
    _add_ideal(chart, layers["sqnr_ideal"].to_numpy(float))
    chart.update_yaxes(title=upright("SQNR [dB] ↑"), fixedrange=True)
    shown = names if len(names) <= MOST_NAMES else []
    chart.update_xaxes(
        tickvals=list(range(len(shown))),
        ticktext=[tick(name, name == selected) for name in shown],
        tickangle=-45,
        tickfont={"family": MONOSPACE, "size": 11},
        range=[-0.6, len(names) - 0.4],
        fixedrange=len(names) <= MOST_NAMES,
    )
    return chart


def _top(layers: pd.DataFrame) -> float:
    """Where an infinite SQNR is drawn: a little above the largest finite one."""
    columns = ("sqnr_local", "sqnr_accumulated", "sqnr_ideal")
    values = np.concatenate([layers[column].to_numpy(float) for column in columns])
    finite = values[np.isfinite(values)]
    return float(finite.max()) * 1.1 if finite.size else 100.0


def _add_ideal(chart: go.Figure, ideal: np.ndarray) -> None:
    """One dashed step per layer: what an ideal quantizer of that width reaches there."""
    positions = np.arange(len(ideal), dtype=float)
    gap = np.full_like(positions, np.nan)
    steps = np.stack([positions - 0.45, positions + 0.45, gap], axis=1).ravel()
    heights = np.stack([ideal, ideal, gap], axis=1).ravel()
    chart.add_scatter(
        x=steps,
        y=np.where(np.isinf(heights), np.nan, heights),
        mode="lines",
        name="ideal quantizer of that width",
        line={"color": NEUTRAL, "width": 1.5, "dash": "dot"},
        hoverinfo="skip",
        connectgaps=False,
    )
