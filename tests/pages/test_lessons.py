"""The Learn pages: every lesson on made-up numbers and on a layer, and its numbers the engine's."""

from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from pages.common import contest
from pages.common.contest import Outliers
from pages.common.format import count, number
from pages.common.store import store
from pages.lessons import granularity
from qlab.analysis.formats import all_codes, cost_of, format_costs
from qlab.dtypes import float8_e4m3fn, integer
from qlab.granularity import PerAxis, PerGroup, PerTensor
from qlab.qparams import QParams
from qlab.ranges import TensorSpec
from tests.pages.harness import ROOT, chart, metrics, open_page, texts, workspace_of

LAYER, SQNR = "a layer of the model", "SQNR of these ↑"
#: Page, lesson, prefix of the source's key, and a chart that it must show.
LESSONS = [
    ("learn", "Symmetric or affine", "schemes", "schemes_symmetric"),
    ("learn", "Granularity", "granularity", "granularity_ranges"),
    ("learn", "Rounding and clipping", "clipping", "clipping_curve"),
    ("learn", "Integer sum", "sums", "sums_accumulator"),
    ("learn", "Reduced range", "saturation", "saturation_pairs"),
    ("formats", "Resolution", "resolution", "resolution_chart"),
    ("formats", "Memory and error", "memory", "memory_chart"),
    ("norms", "Batch norm folds", "fold", "fold_folding"),
    ("norms", "ReLU and clamp", "activation", "activation_fused"),
    ("norms", "Inside a norm", "norm", "norm_chart"),
]


def lesson(page: str, title: str, **state: object) -> AppTest:
    opened = open_page(page, **{f"{page}_lesson": title, **state})
    assert not opened.error
    return opened


def points(trace: Any) -> list[tuple[float, float]]:
    return list(zip(trace.x, trace.y, strict=True))


def value(shown: str) -> float:
    """A metric's number without its unit."""
    return float(shown.split()[0].replace("−", "-"))


@pytest.mark.parametrize(("page", "title", "prefix", "shown"), LESSONS, ids=lambda x: x)
def test_each_lesson_works_on_a_layer_of_the_model(page: str, title: str, prefix: str, shown: str):
    model = "norms" if prefix == "norm" else "conv_bn_relu"
    opened = lesson(page, title, model=model, **{f"{prefix}_source": LAYER})
    assert chart(opened, shown).data


def test_a_link_leads_to_a_lesson_and_the_address_names_it():
    page = AppTest.from_file(ROOT / "pages" / "formats.py", default_timeout=60)
    page.query_params["lesson"] = "Resolution"
    page.run()
    assert page.segmented_control(key="formats_lesson").value == "Resolution"
    page.segmented_control(key="formats_lesson").set_value("Codes").run()
    assert page.query_params["lesson"] == "Codes"


def test_a_lesson_and_its_knobs_come_back_by_link():
    first = lesson("learn", "Granularity")
    first.select_slider(key="granularity_bits").set_value(3).run()
    again = AppTest.from_file(ROOT / "pages" / "learn.py", default_timeout=60)
    again.query_params["w"] = workspace_of(first).id
    again.run()
    assert store().find(again.query_params["w"]) is not None
    assert again.segmented_control(key="learn_lesson").value == "Granularity"
    assert again.select_slider(key="granularity_bits").value == 3


def test_both_schemes_show_the_engines_scale_and_error():
    page = lesson("learn", "Symmetric or affine", schemes_source="after a ReLU")
    stats = contest.made_up("after a ReLU", Outliers(0, 0.0))
    shown = {metric.value for metric in page.metric}
    for signed in (False, True):
        cost = cost_of(stats, TensorSpec(integer(4, signed=signed), signed))
        assert number(cost.error.sqnr_db, "dB") in shown
        assert f"{cost.qparams.scale_value:.4g}" in texts(page)
    assert "8 of 16" in shown or "9 of 16" in shown  # symmetric: half the codes lie below zero
    page.select_slider(key="schemes_bits").set_value(8).run()
    finer = cost_of(stats, TensorSpec(integer(8, signed=False)))
    assert number(finer.error.sqnr_db, "dB") in {metric.value for metric in page.metric}


