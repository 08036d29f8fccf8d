"""The affine map on a number line, with the worked numbers beside it."""

import streamlit as st

from pages.common import lesson, messages
from pages.common.format import count, number
from pages.common.frame import View
from pages.common.glossary import define
from pages.common.lesson import Worked
from pages.common.theme import THEME
from pages.figures.layout import CONFIG
from pages.figures.number_line import error_curve, number_line
from qlab.analysis.grid import one_scale

SENTENCE = (
    "Quantization stores a real number as an integer code: divide by the scale, round, add the "
    "zero point. Move the value."
)


def draw(view: View) -> None:
    """Knobs, the number line and the worked numbers."""
    source = st.container()
    _playground()
    with source:
        _layers(view)


@st.fragment
def _playground() -> None:
    with messages.shown("playground"):
        limits = lesson.prepare(st.session_state)
        knobs, line = st.columns([1, 3], gap="large")
        with knobs:
            _knobs(limits)
        with line:
            _line(lesson.work(st.session_state))


def _knobs(limits: lesson.Limits) -> None:
    st.slider(
        "Value x",
        *limits.value[:2],
        step=limits.value[2],
        format="%.3g",
        key="learn_value",
        help="The real number that is quantized.",
        persist_state="session",
    )
    st.select_slider(
        "Bits", lesson.BITS, key="learn_bits", help=define("bits"), persist_state="session"
    )
    st.segmented_control(
        "Scheme",
        lesson.SCHEMES,
        key="learn_scheme",
        required=True,
        help=define("scheme"),
        persist_state="session",
    )
    st.slider(
        "Scale s",
        *limits.scale[:2],
        step=limits.scale[2],
        format="%.3g",
        key="learn_scale",
        help=define("scale"),
        persist_state="session",
    )
    st.slider(
        "Zero point z",
        *limits.zero_point,
        key="learn_zero_point",
        disabled=st.session_state.learn_scheme == "symmetric",
        help=define("zero point"),
        persist_state="session",
    )
    st.segmented_control(
        "Codes",
        lesson.SIGNS,
        key="learn_sign",
        required=True,
        help=define("signs"),
        persist_state="session",
    )


def _line(worked: Worked) -> None:
    st.html(lesson.formula(worked))
    line = number_line(
        worked.levels,
        worked.codes,
        value=worked.value,
        code=worked.code,
        reconstruction=worked.reconstruction,
        span=worked.span,
    )
    st.plotly_chart(line, key="number_line", theme=THEME, config=CONFIG)
    numbers = st.columns(4)
    numbers[0].metric("Code q", count(worked.code), help=define("quantize"))
    numbers[1].metric("Comes back as", number(worked.reconstruction), help=define("dequantize"))
    for column, kind in zip(numbers[2:], ("rounding", "clipping"), strict=True):
        error = number(worked.error if worked.clipped == (kind == "clipping") else 0.0)
        column.metric(f"{kind.capitalize()} error", error, help=define(f"{kind} of one"))
    marked = (worked.value, worked.error)
    curve = error_curve(*worked.curve, bounds=worked.bounds, marked=marked)
    st.plotly_chart(curve, key="error_curve", theme=THEME, config=CONFIG)


def _layers(view: View) -> None:
    """Takes scale and zero point from a tensor of the loaded model."""
    loaded = view.loaded()
    plan = loaded.lab.plan(view.mapping)
    names = [step.name for step in plan.quantized_steps]
    if not names:
        st.caption("This configuration quantizes no layer to take scale and zero point from.")
        return
    layer, tensor, channel, take = st.columns([4, 2, 2, 2], vertical_alignment="bottom")
    name = layer.selectbox("Scale and zero point of a layer", names, key="learn_layer")
    what = loaded.lab.what_if(name, mapping=view.mapping)
    tensors = {
        kind: (qparams, spec.symmetric)
        for kind, spec, qparams in (
            ("output", what.activation, what.activation_qparams),
            ("weight", what.weight, what.weight_qparams),
        )
        if spec and qparams and lesson.fits(spec)
    }
    if not tensors:
        st.caption("Its codes are not integers of 2 to 8 bits, which this page draws.")
        return
    qparams, symmetric = tensors[tensor.selectbox("Tensor", list(tensors), key="learn_tensor")]
    most = qparams.scale.numel() - 1
    picked = channel.number_input("Channel", 0, most, key="learn_channel", disabled=most == 0)
    take.button(
        "Take them",
        key="take",
        on_click=lesson.take,
        args=(st.session_state, one_scale(qparams, picked), symmetric),
        width="stretch",
    )
