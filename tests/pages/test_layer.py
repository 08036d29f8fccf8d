"""Layer: every knob changes the numbers to what the engine says, and nothing entered is lost."""

import re
from dataclasses import replace

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

import sample_models
from pages.common import format as fmt
from qlab import Lab
from qlab.granularity import PerTensor
from qlab.qparams import quantize
from qlab.ranges import MSE, Percentile, TensorSpec
from tests.pages.harness import (
    ROOT,
    SECONDS,
    chart,
    has_button,
    metrics,
    open_page,
    settle,
    texts,
)

NAME = "block2.conv1"
_LABS: dict[str, Lab] = {}


def lab_of(model: str) -> Lab:
    """The engine's side of the comparison, one per model."""
    if model not in _LABS:
        sample = sample_models.load(model)
        _LABS[model] = Lab(sample.model, sample.example_inputs, sample.calibration())
    return _LABS[model]


@pytest.fixture
def page() -> AppTest:
    return open_page("layer", model="residual", layer=NAME)


@pytest.fixture
def lab() -> Lab:
    return lab_of("residual")


def sqnr(page: AppTest) -> str:
    return metrics(page)["Layer output SQNR ↑"]


def expected(lab: Lab, **specs: TensorSpec) -> str:
    """The engine's answer for changed specs of the layer."""
    return fmt.number(lab.what_if(NAME, mapping="int8", **specs).output_sqnr, "dB")


def configured(lab: Lab, kind: str) -> TensorSpec:
    step = lab.plan("int8").step(NAME)
    spec = step.weight if kind == "weight" else step.output
    assert spec is not None
    return spec


@pytest.mark.parametrize("model", sample_models.names(trained=True))
def test_every_layer_of_every_model_has_a_page(model: str):
    page = open_page("layer", model=model)
    for layer in lab_of(model).layers:
        page.selectbox(key="layer").set_value(layer.name).run()
        assert not page.error, (layer.name, page.error[0].value)
        assert f"{layer.name} \xa0 {layer.type}" in texts(page)
        assert chart(page, "activation_histogram").data


def test_the_page_opens_with_the_layer_as_configured(page: AppTest, lab: Lab):
    assert sqnr(page) == expected(lab)
    assert page.select_slider(key="weight_bits").value == "8"
    assert page.selectbox(key="weight_granularity").value == "per channel"
    assert page.segmented_control(key="weight_scheme").value == "symmetric"
    assert page.segmented_control(key="activation_scheme").value == "affine"
    assert page.button(key="apply").disabled


@pytest.mark.parametrize("kind", ["weight", "activation"])
def test_fewer_bits(page: AppTest, lab: Lab, kind: str):
    page.select_slider(key=f"{kind}_bits").set_value("4").run()
    assert sqnr(page) == expected(lab, **{kind: configured(lab, kind).with_bits(4)})
    assert float(sqnr(page).split()[0]) < 35
    assert not page.button(key="apply").disabled


@pytest.mark.parametrize("kind", ["weight", "activation"])
def test_scheme(page: AppTest, lab: Lab, kind: str):
    now = configured(lab, kind).symmetric
    page.segmented_control(key=f"{kind}_scheme").set_value("affine" if now else "symmetric").run()
    changed = replace(configured(lab, kind), symmetric=not now)
    assert sqnr(page) == expected(lab, **{kind: changed})


def test_granularity_of_the_weight(page: AppTest, lab: Lab):
    page.selectbox(key="weight_granularity").set_value("per tensor").run()
    changed = replace(configured(lab, "weight"), granularity=PerTensor())
    assert sqnr(page) == expected(lab, weight=changed)
    bands = [t for t in chart(page, "weight_channels").data if t.name.startswith("what")]
    assert all(len(set(band.y)) == 1 for band in bands)
    assert page.selectbox(key="activation_granularity").disabled


