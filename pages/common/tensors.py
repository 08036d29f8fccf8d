"""One tensor on the *Layer* page: its histogram with the grid, its numbers, its channels."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import streamlit as st

from pages.common.format import count, number, percent
from pages.common.glossary import define
from pages.common.theme import CLIPPED, QUANTIZED, THEME, in_use, resolve
from pages.figures.channels import channel_ranges
from pages.figures.histogram import Grid, histogram
from pages.figures.layout import CONFIG
from qlab.analysis import grid

if TYPE_CHECKING:
    from torch import Tensor

    from qlab.qparams import QParams
    from qlab.ranges import QuantizationError
    from qlab.stats import TensorStats


#: Elements of a weight above which comparing all observers takes longer than a knob may.
LARGE = 200_000


@dataclass(frozen=True)
class Shown:
    """A tensor and what quantizing it costs.

    Attributes:
        kind: `"weight"` or `"activation"`.
        stats: What it looks like in float.
        qparams: Its scales and zero points; None where it stays in float.
        error: What they cost; None where it stays in float.
        weight: The tensor itself, where it is a weight.
        observers: Asks the engine what every observer would cost here, by label.
        observer: The label of the one in use.
    """

    kind: str
    stats: TensorStats
    qparams: QParams | None = None
    error: QuantizationError | None = None
    weight: Tensor | None = None
    observers: Callable[[], dict[str, QuantizationError]] | None = None
    observer: str = ""


def draw(shown: Shown) -> None:
    """Draws histogram, numbers, channels and observers of one tensor."""
    switch, channel = st.columns(2, vertical_alignment="bottom")
    log = switch.toggle(
        "Log counts",
        value=True,
        key=f"{shown.kind}_log",
        persist_state="session",
        help="Logarithmic counts show the tails, linear ones the bulk.",
    )
    own = drawn = None
    if shown.qparams is not None and shown.error is not None:
        with channel:
            own = _scale_in_use(shown, shown.qparams)
        share = shown.error.clipped_share
        levels = grid.codes_and_levels(own)[1]
        drawn = Grid(levels, share, shared=shown.qparams.per_tensor_granularity)
    chart = histogram(
        *grid.histogram_of(shown.stats), grid=drawn, log=log, title=f"{shown.kind} value"
    )
    st.plotly_chart(chart, key=f"{shown.kind}_histogram", theme=THEME, config=CONFIG)
    if own is not None and shown.error is not None:
        _numbers(shown, shown.error, own)
    _channels(shown)
    if shown.observers is not None:
        with st.container(key=f"{shown.kind}_observers"):
            _observers(shown, shown.observers)


def _scale_in_use(shown: Shown, qparams: QParams) -> QParams:
    """The one scale, or that of the channel that the person picks; the widest to begin with."""
    if qparams.per_tensor_granularity:
        return qparams
    scales = qparams.scale.flatten()
    widest = int(scales.argmax())
    picked = st.number_input(
        "Grid of channel",
        0,
        scales.numel() - 1,
        widest,
        key=f"{shown.kind}_channel_of_{scales.numel()}",
        help="Every channel has a grid of its own; the histogram is of all of them. "
        f"Channel {widest} has the widest.",
    )
    return grid.one_scale(qparams, picked)


def _numbers(shown: Shown, error: QuantizationError, own: QParams) -> None:
    first, second = st.columns(3), st.columns(3)
    first[0].metric("Scale", number(own.scale_value), help=define("scale"))
    first[1].metric("Zero point", own.zero_point_value, help=define("zero point"))
    used = _codes(shown, own)
    if used is not None:
        first[2].metric("Codes used", used, help=define("codes used"))
    second[0].metric("Tensor SQNR ↑", number(error.sqnr_db, "dB"), help=define("sqnr"))
    second[1].metric("Clipped values ↓", percent(error.clipped_share), help=define("clipped share"))
    second[2].metric(
        "RMSE / scale ↓", number(error.rmse_over_scale), help=define("rmse over scale")
    )
    _parts(error)
    st.caption(_in_words(shown, error))


def _codes(shown: Shown, own: QParams) -> str | None:
    """Codes that are used of all there are; None for float8, whose codes are not evenly spaced."""
    if own.dtype.is_float or shown.qparams is None:
        return None
    if shown.weight is not None:
        return f"{count(grid.codes_taken(shown.weight, shown.qparams))} of {count(_levels(own))}"
    levels = grid.codes_and_levels(own)[1]
    return f"{count(grid.codes_used(shown.stats, levels))} of {count(len(levels))}"


def _levels(own: QParams) -> int:
    return own.quant_max - own.quant_min + 1


def _parts(error: QuantizationError) -> None:
    """Rounding against clipping: their parts of the squared error as one bar."""
    shares = [part / (error.total or 1.0) for part in (error.rounding, error.clipping)]
    colours = [resolve(colour, in_use()) for colour in (QUANTIZED, CLIPPED)]
    bars = "".join(
        f'<div style="width:{100 * share:.2f}%;background:{colour}"></div>'
        for share, colour in zip(shares, colours, strict=True)
    )
    st.html(f'<div style="display:flex;height:10px;border-radius:3px;overflow:hidden">{bars}</div>')
    rounding, clipping = (percent(share) for share in shares)
    st.caption(
        f"Rounding {rounding} · clipping {clipping} of the squared error",
        help=f"{define('rounding share')} {define('clipping share')}",
    )


def _in_words(shown: Shown, error: QuantizationError) -> str:
    sentences = [f"{count(error.count)} values from {_range(shown.stats)}."]
    if error.clipping > 0:
        sentences.append(
            f"{percent(error.clipped_share)} of the values lie outside the range and carry "
            f"{percent(error.clipping / error.total)} of the squared error."
        )
    return " ".join(sentences)


def _range(stats: TensorStats) -> str:
    return f"{number(float(stats.min_val))} to {number(float(stats.max_val))}"


def _channels(shown: Shown) -> None:
    if shown.weight is not None and shown.qparams is not None:
        low, high = grid.extrema(shown.weight, shown.qparams)
    elif shown.stats.channel_axis is not None:
        low, high = (t.numpy() for t in (shown.stats.channel_min, shown.stats.channel_max))
    else:
        return
    if len(low) < 2:
        return
    clip = None if shown.qparams is None else grid.bounds(shown.qparams)
    chart = channel_ranges(np.asarray(low), np.asarray(high), clip=clip)
    st.plotly_chart(chart, key=f"{shown.kind}_channels", theme=THEME, config=CONFIG)


def _observers(shown: Shown, ask: Callable[[], dict[str, QuantizationError]]) -> None:
    """All observers side by side on this tensor, the best first."""
    large = shown.weight is not None and shown.weight.numel() > LARGE
    if large and not st.toggle(
        "Compare observers",
        key=f"{shown.kind}_compare",
        help="This weight is large: with the comparison every knob takes up to a second.",
    ):
        return
    errors = ask()
    best = max((e.sqnr_db for e in errors.values() if math.isfinite(e.sqnr_db)), default=1.0)
    rows = [
        {
            "observer": f"▸ {label}" if label == shown.observer else label,
            "SQNR": min(max(error.sqnr_db, -best), best),
            "clipping": 100 * error.clipping / (error.total or 1.0),
            "clipped": 100 * error.clipped_share,
        }
        for label, error in errors.items()
    ]
    frame = pd.DataFrame(rows).sort_values("SQNR", ascending=False, kind="stable")
    st.dataframe(
        frame,
        hide_index=True,
        column_config={
            "observer": st.column_config.TextColumn("Observer", help=define("observer"), width=130),
            "SQNR": st.column_config.ProgressColumn(
                "SQNR [dB] ↑",
                format="%.1f",
                min_value=0,
                max_value=max(best, 1),
                help=define("sqnr"),
            ),
            "clipping": st.column_config.NumberColumn(
                "clipping", format="%.2g %%", help=define("clipping share"), width=64
            ),
            "clipped": st.column_config.NumberColumn(
                "clipped", format="%.2g %%", help=define("clipped share"), width=74
            ),
        },
    )
