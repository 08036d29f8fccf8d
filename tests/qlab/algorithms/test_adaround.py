"""AdaRound: roundings that keep a layer's output close, on the grid that is converted."""

import pytest
import torch
from torch import nn

import qlab
import sample_models
from qlab.algorithms import Hooks
from qlab.algorithms.adaround import AdaRoundSettings, Learner, Task
from qlab.dtypes import integer
from qlab.errors import ArgumentError
from qlab.granularity import PerAxis, PerGroup, PerTensor
from qlab.qconfig import QConfigMapping, qconfig_of
from qlab.qparams import dequantize, quantize
from qlab.ranges import MSE, Fixed, TensorSpec

MAPPING = "int4-weights"


def small(bias: bool = True) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1, bias=bias),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, groups=4, bias=bias),
        nn.Hardswish(),
        nn.ConvTranspose2d(8, 6, 2, bias=bias),
        nn.ReLU6(),
        nn.Flatten(),
        nn.Linear(6 * 25, 8, bias=bias),
    )
    return model.eval().requires_grad_(False)


def small_lab(bias: bool = True) -> qlab.Lab:
    generator = torch.Generator().manual_seed(1)
    x = 1 + torch.randn(64, 2, 1, 1, generator=generator)  # flat images: errors of weights add up
    x = x + 0.3 * torch.randn(64, 2, 6, 6, generator=generator)
    return qlab.Lab(small(bias), (x[:1],), [x[:40], x[40:]], [x[:32]])


def mapping_of(bits: int, granularity) -> QConfigMapping:
    weight = TensorSpec(integer(bits, signed=True), True, granularity, MSE())
    return QConfigMapping().set_global(qconfig_of(TensorSpec(), weight))


@pytest.fixture(scope="module")
def lab() -> qlab.Lab:
    return small_lab()


@pytest.fixture(scope="module")
def repaired(lab):
    return lab.repair_with("adaround", MAPPING, steps=300, rate=0.03)


def test_it_wins_decibels_over_rounding_to_nearest(repaired):
    table = repaired.report.layers
    assert repaired.report.gain("sqnr") > 3
    assert (table.layer_sqnr_learned >= table.layer_sqnr_nearest).all()
    assert table.flipped.between(0.001, 0.5).all()
    assert repaired.report.samples == 64


def test_converting_gives_exactly_the_integers_that_were_learned(lab, repaired):
    better = lab.apply(repaired)
    converted = better.convert(repaired.mapping)
    plan = better.plan(repaired.mapping)
    for name in repaired.report.layers.index:
        weight = better.weight(name)
        spec = plan.step(name).weight
        assert isinstance(spec.policy, Fixed)
        qparams = lab.qparams(name, lab.plan(MAPPING).step(name).weight, "weight")
        held = converted.get_submodule(name).weight()
        assert torch.equal(held.qparams.scale, qparams.scale)
        assert torch.equal(held.codes, quantize(weight, qparams).to(held.codes.dtype))
        assert torch.equal(dequantize(held.codes, held.qparams), weight)
        moved = (weight - lab.weight(name)).abs() / qparams.granularity.expand(
            qparams.scale, weight.shape
        )
        clipped = quantize(lab.weight(name), qparams).abs() >= 7
        assert bool(((moved < 1 + 1e-4) | clipped).all())  # up or down, never further


@pytest.mark.parametrize("bits", [2, 3, 8])
@pytest.mark.parametrize("granularity", [PerTensor(), PerAxis(0)], ids=str)
def test_any_width_and_granularity_is_at_least_as_good_as_nearest(lab, bits, granularity):
    mapping = mapping_of(bits, granularity)
    repaired = lab.repair_with("adaround", mapping, steps=1000 if bits < 8 else 50)
    table = repaired.report.layers
    assert (table.layer_sqnr_learned >= table.layer_sqnr_nearest).all()
    if bits < 8:
        assert repaired.report.gain("sqnr") > 0
    again = lab.apply(repaired).compare(QConfigMapping.from_json(repaired.mapping.to_json()))
    assert again.output == repaired.report.after