def test_the_granularity_table_holds_what_the_engine_says():
    page = lesson("learn", "Granularity")
    table = page.dataframe[0].value.set_index("one scale")
    weight = granularity.made_up("channels of unequal range")
    for kind, of in (
        ("▸ per tensor", PerTensor()),
        ("per channel", PerAxis(0)),
        ("per group", PerGroup(16, 1)),
    ):
        cost = cost_of(weight, TensorSpec(integer(4, signed=True), True, of))
        assert table.loc[kind, "SQNR"] == pytest.approx(cost.error.sqnr_db)
        assert table.loc[kind, "bits"] == pytest.approx(cost.bits_per_value)
        assert table.loc[kind, "scales"] == count(cost.qparams.scale.numel())
    page.segmented_control(key="granularity_shown").set_value("per group").run()
    assert len(chart(page, "granularity_ranges").data[1].y) == 128
    assert "groups" in chart(page, "granularity_ranges").layout.xaxis.title.text


def test_a_narrower_range_trades_rounding_for_clipping():
    page = lesson("learn", "Rounding and clipping")
    before = metrics(page)
    assert before["Clipping"] == "0 %"
    page.slider(key="clipping_share").set_value(20).run()
    after = metrics(page)
    held = contest.hold(
        contest.made_up("normal", Outliers(0, 0.0)), TensorSpec(integer(4, signed=False)), 0.2
    )
    assert after["SQNR ↑"] == number(held.clip.error.sqnr_db, "dB")
    assert after["Scale"] == number(held.clip.qparams.scale_value) != before["Scale"]


def test_an_integer_sum_of_a_layer_is_the_engines_step_by_step():
    page = lesson("learn", "Integer sum", model="mlp", sums_source=LAYER, sums_layer="fc2")
    page.number_input(key="sums_channel").set_value(7).run()
    import qlab
    import sample_models

    sample = sample_models.load("mlp")
    lab = qlab.Lab(sample.model, sample.example_inputs, sample.calibration(256))
    worked = lab.worked_sum("fc2", 7)
    assert metrics(page)["Accumulator"] == count(worked.accumulator)
    assert metrics(page)["Code q"] == count(worked.code)
    assert metrics(page)["Float layer"] == number(worked.terms.result)
    assert list(page.dataframe[0].value["sum"]) == worked.partial.tolist()
    page.slider(key="sums_done").set_value(3).run()
    assert f"sum {count(int(worked.partial[2]))}" in texts(page)
    bars = chart(page, "sums_accumulator").data[0]
    assert list(bars.y) == worked.products[:3].tolist()


def test_a_reduced_range_lets_every_pair_fit():
    page = lesson("learn", "Reduced range")
    first = metrics(page)
    assert int(first["Pairs that saturate ↓"].split()[0]) > 0
    assert first["Output, 16-bit pairs"] != first["Output, exact sum"]
    assert "is lost" in texts(page)
    page.segmented_control(key="saturation_range").set_value("reduced range").run()
    after = metrics(page)
    assert after["Pairs that saturate ↓"].startswith("0 of")
    assert after["Output, 16-bit pairs"] == after["Output, exact sum"]
    assert "input codes 0 to 127" in texts(page)
    assert "it fits" in texts(page)


def test_every_code_of_a_format_is_in_the_table_with_its_bits():
    page = lesson("formats", "Codes", codes_format="float8 e4m3")
    table = page.dataframe[0].value
    expected = all_codes(QParams.per_tensor(1.0, 0, float8_e4m3fn))
    assert list(table["bits"]) == list(expected["bits"])
    assert table["value"].iloc[126] == "448"
    assert any("2 stand for no number" in caption.value for caption in page.caption)
    page.selectbox(key="codes_format").set_value("2-bit integer").run()
    assert list(page.dataframe[0].value["bits"]) == ["10", "11", "00", "01"]
    page.slider(key="codes_at_4").set_value(0).run()
    assert "10 → code q = −2" in texts(page)


