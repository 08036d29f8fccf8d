"""Why batch norm folds: the numbers before and after, and outputs that agree."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from pages.common import messages, source
from pages.common.format import number, short
from pages.common.frame import View
from pages.common.glossary import TERMS, define
from pages.common.loaded import Loaded
from pages.common.theme import THEME
from pages.figures.channels import channel_ranges
from pages.figures.layout import CONFIG
from pages.lessons import knobs
from pages.lessons.worked import hover, in_brackets, lines, signed
from qlab.analysis import grid

if TYPE_CHECKING:
    from torch import Tensor

    from qlab.analysis.worked_norms import WorkedFold

SENTENCE = (
    "Once trained, a batch norm multiplies each channel by one number and adds another. The "
    "convolution before it can do both: its weights are multiplied, its bias moves."
)
MADE_UP, CHANNELS, SEED = "16 made-up channels", 16, 1


def draw(view: View) -> None:
    """One channel's numbers, and every channel's range before and after."""
    left, right = st.columns([1, 3], gap="large")
    with left:
        if source.pick(view, "fold", [MADE_UP], "Layer's numbers") == source.LAYER:
            worked = _of_layer(view)
        else:
            worked = _made_up()
    if worked is not None:
        _bench(view, worked, (left, right))


def pairs(loaded: Loaded) -> dict[str, str]:
    """Layers of the loaded model into which a batch norm was folded, and that batch norm."""
    modules = dict(loaded.sample.model.named_modules())
    found = {}
    for layer in loaded.lab.layers:
        norms = [n for n in layer.fused if "BatchNorm" in type(modules.get(n)).__name__]
        if norms and layer.name in modules and "BatchNorm" not in layer.type:
            found[layer.name] = norms[0]
    return found


def _of_layer(view: View) -> WorkedFold | None:
    from qlab.analysis.worked_norms import worked_fold

    loaded = view.loaded()
    norms = pairs(loaded)
    name = source.layer(view, "fold", list(norms))
    if name is None:
        return None
    model = loaded.sample.model.eval()
    layer, norm = model.get_submodule(name), model.get_submodule(norms[name])
    return worked_fold(layer, norm, loaded.lab.layer_inputs(name)[0])


@lru_cache(maxsize=1)
def _made_up() -> WorkedFold:
    import torch
    from torch import nn

    from qlab.analysis.worked_norms import worked_fold

    generator = torch.Generator().manual_seed(SEED)
    conv, norm = nn.Conv2d(3, CHANNELS, 3, bias=False), nn.BatchNorm2d(CHANNELS).eval()
    with torch.no_grad():
        conv.weight.copy_(torch.randn(conv.weight.shape, generator=generator) / 5)
        for tensor, scale, shift in (
            (norm.weight, 0.3, 1.0),
            (norm.bias, 0.5, 0.0),
            (norm.get_buffer("running_mean"), 0.5, 0.0),
        ):
            tensor.copy_(torch.randn(CHANNELS, generator=generator) * scale + shift)
        norm.get_buffer("running_var").copy_(torch.logspace(-2, 1, CHANNELS))
        x = torch.randn(4, 3, 8, 8, generator=generator)
    return worked_fold(conv, norm, x)


@st.fragment
def _bench(view: View, worked: WorkedFold, places: tuple[DeltaGenerator, DeltaGenerator]) -> None:
    with messages.shown("fold"):
        left, right = places
        with left:
            channel = knobs.place(view.workspace, "fold_channel", "Channel", len(worked.factor))
        with right:
            st.html(_formula(worked, channel))
            before, after = st.columns(2)
            for column, title, weight in (
                (before, "Weights before", worked.weight[0]),
                (after, "Weights after folding", worked.weight[1]),
            ):
                with column:
                    _ranges(title, weight, channel)
            numbers = st.columns(2)
            numbers[0].metric(
                "Largest difference of outputs ↓",
                number(worked.largest_difference),
                help=define("fold difference"),
            )
            numbers[1].metric(
                "Largest output", number(worked.largest_output), help=define("fold output")
            )
            st.caption(
                "The outputs agree to float32's rounding. The ranges of the channels do not: a "
                "small variance makes a channel's weights large, which is why folded weights want "
                "one scale per channel."
            )


def _formula(worked: WorkedFold, channel: int) -> str:
    gamma, beta, mean, variance = (float(t[channel]) for t in worked.norm)
    by = short(float(worked.factor[channel]))
    factor = hover(f"<b>{by}</b>", TERMS["fold factor"])
    old, new = (short(float(w[channel].flatten()[0])) for w in worked.weight)
    bias, folded = (float(b[channel]) for b in worked.bias)
    root = f"√({hover(short(variance), 'σ²: running variance')} + {short(worked.eps)})"
    return lines(
        f"factor = {hover(short(gamma), 'γ: weight of the batch norm')} / {root} = {factor}",
        f"w' = w · factor = {old} · {by} = <b>{new}</b> &nbsp; (first weight of the channel)",
        f"b' = ({hover(short(bias), 'b: bias of the layer')} − "
        f"{hover(in_brackets(mean), 'μ: running mean')}) · {by} "
        f"{hover(signed(beta), 'β: bias of the batch norm')} "
        f"= <b>{short(folded)}</b>",
    )


def _ranges(title: str, weight: Tensor, channel: int) -> None:
    low, high = grid.extrema(weight)
    st.markdown(f"**{title}**")
    chart = channel_ranges(low, high)
    st.plotly_chart(chart, key=f"fold_{title.split()[-1]}", theme=THEME, config=CONFIG)
    st.caption(
        f"Channel {channel}: {number(float(low[channel]))} to {number(float(high[channel]))}"
    )
