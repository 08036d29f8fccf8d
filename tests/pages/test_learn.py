"""Learn: every knob changes the worked numbers, and they are the engine's."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from streamlit.testing.v1 import AppTest

import qlab
import sample_models
from pages.common import lesson
from qlab.dtypes import integer
from qlab.qparams import QParams, dequantize, quantize
from tests.pages.harness import chart, metrics, open_page, texts


@pytest.fixture
def page() -> AppTest:
    return open_page("learn")


def test_the_worked_line_reads_as_in_the_books(page: AppTest):
    page.select_slider(key="learn_bits").set_value(8)
    page.segmented_control(key="learn_sign").set_value("unsigned")
    page.session_state["learn_unit"] = 0.021
    page.run()
    page.slider(key="learn_scale").set_value(0.021)
    page.slider(key="learn_zero_point").set_value(128)
    page.slider(key="learn_value").set_value(1.37)
    page.run()
    assert "q = clamp(round(1.37 / 0.021) + 128, 0, 255) = 193" in texts(page)
    assert "(193 − 128) · 0.021 = 1.365" in texts(page)
    assert metrics(page)["Code q"] == "193"
    assert metrics(page)["Rounding error"] == "−0.00500"
    assert metrics(page)["Clipping error"] == "0"


def test_the_number_line_shows_the_same_numbers(page: AppTest):
    line = chart(page, "number_line")
    drawn = {trace.name: trace for trace in line.data}
    assert drawn["value"].x[0] == pytest.approx(0.37)
    assert drawn["reconstruction"].x[0] == pytest.approx(0.4)
    assert len(drawn["levels"].x) == 16
    marked = {trace.name: trace for trace in chart(page, "error_curve").data}["value"]
    assert (marked.x[0], marked.y[0]) == pytest.approx((0.37, 0.03))


def test_a_value_outside_the_range_clips(page: AppTest):
    page.slider(key="learn_value").set_value(1.2).run()
    assert metrics(page)["Code q"] == "7"
    assert metrics(page)["Rounding error"] == "0"
    assert metrics(page)["Clipping error"] == "−0.500"
    assert "clipping error −0.500" in texts(page)


def test_a_larger_scale_brings_the_value_back_into_range(page: AppTest):
    page.slider(key="learn_value").set_value(1.2)
    page.slider(key="learn_scale").set_value(0.2).run()
    assert metrics(page)["Comes back as"] == "1.20"
    assert metrics(page)["Clipping error"] == "0"


def test_the_zero_point_moves_the_codes_and_symmetric_fixes_it(page: AppTest):
    page.slider(key="learn_zero_point").set_value(-8).run()
    assert metrics(page)["Code q"] == "−4"
    page.segmented_control(key="learn_scheme").set_value("symmetric").run()
    assert page.slider(key="learn_zero_point").value == 0
    assert page.slider(key="learn_zero_point").disabled
    assert metrics(page)["Code q"] == "4"


def test_unsigned_symmetric_codes_are_centred_on_the_middle_code(page: AppTest):
    page.segmented_control(key="learn_sign").set_value("unsigned")
    page.segmented_control(key="learn_scheme").set_value("symmetric").run()
    assert page.slider(key="learn_zero_point").value == 8
    assert metrics(page)["Code q"] == "12"


def test_fewer_bits_leave_fewer_levels_and_keep_the_value_on_the_line(page: AppTest):
    page.slider(key="learn_value").set_value(1.2)
    page.select_slider(key="learn_bits").set_value(2).run()
    assert page.slider(key="learn_value").value == pytest.approx(0.4)
    levels = {trace.name: trace for trace in chart(page, "number_line").data}["levels"]
    assert list(levels.x) == pytest.approx([-0.2, -0.1, 0.0, 0.1])


def test_every_term_of_the_formula_has_its_meaning_on_hover(page: AppTest):
    body = next(h.proto.body for h in page.get("html") if "clamp" in h.proto.body)
    assert body.count("<abbr title=") == 10
    assert "Real units per code" in body
    assert "The code that stands for 0.0" in body


def knobs(scale: float, zero_point: int, value: float, bits: int = 4) -> dict:
    """A full state of the knobs."""
    return lesson.START | {
        "learn_bits": bits,
        "learn_unit": scale,
        "learn_scale": scale,
        "learn_zero_point": zero_point,
        "learn_value": value,
    }


@given(
    st.sampled_from(lesson.BITS),
    st.floats(1e-3, 10),
    st.floats(-2, 2),
    st.integers(-128, 127),
)
def test_what_is_shown_is_what_the_engine_computes(
    bits: int, scale: float, place: float, zero_point: int
):
    state = knobs(scale, zero_point, place * scale * 2**bits, bits)
    lesson.prepare(state)
    worked = lesson.work(state)
    dtype = integer(bits, signed=True)
    qparams = QParams.per_tensor(state["learn_scale"], state["learn_zero_point"], dtype)
    code = quantize(torch.tensor(state["learn_value"]), qparams)
    assert worked.code == int(code)
    assert worked.reconstruction == float(dequantize(code, qparams))
    assert worked.clipped or abs(worked.error) <= state["learn_scale"] * 0.5001


def test_taking_a_layer_sets_every_knob():
    state = dict(lesson.START)
    lesson.take(state, QParams.per_tensor(0.0037, 3, integer(6, signed=False)), symmetric=False)
    assert {key: state[key] for key in lesson.START if key != "learn_value"} == {
        "learn_bits": 6,
        "learn_sign": "unsigned",
        "learn_scheme": "affine",
        "learn_unit": pytest.approx(0.0037),
        "learn_scale": pytest.approx(0.0037),
        "learn_zero_point": 3,
    }
    assert abs(state["learn_value"]) <= 0.0037 * 64.001


def test_the_scale_of_a_layer_of_the_loaded_model_can_be_taken():
    page = open_page("learn", model="mlp")
    sample = sample_models.load("mlp")
    lab = qlab.Lab(sample.model, sample.example_inputs, sample.calibration())
    name = page.selectbox(key="learn_layer").options[1]
    page.selectbox(key="learn_layer").set_value(name)
    page.selectbox(key="learn_tensor").set_value("weight").run()
    page.number_input(key="learn_channel").set_value(5).run()
    page.button(key="take").click().run()
    qparams = lab.what_if(name).weight_qparams
    assert qparams is not None
    scale = float(qparams.scale[5])
    assert page.slider(key="learn_scale").value == pytest.approx(scale)
    assert page.select_slider(key="learn_bits").value == 8
    assert page.segmented_control(key="learn_scheme").value == "symmetric"
    assert metrics(page)["Clipping error"] == "0"


def test_float_codes_are_not_offered():
    page = open_page("learn", model="mlp", preset="float8")
    assert any("not integers of 2 to 8 bits" in caption.value for caption in page.caption)
    assert not page.error
