"""The Learn pages' knobs that test_lessons does not turn: each changes the numbers shown."""

import pytest
import torch

import qlab
import sample_models
from pages.common import contest
from pages.common.contest import Outliers
from pages.common.format import count, number
from pages.lessons import granularity, normalizing
from qlab.analysis.formats import all_codes, cost_of, format_costs
from qlab.analysis.worked_norms import fused_activation
from qlab.dtypes import integer
from qlab.granularity import PerAxis, PerGroup, PerTensor
from qlab.qparams import QParams
from qlab.ranges import TensorSpec
from tests.pages.harness import chart, metrics, texts
from tests.pages.test_lessons import LAYER, SQNR, lesson


@pytest.fixture(scope="module")
def lab() -> qlab.Lab:
    sample = sample_models.load("conv_bn_relu")
    return qlab.Lab(sample.model, sample.example_inputs, sample.calibration(256))


def test_more_bits_leave_less_clipping_to_gain():
    page = lesson("learn", "Rounding and clipping")
    page.select_slider(key="clipping_bits").set_value(7).run()
    stats = contest.made_up("normal", Outliers(0, 0.0))
    held = contest.hold(stats, TensorSpec(integer(7, signed=False)), 1.0)
    assert metrics(page)["SQNR ↑"] == number(held.clip.error.sqnr_db, "dB")
    page.selectbox(key="clipping_source").set_value("Laplace").run()
    stats = contest.made_up("Laplace", Outliers(0, 0.0))
    held = contest.hold(stats, TensorSpec(integer(7, signed=False)), 1.0)
    assert metrics(page)["SQNR ↑"] == number(held.clip.error.sqnr_db, "dB")


