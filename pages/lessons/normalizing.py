"""Inside a quantized norm: dequantize, mean and variance, scale, quantize."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from pages.common import messages, source
from pages.common.format import count, number, short
from pages.common.frame import View
from pages.common.glossary import TERMS, define
from pages.common.theme import THEME
from pages.figures.layout import CONFIG
from pages.figures.norms import in_and_out
from pages.lessons import knobs
from pages.lessons.worked import hover, in_brackets, lines, signed

if TYPE_CHECKING:
    from qlab.analysis.worked_norms import WorkedNorm

SENTENCE = (
    "A quantized norm turns codes into real numbers, takes their mean and variance, scales them, "
    "and quantizes the result. Layer, group and instance norm differ in which numbers share a mean."
)
MADE_UP = ("LayerNorm", "GroupNorm", "InstanceNorm")
SHARE = {
    "LayerNorm": "All numbers of one vector share a mean.",
    "GroupNorm": "All numbers of one group of channels of a sample share a mean.",
    "InstanceNorm": "All numbers of one channel of one sample share a mean.",
    "BatchNorm": "Mean and variance were fixed in training, one for each channel.",
}
MOST, SEED = 64, 2


def draw(view: View) -> None:
    """One set of numbers that share a mean, and one number worked out."""
    left, right = st.columns([1, 3], gap="large")
    with left:
        chosen = source.pick(view, "norm", MADE_UP, "Norm")
        worked = _of_layer(view) if chosen == source.LAYER else _made_up(view, chosen)
    if worked is not None:
        _bench(view, worked, (left, right))


def _of_layer(view: View) -> WorkedNorm | None:
    lab = view.loaded().lab
    quantized = {step.name for step in lab.plan(view.mapping).quantized_steps}
    names = [layer.name for layer in lab.layers if "Norm" in layer.type and layer.name in quantized]
    name = source.layer(view, "norm", names)
    if name is None:
        return None
    groups = lab.worked_norm(name, 0, view.mapping).groups
    group = knobs.place(
        view.workspace, "norm_group", "Set of numbers", groups, help=define("norm group")
    )
    return lab.worked_norm(name, group, view.mapping)


def _made_up(view: View, kind: str) -> WorkedNorm:
    limits = (0, 40, 0)
    offset = knobs.slider(
        view.workspace, "norm_offset", "Offset of the input", limits, help=define("norm offset")
    )
    group = knobs.place(
        view.workspace, "norm_made_up_group", "Set of numbers", 2 if kind == "LayerNorm" else 4,
        help=define("norm group"),
    )  # fmt: skip
    return _worked(kind, offset, group)


@lru_cache(maxsize=64)
def _worked(kind: str, offset: int, group: int) -> WorkedNorm:
    import torch
    from torch import nn

    from qlab.analysis.worked_norms import worked_norm
    from qlab.ranges import TensorSpec

    generator = torch.Generator().manual_seed(SEED)
    layers = {
        "LayerNorm": (nn.LayerNorm(16), (2, 16)),
        "GroupNorm": (nn.GroupNorm(2, 4), (2, 4, 8)),
        "InstanceNorm": (nn.InstanceNorm1d(4), (1, 4, 16)),
    }
    layer, shape = layers[kind]
    x = torch.randn(shape, generator=generator) + offset
    spec = TensorSpec.uint8_activation()
    with torch.no_grad():
        qparams = spec.qparams_of(x), spec.qparams_of(layer(x))
    return worked_norm(layer, x, qparams, group)


@st.fragment
def _bench(view: View, worked: WorkedNorm, places: tuple[DeltaGenerator, DeltaGenerator]) -> None:
    with messages.shown("norm"):
        left, right = places
        shown = min(len(worked.x), MOST)
        with left:
            at = knobs.slider(
                view.workspace, "norm_at", "Number worked out", (0, shown - 1, 0),
                help=define("norm number"),
            )  # fmt: skip
            family = next(name for name in SHARE if worked.kind.startswith(name))
            st.caption(f"{SHARE[family]} Here {count(len(worked.x))} numbers.")
        with right:
            st.html(_formula(worked, at))
            chart = in_and_out(
                (worked.x[:shown].numpy(), worked.reference[:shown].numpy()),
                (worked.entered[:shown].numpy(), worked.result[:shown].numpy()),
                worked.mean,
                at,
            )
            st.plotly_chart(chart, key="norm_chart", theme=THEME, config=CONFIG)
            _numbers(worked, at)


def _formula(worked: WorkedNorm, at: int) -> str:
    entered, normal, real = (
        float(each[at]) for each in (worked.entered, worked.normalized, worked.real)
    )
    weight, bias = (float(each[at]) for each in worked.affine)
    x, y = worked.qparams
    mean = hover(in_brackets(worked.mean), TERMS["norm mean"])
    root = f"√({hover(short(worked.variance), TERMS['norm variance'])} + {short(worked.eps)})"
    code, after = int(worked.codes[at]), int(worked.operator_codes[at])
    zero = count(x.zero_point_value)
    return lines(
        f"({count(code)} − {zero}) · {short(x.scale_value)} = <b>{short(entered)}</b>",
        f"({short(entered)} − {mean}) / {root} = <b>{short(normal)}</b>",
        f"{short(normal)} · {hover(short(weight), 'γ: weight of the norm')} "
        f"{hover(signed(bias), 'β: bias of the norm')} = <b>{short(real)}</b>",
        f"clamp(round({short(real)} / {short(y.scale_value)}) + {count(y.zero_point_value)}, "
        f"{count(y.quant_min)}, {count(y.quant_max)}) = <b>{count(int(worked.step_codes[at]))}</b> "
        f"&nbsp; the engine's operator: <b>{count(after)}</b> → {short(float(worked.result[at]))}",
    )


def _numbers(worked: WorkedNorm, at: int) -> None:
    numbers = st.columns(4)
    numbers[0].metric("Mean", number(worked.mean), help=define("norm mean"))
    numbers[1].metric("Variance", number(worked.variance), help=define("norm variance"))
    numbers[2].metric(
        "Float layer", number(float(worked.reference[at])), help=define("float layer")
    )
    numbers[3].metric("SQNR of these ↑", number(worked.sqnr_db, "dB"), help=define("norm sqnr"))
    if worked.clipped:
        st.caption(
            f"{count(worked.clipped)} of these numbers lie outside the output's range: what "
            "follows (a ReLU) reads nothing there, so no code is spent on them."
        )