def test_observer_and_percentile(page: AppTest, lab: Lab):
    page.selectbox(key="activation_policy").set_value("percentile").run()
    page.select_slider(key="activation_percent").set_value(95.0).run()
    changed = replace(configured(lab, "activation"), policy=Percentile(95.0))
    assert sqnr(page) == expected(lab, activation=changed)
    error = lab.what_if(NAME, activation=changed, mapping="int8").activation_error
    assert error is not None
    clipped = [m.value for m in page.metric if m.label == "Clipped values ↓"]
    assert clipped[1] == fmt.percent(error.clipped_share)
    annotations = [a.text for a in chart(page, "activation_histogram").layout.annotations]
    assert f"clipped {fmt.percent(error.clipped_share)}" in annotations
    page.selectbox(key="weight_policy").set_value("least squared error").run()
    weight = replace(configured(lab, "weight"), policy=MSE())
    assert sqnr(page) == expected(lab, activation=changed, weight=weight)


def test_the_numbers_of_a_tensor_are_the_engines(page: AppTest, lab: Lab):
    what = lab.what_if(NAME, mapping="int8")
    qparams, error = what.activation_qparams, what.activation_error
    assert qparams is not None and error is not None
    values = {m.label: m.value for m in page.metric}  # the last of each label: the activation's
    assert values["Scale"] == fmt.number(qparams.scale_value)
    assert values["Zero point"] == str(qparams.zero_point_value)
    assert values["Tensor SQNR ↑"] == fmt.number(error.sqnr_db, "dB")
    assert values["RMSE / scale ↓"] == fmt.number(error.rmse_over_scale)
    parts = [error.rounding / error.total, error.clipping / error.total]
    rounding, clipping = map(fmt.percent, parts)
    told = [c.value for c in page.caption if c.value.startswith("Rounding")]
    assert told[1] == f"Rounding {rounding} · clipping {clipping} of the squared error"
    bar = [h.proto.body for h in page.get("html") if "overflow:hidden" in h.proto.body][1]
    widths = [float(w) for w in re.findall(r"width:([\d.]+)%", bar)]
    assert widths == pytest.approx([100 * part for part in parts], abs=0.01)
    levels = {t.name: t for t in chart(page, "activation_histogram").data}["levels"]
    assert len(levels.x) == 256
    assert levels.x[1] - levels.x[0] == pytest.approx(qparams.scale_value, rel=1e-4)


def test_the_codes_in_use_are_counted(page: AppTest, lab: Lab):
    weight, spec = lab.weight(NAME), configured(lab, "weight").with_bits(3)
    qparams = spec.qparams_of(weight)
    taken = {int(q) for q in quantize(weight, qparams).flatten()}
    page.select_slider(key="weight_bits").set_value("3").run()
    used = [m.value for m in page.metric if m.label == "Codes used"]
    assert used[0] == f"{len(taken)} of {qparams.quant_max - qparams.quant_min + 1}"
    assert used[1].endswith(" of 256")


def test_four_bits_draw_the_grid_as_lines(page: AppTest):
    names = [t.name for t in chart(page, "activation_histogram").data]
    assert "grid lines" not in names
    page.select_slider(key="activation_bits").set_value("4").run()
    assert "grid lines" in [t.name for t in chart(page, "activation_histogram").data]


def test_the_grid_of_any_channel_can_be_seen(page: AppTest, lab: Lab):
    qparams = lab.what_if(NAME, mapping="int8").weight_qparams
    assert qparams is not None
    widest = int(qparams.scale.argmax())
    channel = page.number_input[0]
    assert channel.value == widest
    channel.set_value(0).run()
    levels = {t.name: t for t in chart(page, "weight_histogram").data}["levels"]
    assert np.diff(levels.x) == pytest.approx(float(qparams.scale[0]), rel=1e-3)


def test_float8_and_other_widths_answer(page: AppTest):
    for width in ("16", "float8 e4m3", "float8 e5m2", "2"):
        page.select_slider(key="weight_bits").set_value(width).run()
        assert not page.error, width
        assert sqnr(page).endswith("dB")


def test_knobs_that_do_not_fit_say_so_and_keep_what_was_entered(page: AppTest):
    page.selectbox(key="weight_policy").set_value("entropy").run()
    page.select_slider(key="weight_bits").set_value("float8 e4m3").run()
    assert "evenly spaced codes" in page.error[0].value
    assert page.select_slider(key="weight_bits").value == "float8 e4m3"
    assert page.selectbox(key="weight_policy").value == "entropy"
    page.selectbox(key="weight_policy").set_value("min-max").run()
    assert not page.error