def test_float_keeps_the_relative_step_and_integers_the_absolute_one():
    page = lesson("formats", "Resolution")
    relative = {trace.name: trace for trace in chart(page, "resolution_chart").data}
    floats = [
        y for x, y in zip(*(relative["float8 e4m3"][a] for a in "xy"), strict=True) if x > 0.1
    ]
    assert max(floats) <= 12.5 + 1e-4
    page.segmented_control(key="resolution_how").set_value("absolute").run()
    absolute = {trace.name: trace for trace in chart(page, "resolution_chart").data}
    steps = absolute["8-bit integer"].y
    assert max(steps) == pytest.approx(min(steps), rel=1e-4)


def test_memory_and_error_has_a_point_for_every_format():
    page = lesson("formats", "Memory and error", memory_what="weights")
    weight = granularity.made_up("channels of unequal range")
    costs = format_costs(weight, (PerTensor(), PerAxis(0)))
    table = page.dataframe[0].value
    assert list(table["SQNR"]) == pytest.approx([cost.error.sqnr_db for cost in costs])
    assert list(table["bits a value"]) == pytest.approx([cost.bits_per_value for cost in costs])
    points = [trace for trace in chart(page, "memory_chart").data if "markers" in str(trace.mode)]
    assert sum(len(trace.x) for trace in points) == len(costs)


def test_a_folded_batch_norm_shows_its_numbers_and_equal_outputs():
    page = lesson("norms", "Batch norm folds", model="conv_bn_relu", fold_source=LAYER)
    assert page.selectbox(key="fold_layer").value == "block1.conv"
    page.number_input(key="fold_channel").set_value(5).run()
    import sample_models

    model = sample_models.load("conv_bn_relu").model.eval()
    norm = model.get_submodule("block1.bn")
    factor = norm.weight[5] / (norm.running_var[5] + norm.eps).sqrt()
    assert f"= {float(factor):.4g}".replace("-", "−") in texts(page)
    assert "10⁻" in metrics(page)["Largest difference of outputs ↓"]


def test_a_fused_relu_is_finer_than_one_apart():
    page = lesson("norms", "ReLU and clamp")
    apart, fused = (float(m.value) for m in page.metric if m.label == "Scale")
    assert fused < 0.6 * apart
    page.segmented_control(key="activation_kind").set_value("ReLU6").run()
    _, clamped = (float(m.value) for m in page.metric if m.label == "Scale")
    assert clamped == pytest.approx(6 / 15)


def test_inside_a_norm_the_operator_agrees_and_an_offset_costs_precision():
    page = lesson("norms", "Inside a norm")
    before = metrics(page)
    assert before["SQNR of these ↑"].endswith("dB")
    assert "the engine's operator" in texts(page)
    page.slider(key="norm_offset").set_value(40).run()
    after = metrics(page)
    assert value(after["Mean"]) == pytest.approx(value(before["Mean"]) + 40, abs=0.5)
    assert value(after[SQNR]) < value(before[SQNR]) - 10


def test_what_cannot_fold_is_told_by_the_model():
    page = lesson("norms", "What cannot fold", model="norms")
    table = page.dataframe[0].value.set_index("norm")
    assert set(table["becomes"]) == {"a step of its own"}
    assert table.loc["batch_norm", "after"].startswith("add")
    assert metrics(page) == {"Norms that fold": "0", "Steps of their own": "4"}
    page = lesson("norms", "What cannot fold", model="conv_bn_relu")
    assert metrics(page) == {"Norms that fold": "4", "Steps of their own": "0"}


@pytest.mark.parametrize(
    ("page", "title", "state"),
    [
        ("norms", "Batch norm folds", {"fold_source": LAYER}),
        ("norms", "Inside a norm", {"norm_source": LAYER}),
    ],
)
def test_a_model_without_such_layers_says_what_to_do(page: str, title: str, state: dict):
    opened = lesson(page, title, model="mlp", **state)
    assert "Choose another model" in opened.info[0].value


def test_a_model_without_norms_says_what_to_do():
    assert "has no norms" in lesson("norms", "What cannot fold", model="mlp").info[0].value