def test_scales_per_group_stay_where_they_are(lab):
    repaired = lab.repair_with("adaround", mapping_of(3, PerGroup(10)), ["7"], steps=100)
    weight = lab.apply(repaired).weight("7")
    spec = repaired.mapping.module_name_qconfigs["7"].weight_spec
    qparams = spec.qparams_of(weight)
    assert torch.equal(dequantize(quantize(weight, qparams), qparams), weight)
    assert repaired.report.layers.flipped["7"] > 0


def test_layers_without_bias_are_rounded_too():
    assert small_lab(bias=False).repair_with("adaround", MAPPING, steps=60).report.complete


def test_the_seed_decides(lab, repaired):
    again = lab.repair_with("adaround", MAPPING, steps=300, rate=0.03)
    other = lab.repair_with("adaround", MAPPING, steps=300, rate=0.03, seed=1)
    states = [r.model.state_dict() for r in (repaired, again, other)]
    assert all(torch.equal(t, states[1][name]) for name, t in states[0].items())
    assert not all(torch.equal(t, states[2][name]) for name, t in states[0].items())
    assert again.mapping == repaired.mapping


def test_nothing_else_draws_from_the_global_generator(lab):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    lab.repair_with("adaround", MAPPING, ["0"], steps=5)
    assert torch.equal(torch.rand(1), expected)


def test_what_learning_does_not_improve_stays_rounded_to_nearest():
    layer = nn.Linear(3, 2)
    layer.weight.data = torch.tensor([[0.25, 0.5, 0.75], [0.0, -0.25, 0.25]])
    qparams = TensorSpec("qint8", True, policy=Fixed(0.25, 0)).qparams_of(layer.weight)
    x = torch.randn(16, 3)
    task = Task(layer.requires_grad_(False), "weight", qparams, x, layer(x))
    weight, numbers = Learner(task, AdaRoundSettings(steps=5), Hooks(), (0, 1, "fc")).run()
    assert torch.equal(weight, layer.weight) and numbers["flipped"] == 0


def test_refusals_have_reasons(lab, repaired):
    report = lab.repair_with("adaround", "float8", steps=5).report
    assert set(report.refusals) == {"0", "2", "4", "7"}
    assert "not evenly spaced" in report.refusals["0"]
    twice = lab.apply(repaired).repair_with("adaround", repaired.mapping, steps=5).report
    assert "fixed grid already" in twice.refusals["7"]
    kept = qlab.presets.get(MAPPING).mapping().set_module_name("0", None)
    report = lab.repair_with("adaround", kept, ["0", "6"], steps=5).report
    assert report.refusals["0"].startswith("its weight stays in float: ")
    assert "no linear layer" in report.refusals["6"]


@pytest.mark.parametrize("name", ["steps", "samples", "batch", "rate", "strength"])
def test_settings_must_be_positive(lab, name):
    with pytest.raises(ArgumentError, match=f"AdaRound: {name} must be positive"):
        lab.repair_with("adaround", MAPPING, **{name: 0})


def test_cancelling_in_the_middle_leaves_everything_as_it_was(lab):
    asked = iter([False] * 12)
    stopped = lab.repair_with("adaround", MAPPING, steps=100, should_stop=lambda: next(asked, True))
    assert not stopped.report.complete and stopped.model is lab.graph
    assert stopped.mapping == qlab.presets.get(MAPPING).mapping()


def test_a_convolutional_sample_gains_three_decibels():
    sample = sample_models.load("residual")
    lab = qlab.Lab(
        sample.model, sample.example_inputs, sample.calibration(128), sample.evaluation()
    )
    report = lab.repair_with("adaround", MAPPING, steps=200).report
    assert report.gain("sqnr") > 3
    assert report.gain("accuracy") >= 0