def test_observers_stand_side_by_side_best_first(page: AppTest, lab: Lab):
    errors = lab.policies(NAME, configured(lab, "activation"))
    table = page.dataframe[1].value
    assert len(table) == len(errors)
    assert list(table["SQNR"]) == sorted((e.sqnr_db for e in errors.values()), reverse=True)
    assert sum(label.startswith("▸") for label in table["observer"]) == 1


def test_keep_in_float_and_back(page: AppTest):
    before = sqnr(page)
    page.toggle(key="in_float").set_value(True).run()
    assert sqnr(page) == "float"
    assert "levels" not in [t.name for t in chart(page, "activation_histogram").data]
    page.toggle(key="in_float").set_value(False).run()
    assert sqnr(page) == before


def test_apply_marks_the_network_stale_and_undo_takes_it_back(page: AppTest):
    settle(page.button(key="compare").click().run())
    network = metrics(page)["Output SQNR ↑"]
    before = sqnr(page)
    page.select_slider(key="weight_bits").set_value("2").run()
    changed = sqnr(page)
    page.button(key="apply").click().run()
    assert metrics(page)["In the configuration ↑"] == changed
    assert page.warning[0].value.startswith("Stale")
    assert metrics(page)["Output SQNR ↑ · stale"] == network
    settle(page.button(key="refresh").click().run())
    assert not page.warning
    assert metrics(page)["Output SQNR ↑"] != network
    page.button(key="undo").click().run()
    assert sqnr(page) == before
    assert page.select_slider(key="weight_bits").value == "8"


def test_moved_knobs_survive_a_visit_to_another_layer(page: AppTest):
    page.select_slider(key="weight_bits").set_value("3").run()
    moved = sqnr(page)
    page.button(key="next").click().run()
    assert page.selectbox(key="layer").value == "block2.conv2"
    assert page.select_slider(key="weight_bits").value == "8"
    page.button(key="previous").click().run()
    assert page.select_slider(key="weight_bits").value == "3"
    assert sqnr(page) == moved


def test_an_unknown_layer_in_the_address_falls_back():
    page = open_page("layer", model="residual", layer="no such layer")
    assert not page.error
    assert page.selectbox(key="layer").value == "stem.conv"


def test_a_layer_that_was_kept_in_float_can_be_quantized_again(page: AppTest):
    page.toggle(key="in_float").set_value(True).run()
    page.button(key="apply").click().run()
    assert metrics(page)["In the configuration ↑"] == "float"
    assert not has_button(page, "refresh")
    page.toggle(key="in_float").set_value(False).run()
    assert sqnr(page).endswith("dB")
    page.button(key="apply").click().run()
    assert metrics(page)["In the configuration ↑"].endswith("dB")


@pytest.mark.slow
def test_a_large_weight_compares_observers_only_when_asked():
    page = open_page("layer", model="resnet18", samples=2, layer="fc")
    assert not page.error
    assert len(page.dataframe) == 1
    page.toggle(key="weight_compare").set_value(True).run()
    assert len(page.dataframe) == 2


@pytest.mark.parametrize("kind", ["weight", "activation"])
def test_counts_are_logarithmic_or_linear(page: AppTest, kind: str):
    def axis() -> tuple[str, str]:
        found = chart(page, f"{kind}_histogram").layout.yaxis
        return found.type, found.title.text

    assert axis() == ("log", "count (log)")
    page.toggle(key=f"{kind}_log").set_value(False).run()
    assert axis() == ("linear", "count")


def test_a_layer_that_is_not_there_does_not_stay_in_the_address():
    page = AppTest.from_file(ROOT / "pages" / "layer.py", default_timeout=SECONDS)
    page.query_params["model"], page.query_params["layer"] = "mlp", "nope"
    settle(page.run())
    assert page.selectbox(key="layer").value == "fc1"
    assert page.query_params.get("layer") in (None, ["fc1"])
