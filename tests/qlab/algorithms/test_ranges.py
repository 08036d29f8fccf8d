"""Ranges by output error, and the most sensitive layers in float."""

import pytest
import torch
from torch import nn

import qlab
import sample_models
from qlab.dtypes import integer
from qlab.errors import ArgumentError
from qlab.granularity import PerAxis, PerGroup, PerTensor
from qlab.qconfig import QConfigMapping, qconfig_of
from qlab.ranges import Fixed, TensorSpec


def lab_for(name: str) -> qlab.Lab:
    sample = sample_models.load(name)
    return qlab.Lab(
        sample.model, sample.example_inputs, sample.calibration(64), sample.evaluation()
    )


@pytest.fixture(scope="module")
def residual() -> qlab.Lab:
    return lab_for("residual")


def test_four_bit_weights_win_decibels(residual):
    repaired = residual.repair_with("ranges", "int4-weights")
    report = repaired.report
    assert report.gain("sqnr") > 2
    assert (report.layers.layer_sqnr_weight >= report.layers.layer_sqnr_before).all()
    again = residual.apply(repaired).compare(repaired.mapping)
    assert again.output == report.after


def test_weights_stay_and_only_the_mapping_changes(residual):
    repaired = residual.repair_with("ranges", "int4-weights", ["block1.conv1", "fc"])
    own = residual.graph.state_dict()
    assert all(torch.equal(t, own[name]) for name, t in repaired.model.state_dict().items())
    assert [*repaired.mapping.module_name_qconfigs] == ["block1.conv1", "fc"]


def clipped_lab(granularity) -> tuple[qlab.Lab, QConfigMapping]:
    """A layer whose largest weight meets an input that is always 0."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 3)).requires_grad_(False)
    model[0].weight[0, 0] = 20.0
    x = torch.randn(128, 8)
    x[:, 0] = 0.0
    weight = TensorSpec(integer(4, signed=True), True, granularity)
    mapping = QConfigMapping().set_global(qconfig_of(TensorSpec(), weight))
    return qlab.Lab(model.eval(), (x[:1],), [x]), mapping


@pytest.mark.parametrize("granularity", [PerTensor(), PerAxis(0), PerGroup(4)], ids=str)
def test_what_does_not_matter_to_the_output_is_clipped(granularity):
    lab, mapping = clipped_lab(granularity)
    repaired = lab.repair_with("ranges", mapping, ["0"], smallest=0.02, tries=50)
    spec = repaired.mapping.module_name_qconfigs["0"].weight_spec
    assert isinstance(spec.policy, Fixed)
    before = lab.qparams("0", lab.plan(mapping).step("0").weight, "weight").scale.max()
    if not isinstance(granularity, PerGroup):  # whose factor is shared by all groups
        assert max(spec.policy.scales) < 0.3 * float(before)
    assert repaired.report.gain("sqnr") > 0


def test_a_range_that_clips_outliers_of_an_activation_is_found():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3)).requires_grad_(False)
    model[0].weight[0] *= 50
    model[2].weight[:, 0] = 0  # what it makes so large is not read
    x = torch.randn(128, 6)
    spec = TensorSpec(integer(4, signed=False))
    mapping = QConfigMapping().set_global(qconfig_of(spec, TensorSpec.int8_weight()))
    lab = qlab.Lab(model.eval(), (x[:1],), [x])
    repaired = lab.repair_with("ranges", mapping, smallest=0.02, tries=50)
    found = repaired.mapping.module_name_qconfigs["0"].activation_spec
    before = lab.qparams("0", lab.plan(mapping).step("0").output)
    assert found.policy.scales[0] < 0.3 * before.scale_value
    assert "its output's range times" in repaired.report.layers.reason["0"]
    assert repaired.report.gain("sqnr") > 3


def test_refusals_and_settings(residual):
    mapping = qlab.presets.get("int8").mapping().set_module_name("fc", None)
    report = residual.repair_with("ranges", mapping, ["fc", "pool"]).report
    assert "stays in float" in report.refusals["fc"]
    assert "no linear layer" in report.refusals["pool"]
    for settings in ({"samples": 0}, {"tries": 1}, {"smallest": 2.0}):
        with pytest.raises(ArgumentError, match=r"smallest to a largest.*tries >= 2"):
            residual.repair_with("ranges", **settings)


def test_the_layers_that_cost_most_stay_in_float(residual):
    repaired = residual.repair_with("keep_in_float", "int4-weights", count=2)
    report = repaired.report
    changed = report.layers[report.layers.changed]
    assert len(changed) == 2 and report.gain("sqnr") > 1
    assert changed.noise_share.min() >= report.layers[~report.layers.changed].noise_share.max()
    plan = residual.apply(repaired).plan(repaired.mapping)
    assert all(plan.step(name).weight is None for name in changed.index)
    assert report.samples == 64


def test_keeping_in_float_can_be_cancelled_and_refused(residual):
    stopped = residual.repair_with("keep_in_float", count=1, should_stop=lambda: True)
    assert not stopped.report.complete
    report = residual.repair_with("keep_in_float", "int8", ["flatten", "fc"]).report
    assert report.refusals == {"flatten": "it is not quantized"}
    with pytest.raises(ArgumentError, match="count >= 1"):
        residual.repair_with("keep_in_float", count=0)


@pytest.mark.parametrize("preset", ["int8", "int4-weights"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_an_input_that_asks_the_same_rule_keeps_its_range(preset, seed):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU6(), nn.Conv2d(8, 4, 3)).eval()
    data = [torch.randn(8, 3, 8, 8)]
    lab = qlab.Lab(model, (data[0],), data, data)
    repaired = lab.repair_with("ranges", preset)
    (source,) = [n.name for n in lab.graph.graph.nodes if n.op == "placeholder"]
    specs = [
        one.plan(mapping).by_node.get(source)
        for one, mapping in (
            (lab, qlab.presets.get(preset).mapping()),
            (lab.apply(repaired), repaired.mapping),
        )
    ]
    before, after = (None if value is None else value.spec for value in specs)
    assert before == after
    assert repaired.report.gain("sqnr") > -0.5
    if preset == "int8":
        assert before is not None
