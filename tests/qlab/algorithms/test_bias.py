"""Bias correction: mean errors go, with data and from batch norm alone."""

import pytest
import torch
from torch import Tensor, nn

import qlab
import sample_models
from qlab.algorithms.targets import channel_means
from qlab.errors import ArgumentError
from qlab.nn.intrinsic.fold import core
from qlab.qparams import fake_quantize

MAPPING = "int4-weights"


class Net(nn.Module):
    """Batch norm, a residual addition, an average and what comes behind them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(2, 8, 3, bias=False), nn.BatchNorm2d(8)
        self.left, self.bn_left = nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)
        self.right, self.bn_right = nn.Conv2d(8, 8, 1, groups=2), nn.BatchNorm2d(8)
        self.relu, self.relu6 = nn.ReLU(), nn.ReLU6()
        self.pool, self.flatten = nn.AdaptiveAvgPool2d(1), nn.Flatten()
        self.fc, self.last = nn.Linear(8, 5, bias=False), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu6(self.bn(self.conv(x)))
        x = self.relu(self.bn_left(self.left(x)) + self.bn_right(self.right(x)))
        return self.last(self.fc(self.flatten(self.pool(x))))


def trained(x: Tensor) -> nn.Module:
    """A network whose batch norms have seen the data and spread its means."""
    torch.manual_seed(0)
    model = Net()
    for norm in (model.bn, model.bn_left, model.bn_right):
        norm.weight.data.uniform_(0.5, 2)
        norm.bias.data.uniform_(-1, 2)
        norm.momentum = None
    with torch.no_grad():
        for _ in range(3):
            model.train()(x)
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def lab() -> qlab.Lab:
    x = torch.randn(256, 2, 6, 6, generator=torch.Generator().manual_seed(1))
    return qlab.Lab(trained(x), (x[:1],), [x[:128], x[128:]])


def mean_errors(lab: qlab.Lab, name: str, mapping) -> Tensor:
    """How far each channel's mean before the activation is from the float network's."""
    probe = lab._study.probe(name)
    values, _ = lab.original._study.sample()
    source = values[probe.inputs[0]]
    float_layer = core(lab.original.graph.get_submodule(name))
    layer = core(lab.graph.get_submodule(name))
    qparams = lab.qparams(name, lab.plan(mapping).step(name).weight, "weight")
    rounded = torch.func.functional_call(
        layer, {"weight": fake_quantize(layer.weight, qparams)}, (source,)
    )
    return channel_means(rounded - float_layer(source), layer)


def test_both_ways_reduce_the_error_of_the_output(lab):
    gains = {
        how: lab.repair_with("bias_correction", MAPPING, how=how).report.gain("sqnr")
        for how in ("empirical", "analytic")
    }
    assert gains["empirical"] > 1 and gains["analytic"] > 0.5


def test_the_analytic_way_takes_the_mean_error_back_without_data(lab):
    repaired = lab.repair_with("bias_correction", MAPPING, how="analytic")
    report, better = repaired.report, lab.apply(repaired)
    assert report.samples == 0
    assert report.refusals["conv"] == "nothing tells what 'x' is on average"
    assert "no batch norm tells what 'fc'" in report.refusals["last"]
    assert [*report.layers.index[report.layers.changed]] == ["left", "right", "fc"]
    for name in ("left", "right", "fc"):
        before, after = mean_errors(lab, name, MAPPING), mean_errors(better, name, MAPPING)
        assert after.norm() < 0.5 * before.norm(), name
    assert core(better.graph.get_submodule("fc")).bias is not None  # it had none


@pytest.mark.parametrize("how", ["empirical", "analytic"])
def test_correcting_twice_changes_nothing_more(lab, how):
    first = lab.apply(lab.repair_with("bias_correction", MAPPING, how=how))
    again = first.repair_with("bias_correction", MAPPING, how=how)
    for name, tensor in again.model.state_dict().items():
        torch.testing.assert_close(tensor, first.graph.state_dict()[name], rtol=1e-4, atol=1e-5)


def test_what_batch_norm_said_is_saved_and_follows_equalization(lab, tmp_path):
    loaded = qlab.load_lab(lab.save(tmp_path / "x.lab"), evaluation=lab._evaluation_data._source)
    found = loaded.repair_with("bias_correction", MAPPING, how="analytic")
    own = lab.repair_with("bias_correction", MAPPING, how="analytic")
    assert found.report.after == own.report.after
    sample = sample_models.load("conv_bn_relu")
    data = sample.calibration(64)
    digits = qlab.Lab(sample.model, sample.example_inputs, data)
    even = digits.apply(digits.repair_with("equalize", MAPPING, absorb=False))
    assert even.repair_with("bias_correction", MAPPING, how="analytic").report.gain("sqnr") > 0
    node = next(n for n in even.graph.graph.nodes if n.meta.get("name") == "block2.conv")
    before = next(n for n in digits.graph.graph.nodes if n.meta.get("name") == "block2.conv")
    factors = torch.tensor(node.meta["batch_norm"][1]) / torch.tensor(before.meta["batch_norm"][1])
    biases = [core(lab.graph.get_submodule("block2.conv")).bias for lab in (even, digits)]
    torch.testing.assert_close(biases[0], biases[1] * factors, rtol=1e-3, atol=1e-4)


def test_a_layer_that_stays_in_float_is_refused(lab):
    mapping = qlab.presets.get(MAPPING).mapping().set_module_name("left", None)
    for how in ("empirical", "analytic"):
        report = lab.repair_with("bias_correction", mapping, ["left"], how=how).report
        assert [*report.refusals] == ["left"]
        assert report.refusals["left"].startswith("its weight stays in float: ")


def test_weights_alone_are_corrected_too(lab):
    report = lab.repair_with("bias_correction", "int8-weights-only").report
    assert report.layers.changed.all() and report.gain("sqnr") > 0


def test_another_way_is_refused(lab):
    with pytest.raises(ArgumentError, match=r"how='empirical' or how='analytic'.*'guess'"):
        lab.repair_with("bias_correction", MAPPING, how="guess")
