"""The network as a picture: layers from top to bottom, coloured by their error."""

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from pages.common.format import number, plain
from pages.common.theme import NEUTRAL, SEQUENTIAL, STALE
from pages.figures.layered import Placement, place
from pages.figures.layout import CONFIG, MONOSPACE, figure

#: Streamlit's argument `config`: the wheel zooms, dragging moves.
ZOOMABLE: dict[str, Any] = {**CONFIG, "scrollZoom": True}
HEIGHT, LEVELS = 680, 18
#: Room beside the outer columns, in columns, for their names: right of the last one, left of the
#: first where there are several, since what stands to its right would cover them.
NAMES, LEFT = 1.8, 1.3
#: Beside so many columns there is room for a name's last part only; the hover tells all of it.
CROWDED = 2.2
SYMBOLS = {"integer": "square", "simulated": "diamond", "dynamic": "diamond"}
OTHER = "circle-open"
FLOAT = "runs in float, or passes on what it gets"


def network(layers: pd.DataFrame, *, selected: str | None = None, stale: bool = False) -> go.Figure:
    """One mark per layer, lines along the data; a click carries the layer's name in `customdata`.

    Args:
        layers: Indexed by layer name in graph order, with `type`, `execution`, `inputs` (tuples of
            names; what is no layer of the table is drawn as an input) and `sqnr` [dB], NaN where
            a layer is not quantized.
        selected: The layer that gets an outline.
        stale: Grey out the colours: they belong to an older configuration.
    """
    inputs = _with_inputs(layers)
    placement = place(inputs)
    chart = figure(HEIGHT, clickmode="event+select", dragmode="pan", hovermode="closest")
    _lines(chart, placement)
    _sources(chart, placement, [name for name in inputs if name not in layers.index])
    columns = max(placement.x.values(), default=0.0)
    labels = _labels(layers, selected, whole=columns < CROWDED)
    _marks(chart, layers.assign(label=labels), placement, selected, stale)
    deepest = max(placement.level.values(), default=0)
    left = -LEFT if columns else -0.3
    chart.update_xaxes(visible=False, range=[left, max(columns + NAMES, left + 3.3)])
    chart.update_yaxes(visible=False, range=[min(deepest, LEVELS) + 0.6, -0.6])
    return chart


def _with_inputs(layers: pd.DataFrame) -> dict[str, tuple[str, ...]]:
    """What feeds each layer; every source that is no layer stands first, fed by nothing."""
    given = {str(name): tuple(sources) for name, sources in layers["inputs"].items()}
    outside = dict.fromkeys(s for sources in given.values() for s in sources if s not in given)
    return {**dict.fromkeys(outside, ()), **given}


def _lines(chart: go.Figure, placement: Placement) -> None:
    x: list[float | None] = []
    y: list[float | None] = []
    for route in placement.routes:
        x += [point[0] for point in route] + [None]
        y += [point[1] for point in route] + [None]
    line = {"color": NEUTRAL, "width": 1.2, "shape": "spline", "smoothing": 0.6}
    chart.add_scatter(x=x, y=y, mode="lines", line=line, hoverinfo="skip", showlegend=False)


def _sources(chart: go.Figure, placement: Placement, names: list[str]) -> None:
    chart.add_scatter(
        x=[placement.x[name] for name in names],
        y=[placement.level[name] for name in names],
        mode="markers+text",
        text=[plain(name) for name in names],
        textposition="middle right",
        marker={"symbol": "triangle-down-open", "size": 13, "color": NEUTRAL},
        hoverinfo="skip",
        showlegend=False,
    )


def _marks(
    chart: go.Figure,
    layers: pd.DataFrame,
    placement: Placement,
    selected: str | None,
    stale: bool,
) -> None:
    """A trace per way of running, so that the legend names the symbols."""
    values = layers["sqnr"].to_numpy(float)
    finite = values[np.isfinite(values)]
    low, high = (finite.min(), finite.max()) if finite.size else (0.0, 1.0)
    chart.update_layout(
        coloraxis={
            "cmin": float(low),
            "cmax": float(max(high, low + 1e-9)),
            "colorscale": [[i / 9, colour] for i, colour in enumerate(reversed(SEQUENTIAL))],
            "showscale": bool(finite.size) and not stale,
            # Below, not beside: a narrow screen needs the width for the names.
            "colorbar": {
                "title": {"text": "SQNR [dB] ↑", "side": "top"},
                "orientation": "h",
                "thickness": 12,
                "len": 0.6,
                "y": 0,
                "yanchor": "top",
            },
        }
    )
    kinds = [kind if kind in SYMBOLS else FLOAT for kind in layers["execution"]]
    for kind in dict.fromkeys(kinds):
        rows = layers.iloc[[i for i, each in enumerate(kinds) if each == kind]]
        names = [str(name) for name in rows.index]
        sides = ["left" if _first_of_several(placement, name) else "right" for name in names]
        numbers = rows["sqnr"].to_numpy(float)
        marker: dict[str, Any] = {
            "symbol": SYMBOLS.get(kind, OTHER),
            "size": 15,
            "line": {"color": NEUTRAL, "width": [4 if name == selected else 1 for name in names]},
        }
        if kind == FLOAT or stale:
            marker["color"] = STALE if stale else NEUTRAL
        else:
            marker["color"] = np.nan_to_num(numbers, nan=high, posinf=high, neginf=low)
            marker["coloraxis"] = "coloraxis"
        chart.add_scatter(
            x=[placement.x[name] for name in names],
            y=[placement.level[name] for name in names],
            mode="markers+text",
            name=kind,
            text=[
                label.strip() + " " if side == "left" else label
                for label, side in zip(rows["label"], sides, strict=True)
            ],
            textposition=[f"middle {side}" for side in sides],
            textfont={"family": MONOSPACE, "size": 11},
            customdata=names,
            hovertext=[
                f"<b>{plain(name)}</b><br>{plain(kind)}, {plain(how)}<br>{_decibels(value)}"
                for name, kind, how, value in zip(
                    names, rows["type"], rows["execution"], numbers, strict=True
                )
            ],
            hoverinfo="text",
            marker=marker,
            selected={"marker": {"opacity": 1}},
            unselected={"marker": {"opacity": 1}},
        )


def _first_of_several(placement: Placement, name: str) -> bool:
    """Whether a layer stands in the first column of several."""
    return placement.x[name] < 0.01 < max(placement.x.values())


def _labels(layers: pd.DataFrame, selected: str | None, *, whole: bool) -> list[str]:
    """What stands beside each mark: the name, its last part bold, and the error."""
    labels = []
    for name, value in zip(map(str, layers.index), layers["sqnr"].to_numpy(float), strict=True):
        path, dot, leaf = name.rpartition(".")
        mark = "▸ " if name == selected else ""
        tail = "" if np.isnan(value) else f"  {number(value, 'dB')}"
        labels.append(f" {mark}{plain(path + dot) if whole else ''}<b>{plain(leaf)}</b>{tail}")
    return labels


def _decibels(value: float) -> str:
    return "not quantized" if np.isnan(value) else f"SQNR {number(value, 'dB')}"
