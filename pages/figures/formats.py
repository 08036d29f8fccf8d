"""Number formats: where their codes lie, how finely they resolve, what they cost."""

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from pages.common.format import number, plain
from pages.common.theme import FLOAT, NEUTRAL, QUANTIZED
from pages.figures.layout import figure

SYMBOLS = ("circle", "square", "diamond", "triangle-up")


def code_line(values: np.ndarray, labels: list[str], selected: int) -> go.Figure:
    """Every finite code of a format as a tick on one line, one of them pointed at.

    Args:
        values: Finite numbers, one per code.
        labels: What each is called on hover.
        selected: Position of the one pointed at.
    """
    chart = figure(150, showlegend=False, margin={"l": 24, "r": 24, "t": 12, "b": 40})
    chart.add_hline(y=0, line={"color": NEUTRAL, "width": 1})
    chart.add_scatter(
        x=values,
        y=np.zeros(len(values)),
        mode="markers",
        name="codes",
        marker={"symbol": "line-ns-open", "size": 22, "color": QUANTIZED},
        text=[plain(label) for label in labels],
        hovertemplate="%{text} = %{x:.5g}<extra></extra>",
    )
    chart.add_scatter(
        x=[values[selected]],
        y=[0.45],
        mode="markers+text",
        name="selected",
        marker={"symbol": "triangle-down", "size": 14, "color": FLOAT},
        text=[number(values[selected])],
        textposition="top center",
        hoverinfo="skip",
        cliponaxis=False,
    )
    chart.update_yaxes(visible=False, range=[-0.6, 1.6], fixedrange=True)
    chart.update_xaxes(title="real value", fixedrange=True)
    return chart


def resolution(formats: dict[str, pd.DataFrame], *, relative: bool) -> go.Figure:
    """How far neighbouring levels lie apart at each magnitude, both axes logarithmic.

    Args:
        formats: By name, with columns `value`, `step` and `relative` (step over value).
        relative: Whether to show the step as a share of the value.
    """
    chart = figure(300)
    dashes = ("solid", "dash", "dot")
    for (name, rows), dash in zip(formats.items(), dashes, strict=False):
        values = 100 * rows["relative"] if relative else rows["step"]
        chart.add_scatter(
            x=rows["value"].to_numpy(),
            y=values.to_numpy(),
            mode="lines",
            name=plain(name),
            line={"color": QUANTIZED if dash == "solid" else FLOAT, "width": 2, "dash": dash},
            hovertemplate=f"{plain(name)}<br>at %{{x:.3g}}: %{{y:.3g}}<extra></extra>",
        )
    title = "step / value [%] ↓" if relative else "step to the next level ↓"
    powers: dict[str, Any] = {"type": "log", "exponentformat": "power", "dtick": 1}
    chart.update_xaxes(title="magnitude (logarithmic)", fixedrange=True, **powers)
    chart.update_yaxes(title=title, fixedrange=True, **powers)
    return chart


def memory_and_error(rows: pd.DataFrame, *, db_per_bit: float) -> go.Figure:
    """A point per format: bits a value, scales included, against SQNR.

    Args:
        rows: With `format`, `one scale`, `float` (whether it is float8), `bits a value` and `SQNR`
            in dB.
        db_per_bit: Slope of the ideal line, which starts at 0.
    """
    chart = figure(380)
    end = float(rows["bits a value"].to_numpy(float).max()) + 0.5
    chart.add_scatter(
        x=[0.0, end],
        y=[0.0, db_per_bit * end],
        mode="lines",
        name=f"{db_per_bit:.2f} dB a bit",
        line={"color": NEUTRAL, "width": 1.5, "dash": "dot"},
        hoverinfo="skip",
    )
    for (kind, group), symbol in zip(rows.groupby("one scale", sort=False), SYMBOLS, strict=False):
        for is_float, name in ((False, f"integers, {kind}"), (True, f"float8, {kind}")):
            own: pd.DataFrame = group.loc[group["float"].to_numpy(bool) == is_float]
            chart.add_scatter(
                x=own["bits a value"].to_numpy(float),
                y=own["SQNR"].to_numpy(float),
                mode="markers" if is_float else "lines+markers",
                name=plain(name),
                marker={
                    "symbol": f"{symbol}-open" if is_float else symbol,
                    "size": 12,
                    "color": FLOAT if is_float else QUANTIZED,
                    "line": {"width": 2},
                },
                line={"color": QUANTIZED, "width": 1},
                text=[plain(str(f)) for f in own["format"]],
                hovertemplate="%{text}<br>%{x:.2f} bits a value, %{y:.1f} dB<extra></extra>",
            )
    chart.update_xaxes(title="bits a value, scales included ↓", range=[1.5, end], fixedrange=True)
    chart.update_yaxes(title="SQNR [dB] ↑", rangemode="tozero", fixedrange=True)
    return chart
