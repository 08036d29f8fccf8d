"""The affine map drawn on a number line."""

import numpy as np
import plotly.graph_objects as go

from pages.common.format import number
from pages.common.theme import CLIPPED, FLOAT, NEUTRAL, QUANTIZED
from pages.figures.layout import figure

#: Room for a written code, in parts of the line: per character, and between two. So many fit on
#: the narrowest line, 340 pixels.
CHARACTER, GAP = 0.021, 0.02
#: Levels drawn as ticks; more are thinned.
MOST_TICKS = 512


def number_line(
    levels: np.ndarray,
    codes: np.ndarray,
    *,
    value: float,
    code: int,
    reconstruction: float,
    span: tuple[float, float],
) -> go.Figure:
    """Real numbers above, codes on the line, an arrow from the value to what comes back.

    Args:
        levels: Every real number that has a code, ascending, shape (levels,).
        codes: Their codes, same shape.
        value: The real number that is quantized.
        code: Its code.
        reconstruction: The real number that the code stands for.
        span: Left and right end of the line, real units.
    """
    chart = _line(210, span, (float(levels[0]), float(levels[-1])))
    _add_levels(chart, levels, codes, span[1] - span[0])
    _add_arrow(chart, value, code, reconstruction)
    chart.update_yaxes(visible=False, range=[-0.75, 1.3])
    return chart


def _line(height: int, span: tuple[float, float], bounds: tuple[float, float]) -> go.Figure:
    """An empty chart over the number line, shaded where no code reaches; all line up."""
    chart = figure(height, showlegend=False, margin={"l": 64, "r": 16, "t": 12, "b": 40})
    for start, stop in ((span[0], bounds[0]), (bounds[1], span[1])):
        if start < stop:
            chart.add_vrect(x0=start, x1=stop, fillcolor=CLIPPED, opacity=0.16, line_width=0)
    chart.update_xaxes(title="real value", range=list(span), fixedrange=True)
    chart.update_yaxes(fixedrange=True, automargin=False)
    return chart


def _add_levels(chart: go.Figure, levels: np.ndarray, codes: np.ndarray, width: float) -> None:
    chart.add_hline(y=0, line={"color": NEUTRAL, "width": 1})
    stride = -(-len(levels) // MOST_TICKS)
    chart.add_scatter(
        x=levels[::stride],
        y=np.zeros(len(levels[::stride])),
        mode="markers",
        name="levels",
        marker={"symbol": "line-ns-open", "size": 16, "color": QUANTIZED},
        customdata=codes[::stride],
        hovertemplate="code %{customdata} = %{x:.4g}<extra></extra>",
    )
    stride = _label_stride(levels, codes, width)
    chart.add_scatter(
        x=levels[::stride],
        y=np.full(len(levels[::stride]), -0.38),
        mode="text",
        name="codes",
        text=[str(c) for c in codes[::stride]],
        textfont={"color": QUANTIZED, "size": 12},
        hoverinfo="skip",
    )


def _label_stride(levels: np.ndarray, codes: np.ndarray, width: float) -> int:
    """Every how many codes one is written, so that none touches the next: a power of two."""
    longest = max(len(str(code)) for code in (codes[0], codes[-1]))
    room = (CHARACTER * longest + GAP) * width
    step = float(levels[-1] - levels[0]) / max(len(levels) - 1, 1)
    stride = 1
    while stride * step < room and stride < len(levels):
        stride *= 2
    return stride


def _add_arrow(chart: go.Figure, value: float, code: int, reconstruction: float) -> None:
    for name, x, y, text, side, symbol, colour in (
        ("value", value, 0.8, f"x = {number(value)}", "center", "circle", FLOAT),
        ("reconstruction", reconstruction, 0, f"q = {code}", "right", "diamond", QUANTIZED),
    ):
        chart.add_scatter(
            x=[x],
            y=[y],
            mode="markers+text",
            name=name,
            text=[text],
            textposition=f"top {side}",
            textfont={"color": colour},
            marker={"symbol": symbol, "size": 13, "color": colour},
            hoverinfo="skip",
            cliponaxis=False,
        )
    chart.add_annotation(
        x=reconstruction,
        y=0.12,
        ax=value,
        ay=0.68,
        xref="x",
        yref="y",
        axref="x",
        ayref="y",
        text="",
        arrowhead=2,
        arrowwidth=1.5,
        arrowcolor=NEUTRAL,
    )


def error_curve(
    values: np.ndarray,
    errors: np.ndarray,
    *,
    bounds: tuple[float, float],
    marked: tuple[float, float],
) -> go.Figure:
    """The error of every value on the line: a sawtooth where it rounds, a ramp where it clips.

    Args:
        values: Real numbers, ascending, shape (points,).
        errors: Reconstruction minus value, real units, same shape.
        bounds: Between these a value rounds, outside it clips.
        marked: The value that is quantized and its error.
    """
    chart = _line(190, (float(values[0]), float(values[-1])), bounds)
    inside = (values >= bounds[0]) & (values <= bounds[1])
    for mask, colour, name in (
        (inside, QUANTIZED, "rounding error"),
        (~inside, CLIPPED, "clipping error"),
    ):
        chart.add_scatter(
            x=values,
            y=np.where(mask, errors, np.nan),
            mode="lines",
            name=name,
            line={"color": colour, "width": 2},
            hovertemplate="x = %{x:.4g}<br>" + name + " %{y:.3g}<extra></extra>",
        )
    chart.add_scatter(
        x=[marked[0]],
        y=[marked[1]],
        mode="markers",
        name="value",
        marker={"symbol": "circle", "size": 12, "color": FLOAT},
        hovertemplate="x = %{x:.4g}<br>error %{y:.3g}<extra></extra>",
    )
    chart.update_yaxes(title="error", nticks=5)
    return chart
