"""ReLU and clamp: limits of the range instead of steps of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from pages.common import contest, messages, source
from pages.common.format import count, number
from pages.common.frame import View
from pages.common.glossary import define
from pages.common.theme import THEME
from pages.figures.histogram import Grid, histogram, span_of
from pages.figures.layout import CONFIG
from pages.lessons import knobs
from qlab.analysis import grid

if TYPE_CHECKING:
    from torch import Tensor

    from qlab.analysis.worked_norms import FusedActivation

SENTENCE = (
    "Quantized before its ReLU, a layer spends codes on numbers that the ReLU throws away. Fused, "
    "the range begins at 0: the clamp to the smallest code *is* the ReLU."
)
KINDS = ("ReLU", "ReLU6")
#: Wide enough that ReLU6 clamps some.
WIDE = 2.5
SHAPES = ("normal", "two humps", "Laplace")


def draw(view: View) -> None:
    """The codes of a layer's output, quantized before the activation and fused with it."""
    left, right = st.columns([1, 3], gap="large")
    with left:
        chosen = source.pick(view, "activation", SHAPES, "Before the activation")
        made_up = chosen != source.LAYER
        x = contest.values(chosen, WIDE) if made_up else _of_layer(view)
    if x is not None:
        _bench(view, x, (left, right))


def _of_layer(view: View) -> Tensor | None:
    """What a layer with weights puts out before any activation, on the small fixed sample."""
    from qlab.analysis.worked_norms import before_activation

    lab = view.loaded().lab
    names = [layer.name for layer in lab.layers if view.loaded().has_weight(layer.name)]
    name = source.layer(view, "activation", names)
    if name is None:
        return None
    return before_activation(lab.graph.get_submodule(name), lab.layer_inputs(name)[0])


@st.fragment
def _bench(view: View, x: Tensor, places: tuple[DeltaGenerator, DeltaGenerator]) -> None:
    from qlab.analysis.worked_norms import fused_activation

    with messages.shown("activation"):
        left, right = places
        space = view.workspace
        with left:
            kind = knobs.segmented(
                space, "activation_kind", "Activation", KINDS, help=define("clamp")
            )
            bits = knobs.bits(space, "activation", 4)
        with right:
            _charts(fused_activation(x, kind, bits), kind)


def _charts(worked: FusedActivation, kind: str) -> None:
    edges, counts = grid.histogram_of(worked.before)
    sides = {
        f"Quantize, then {kind}": (worked.apart, worked.apart_sqnr),
        f"{kind} fused": (worked.fused, worked.fused_sqnr),
    }
    grids = [Grid(grid.codes_and_levels(qparams)[1], 0.0) for qparams, _ in sides.values()]
    for (title, (qparams, sqnr)), levels in zip(sides.items(), grids, strict=True):
        numbers = st.columns([2, 1, 1, 1])
        numbers[0].markdown(f"**{title}**")
        numbers[1].metric("Scale", number(qparams.scale_value), help=define("scale"))
        numbers[2].metric("Zero point", count(qparams.zero_point_value), help=define("zero point"))
        numbers[3].metric("SQNR ↑", number(sqnr, "dB"), help=define("activation sqnr"))
        chart = histogram(edges, counts, grid=levels, title=f"value before {kind}")
        chart.update_xaxes(range=span_of(edges, grids))
        chart.update_layout(height=220)
        st.plotly_chart(chart, key=f"activation_{title.split()[-1]}", theme=THEME, config=CONFIG)
