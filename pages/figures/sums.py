"""An integer sum: the accumulator as it grows, and pairs of products against 16 bits."""

import numpy as np
import plotly.graph_objects as go

from pages.common.theme import CLIPPED, FLOAT, QUANTIZED
from pages.figures.layout import figure

#: More bars than this are left out: the screen has no room for them.
MOST_BARS = 400


def accumulator(products: np.ndarray, partial: np.ndarray, done: int) -> go.Figure:
    """Each product as a bar and the accumulator as a line, up to the term that was added last.

    Args:
        products: Integers, shape (K,).
        partial: The accumulator after each, same shape.
        done: How many terms have been added, at least 1.
    """
    terms = np.arange(1, len(products) + 1)
    chart = figure(250)
    chart.add_bar(
        x=terms[:done],
        y=products[:done],
        name="product",
        marker={"color": QUANTIZED, "line": {"width": 0}},
        hovertemplate="term %{x}: %{y:,}<extra></extra>",
    )
    for name, part, dash in (
        ("accumulator", slice(done), "solid"),
        ("to come", slice(done - 1, None), "dot"),
    ):
        chart.add_scatter(
            x=terms[part],
            y=partial[part],
            mode="lines",
            name=name,
            line={"color": FLOAT, "width": 2, "shape": "hv", "dash": dash},
            hovertemplate=f"{name} after term %{{x}}: %{{y:,}}<extra></extra>",
        )
    chart.add_scatter(
        x=[done],
        y=[partial[done - 1]],
        mode="markers",
        showlegend=False,
        name="now",
        marker={"color": FLOAT, "size": 11},
        hoverinfo="skip",
    )
    chart.update_xaxes(title="term", range=[0.3, len(terms) + 0.7], fixedrange=True)
    chart.update_yaxes(title="integer", fixedrange=True, separatethousands=True)
    return chart


def pair_sums(pairs: np.ndarray, held: np.ndarray, limits: tuple[int, int]) -> go.Figure:
    """Sums of two products as bars; what 16 bits cannot hold stands out beyond their limits.

    Args:
        pairs: Exact sums, shape (pairs,).
        held: What 16 bits hold of them, same shape.
        limits: Smallest and largest number of 16 bits.
    """
    shown = slice(MOST_BARS)
    places = np.arange(1, len(pairs) + 1)[shown]
    chart = figure(300, barmode="stack")
    for name, values, colour, pattern in (
        ("held in 16 bits", held, QUANTIZED, ""),
        ("lost", pairs - held, CLIPPED, "/"),
    ):
        chart.add_bar(
            x=places,
            y=values[shown],
            name=name,
            marker={"color": colour, "line": {"width": 0}, "pattern": {"shape": pattern}},
            hovertemplate=f"pair %{{x}}, {name}: %{{y:,}}<extra></extra>",
        )
    for limit in limits:
        chart.add_hline(y=limit, line={"color": CLIPPED, "width": 1.5, "dash": "dash"})
        chart.add_annotation(
            text=f"{limit:,}".replace("-", "−"),
            x=1,
            xref="paper",
            y=limit,
            xanchor="right",
            yanchor="bottom" if limit > 0 else "top",
            showarrow=False,
            font={"color": CLIPPED},
        )
    reach = 1.25 * max(float(np.abs(pairs).max(initial=0)), float(max(limits)))
    chart.update_xaxes(title="pair of neighbouring products", fixedrange=True)
    chart.update_yaxes(
        title="sum of two products", range=[-reach, reach], fixedrange=True, separatethousands=True
    )
    return chart
