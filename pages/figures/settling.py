"""A tensor's range over the calibration batches: does more data still widen it?"""

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from pages.common.theme import FLOAT, QUANTIZED
from pages.figures.layout import figure


def range_curve(curve: pd.DataFrame) -> go.Figure:
    """Extrema so far as steps, and a band that says how much they depend on which batches came.

    Args:
        curve: By number of batches, with `low`, `high`, `low_mean`, `high_mean`, `low_std` and
            `high_std` in the tensor's unit, as `Stability.curve` gives it.
    """
    chart = figure(280)
    batches = curve.index.to_numpy()
    for side, shown in (("high", True), ("low", False)):
        mean, std = (curve[f"{side}_{what}"].to_numpy(float) for what in ("mean", "std"))
        chart.add_scatter(
            x=np.concatenate([batches, batches[::-1]]),
            y=np.concatenate([mean + std, (mean - std)[::-1]]),
            mode="lines",
            line={"width": 0, "color": QUANTIZED},
            fill="toself",
            fillcolor=QUANTIZED,
            opacity=0.25,
            name="any choice of so many batches, ± 1 standard deviation",
            legendgroup="band",
            showlegend=shown,
            hoverinfo="skip",
        )
        chart.add_scatter(
            x=batches,
            y=mean,
            mode="lines",
            line={"color": QUANTIZED, "width": 1.5, "dash": "dot"},
            name="their mean",
            legendgroup="mean",
            showlegend=shown,
            hovertemplate="%{x} batches<br>mean of choices %{y:.4g}<extra></extra>",
        )
        chart.add_scatter(
            x=batches,
            y=curve[side].to_numpy(float),
            mode="lines+markers",
            line={"color": FLOAT, "width": 2, "shape": "hv"},
            marker={"size": 6},
            name="smallest and largest value so far",
            legendgroup="seen",
            showlegend=shown,
            hovertemplate=f"%{{x}} batches<br>{side} %{{y:.4g}}<extra></extra>",
        )
    chart.update_yaxes(title="range", fixedrange=True)
    chart.update_xaxes(title="batches seen", fixedrange=True)
    return chart
