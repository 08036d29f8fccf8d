"""A normalization: what goes in and what comes out, in float and in codes."""

import numpy as np
import plotly.graph_objects as go

from pages.common.theme import FLOAT, NEUTRAL, QUANTIZED
from pages.figures.layout import figure


def in_and_out(
    floats: tuple[np.ndarray, np.ndarray],
    quantized: tuple[np.ndarray, np.ndarray],
    mean: float,
    selected: int,
) -> go.Figure:
    """Input above, output below; the quantized numbers as steps over the float ones.

    Args:
        floats: Input and output of the float layer, shape (K,) each.
        quantized: What the codes of both stand for, same shapes.
        mean: Of the input, drawn across it.
        selected: The number that is worked out, marked in both.
    """
    chart = figure(380)
    places = np.arange(len(floats[0]))
    for axis, side in (("y2", 0), ("y", 1)):
        for name, values, colour, symbol in (
            ("float", floats[side], FLOAT, "circle-open"),
            ("quantized", quantized[side], QUANTIZED, "line-ew-open"),
        ):
            chart.add_scatter(
                x=places,
                y=values,
                yaxis=axis,
                mode="markers",
                name=name,
                legendgroup=name,
                showlegend=side == 0,
                marker={"symbol": symbol, "size": 9, "color": colour, "line": {"width": 2}},
                hovertemplate=f"{name} %{{x}}: %{{y:.4g}}<extra></extra>",
            )
        chart.add_scatter(
            x=[places[selected]],
            y=[quantized[side][selected]],
            yaxis=axis,
            mode="markers",
            name="worked out above",
            legendgroup="selected",
            showlegend=side == 0,
            marker={"symbol": "square-open", "size": 18, "color": NEUTRAL, "line": {"width": 2}},
            hoverinfo="skip",
        )
    chart.add_scatter(
        x=[places[0], places[-1]],
        y=[mean, mean],
        yaxis="y2",
        mode="lines",
        name="mean",
        line={"color": NEUTRAL, "dash": "dash", "width": 1.5},
        hovertemplate="mean %{y:.4g}<extra></extra>",
    )
    chart.update_layout(
        yaxis={"title": "output", "domain": [0.0, 0.46], "fixedrange": True},
        yaxis2={
            "title": "input", "domain": [0.54, 1.0], "fixedrange": True, "zeroline": False,
            "automargin": True,
        },
    )  # fmt: skip
    chart.update_xaxes(title="number", range=[-0.7, len(places) - 0.3], fixedrange=True, anchor="y")
    return chart