def test_the_size_of_a_group_and_the_weight_are_chosen():
    page = lesson("learn", "Granularity")
    title = "one outlier in each channel"
    page.selectbox(key="granularity_source").set_value(title).run()
    page.selectbox(key="granularity_group_of_64").set_value("4").run()
    table = page.dataframe[0].value.set_index("one scale")
    spec = TensorSpec(integer(4, signed=True), True, PerGroup(4, 1))
    cost = cost_of(granularity.made_up(title), spec)
    assert table.loc["per group", "scales"] == count(32 * 64 // 4)
    assert table.loc["per group", "SQNR"] == pytest.approx(cost.error.sqnr_db)


def test_channel_and_position_of_an_integer_sum_are_chosen(lab: qlab.Lab):
    name = "block1.conv"
    page = lesson("learn", "Integer sum", model="conv_bn_relu", sums_source=LAYER)
    page.selectbox(key="sums_layer").set_value(name).run()
    page.number_input(key="sums_channel").set_value(2).run()
    for position in (0, 27):
        page.slider(key="sums_position").set_value(position).run()
        worked = lab.worked_sum(name, 2, position)
        assert list(page.dataframe[0].value["sum"]) == worked.partial.tolist()
        assert metrics(page)["Float layer"] == number(worked.terms.result)
    assert worked.partial.tolist() != lab.worked_sum(name, 2, 0).partial.tolist()


def test_the_pairs_are_those_of_the_chosen_channel(lab: qlab.Lab):
    page = lesson("learn", "Reduced range", model="conv_bn_relu", saturation_source=LAYER)
    page.selectbox(key="saturation_layer").set_value("block1.conv").run()
    page.number_input(key="saturation_channel").set_value(3).run()
    page.slider(key="saturation_position").set_value(9).run()
    worked = lab.worked_sum("block1.conv", 3, 9)
    pairs = [y for trace in chart(page, "saturation_pairs").data for y in trace.y]
    assert set(worked.pairs.tolist()) <= set(pairs)
    told = metrics(page)["Pairs that saturate ↓"]
    assert told.startswith(f"{count(worked.saturated_pairs)} of {count(len(worked.pairs))}")


def test_codes_without_a_sign_and_with_the_scale_of_a_layer(lab: qlab.Lab):
    page = lesson("formats", "Codes", model="conv_bn_relu", codes_format="2-bit integer")
    page.segmented_control(key="codes_sign").set_value("unsigned").run()
    assert list(page.dataframe[0].value["bits"]) == ["00", "01", "10", "11"]
    page.segmented_control(key="codes_scale").set_value("scale of a layer").run()
    page.selectbox(key="codes_layer").set_value("fc").run()
    page.segmented_control(key="codes_kind").set_value("weight").run()
    page.segmented_control(key="codes_sign").set_value("signed").run()
    qparams = TensorSpec(integer(2, signed=True), True).qparams(lab.statistics("fc", "weight"))
    assert qparams.scale_value != QParams.per_tensor(1.0, 0, qparams.dtype).scale_value
    drawn = {x for trace in chart(page, "codes_line").data for x in trace.x if x is not None}
    expected = all_codes(qparams)["value"].to_numpy(float)
    assert all(min(abs(x - level) for x in drawn) < 1e-6 for level in expected)


def test_the_integer_beside_float8_has_as_many_bits_as_asked():
    page = lesson("formats", "Resolution")
    page.select_slider(key="resolution_bits").set_value(3).run()
    names = {trace.name for trace in chart(page, "resolution_chart").data}
    assert "3-bit integer" in names and "8-bit integer" not in names
    stats = contest.made_up("normal", Outliers(0, 0.0))
    levels = all_codes(TensorSpec(integer(3, signed=True), True).qparams(stats))["value"]
    shown = metrics(page)["3-bit integer"]
    assert shown.endswith(number(float(levels.max())))


def test_memory_of_activations_and_of_another_weight():
    page = lesson("formats", "Memory and error")
    page.segmented_control(key="memory_what").set_value("weights").run()
    page.selectbox(key="memory_weight_source").set_value("channels of equal range").run()
    weight = granularity.made_up("channels of equal range")
    costs = format_costs(weight, (PerTensor(), PerAxis(0)))
    assert list(page.dataframe[0].value["SQNR"]) == pytest.approx(
        [cost.error.sqnr_db for cost in costs]
    )


def test_the_codes_of_a_fused_activation_are_as_wide_as_asked():
    page = lesson("norms", "ReLU and clamp")
    page.selectbox(key="activation_source").set_value("Laplace").run()
    page.select_slider(key="activation_bits").set_value(7).run()
    worked = fused_activation(contest.values("Laplace", 2.5), "ReLU", 7)
    shown = [metric.value for metric in page.metric if metric.label == "SQNR ↑"]
    assert shown == [number(sqnr, "dB") for sqnr in (worked.apart_sqnr, worked.fused_sqnr)]


@pytest.mark.parametrize("kind", ["LayerNorm", "GroupNorm", "InstanceNorm"])
def test_kind_set_and_number_of_a_made_up_norm(kind: str):
    page = lesson("norms", "Inside a norm")
    page.selectbox(key="norm_source").set_value(kind).run()
    page.number_input(key="norm_made_up_group").set_value(1).run()
    page.slider(key="norm_at").set_value(5).run()
    worked = normalizing._worked(kind, 0, 1)
    other = normalizing._worked(kind, 0, 0)
    assert not torch.equal(worked.reference, other.reference)
    shown = metrics(page)
    assert shown["Mean"] == number(worked.mean)
    assert shown["Float layer"] == number(float(worked.reference[5]))
    assert shown[SQNR] == number(worked.sqnr_db, "dB")
    assert f"the engine's operator: {count(int(worked.operator_codes[5]))} →" in texts(page)


def test_layer_and_set_of_a_norm_of_the_model():
    sample = sample_models.load("norms")
    own = qlab.Lab(sample.model, sample.example_inputs, sample.calibration(256))
    page = lesson("norms", "Inside a norm", model="norms", norm_source=LAYER)
    name = page.selectbox(key="norm_layer").options[-1]
    page.selectbox(key="norm_layer").set_value(name).run()
    page.number_input(key="norm_group").set_value(1).run()
    worked = own.worked_norm(name, 1)
    assert metrics(page)["Mean"] == number(worked.mean) != number(own.worked_norm(name, 0).mean)
    assert metrics(page)["Variance"] == number(worked.variance)
