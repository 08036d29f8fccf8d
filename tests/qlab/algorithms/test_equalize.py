"""Cross-layer equalization: the same function in float, with channels that can share a scale."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import qlab
import sample_models
from qlab.algorithms import REMEDIES, Repaired, repair_search
from qlab.algorithms.remedies import Suggestion
from qlab.errors import ArgumentError
from qlab.ranges import Fixed, TensorSpec

MAPPING = "int8-per-tensor"


def spread(model: nn.Module, seed: int = 0) -> nn.Module:
    """Makes channels of the layers differ by up to 100 times."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            axis = 1 if isinstance(module, nn.ConvTranspose2d) else 0
            shape = [1] * module.weight.ndim
            shape[axis] = -1
            size = module.weight.shape[axis]
            factors = 10 ** (2 * torch.rand(size, generator=generator) - 1)
            module.weight.data *= factors.reshape(shape)
    return model.eval().requires_grad_(False)


def lab_of(model: nn.Module, *shape: int) -> qlab.Lab:
    x = torch.randn(32, *shape, generator=torch.Generator().manual_seed(1))
    return qlab.Lab(model, (x[:1],), [x])


def equalized(lab: qlab.Lab, **settings) -> Repaired:
    return lab.repair_with("equalize", MAPPING, **settings)


def difference(lab: qlab.Lab, repaired: Repaired, x: Tensor) -> float:
    """Largest difference of the float outputs, relative to the largest output."""
    before, after = lab.graph(x), repaired.model(x)
    return float((before - after).abs().max() / before.abs().max())


class Block(nn.Module):
    """A residual branch with a projection, then one that keeps its input."""

    def __init__(self, relu: bool = True) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.left, self.right = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
        self.more, self.last = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 4, 1)
        self.act = nn.ReLU() if relu else nn.Hardswish()
        self.fc = nn.Linear(4 * 16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.stem(x))
        x = self.act(self.left(x) + self.right(x))
        x = self.act(x + self.more(x))
        return self.fc(torch.flatten(self.act(self.last(x)), 1))


def chain() -> nn.Module:
    """Every kind of layer that lets factors through or takes them in."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.LeakyReLU(0.1),
        nn.Conv2d(8, 12, 3, groups=4),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.ConvTranspose2d(12, 6, 2, stride=2, bias=False),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(6 * 4, 16),
        nn.Dropout(0.5),
        nn.ReLU(),
        nn.Linear(16, 4),
    )


@pytest.mark.parametrize("name", ["mlp", "conv_bn_relu", "residual"])
def test_networks_with_relu_compute_what_they_did(name):
    sample = sample_models.load(name)
    spread(sample.model)
    lab = qlab.Lab(sample.model, sample.example_inputs, sample.calibration(32))
    repaired = equalized(lab, absorb=False)
    assert repaired.report.layers.changed.any()
    assert difference(lab, repaired, sample.evaluation()[0][0]) < 1e-4
    assert difference(lab, equalized(lab), sample.calibration(32)[0]) < 1e-4


def test_every_kind_of_layer_computes_what_it_did():
    lab = lab_of(spread(chain()), 3, 6, 6)
    repaired = equalized(lab)
    assert not repaired.report.refusals
    assert repaired.report.layers.reason["14"] == (
        "takes the inverse factors of 11; its output stays: it is, or is added to, an output of "
        "the network"
    )
    assert difference(lab, repaired, torch.randn(16, 3, 6, 6)) < 1e-4
    assert repaired.report.gain("sqnr") > 1.5


@settings(max_examples=20)
@given(st.integers(0, 10_000), st.integers(1, 12), st.integers(1, 12))
def test_any_spread_is_moved_without_a_change(seed, inner, outer):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(5, inner), nn.ReLU(), nn.Linear(inner, outer))
    lab = lab_of(spread(model, seed), 5)
    assert difference(lab, equalized(lab), torch.randn(64, 5)) < 1e-4


def test_channels_fill_the_same_share_of_both_ranges():
    lab = lab_of(spread(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))), 6)
    state = equalized(lab).model.state_dict()
    writes, reads = state["0.0.weight"].abs().amax(1), state["2.weight"].abs().amax(0)
    torch.testing.assert_close(writes / writes.max(), reads / reads.max(), rtol=0.02, atol=0.001)


def test_residual_branches_share_their_factors():
    lab = lab_of(spread(Block()), 3, 4, 4)
    repaired = equalized(lab)
    assert difference(lab, repaired, torch.randn(16, 3, 4, 4)) < 1e-4
    table = repaired.report.layers
    assert table.loc["left"].reason == table.loc["right"].reason == table.loc["more"].reason
    assert "balanced with more, last" in table.loc["left"].reason
    assert table.loc["stem"].reason != table.loc["left"].reason


def test_what_cannot_be_scaled_is_refused_with_a_reason():
    lab = lab_of(spread(Block(relu=False)), 3, 4, 4)
    repaired = equalized(lab)
    reasons = repaired.report.refusals
    assert not repaired.report.layers.changed.any()
    assert "does not let factors of channels through" in reasons["stem"]
    assert "output of the network" in reasons["fc"]


class Odd(nn.Module):
    """Pairs that look like chains and are none."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Linear(4, 4) for _ in range(4))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        y = self.a(x)  # read by a layer and returned
        z = self.b(y) + x  # tied to the network's input
        return y, self.d(z), self.c(self.c(x))  # a layer that is called twice


def test_odd_pairs_are_refused():
    reasons = equalized(lab_of(Odd(), 4)).report.refusals
    assert "output of the network" in reasons["a"]
    assert "network's input 'x' is tied to it" in reasons["b"]
    assert "several times" in reasons["c"]


def test_a_linear_layer_that_reads_another_axis_is_refused():
    model = nn.Sequential(nn.Conv2d(1, 6, 1), nn.ReLU(), nn.Linear(6, 6))
    reasons = equalized(lab_of(model, 1, 6, 6)).report.refusals
    assert "another axis" in reasons["0"]


def test_all_layers_of_a_group_must_be_asked_for_and_be_free():
    lab = lab_of(spread(chain()), 3, 6, 6)
    report = lab.repair_with("equalize", MAPPING, ["0"]).report
    assert "tied to '2', which was not asked for" in report.refusals["0"]
    fixed = TensorSpec("qint8", True, policy=Fixed(0.1, 0))
    mapping = qlab.presets.get(MAPPING).mapping()
    qconfig = qlab.qconfig.qconfig_of(TensorSpec(), fixed)
    mapping.set_module_name("2", qconfig)
    report = lab.repair_with("equalize", mapping).report
    assert "the weights of '2' lie on a fixed grid already" in report.refusals["0"]


@pytest.fixture(scope="module")
def depthwise() -> qlab.Lab:
    sample = sample_models.load("depthwise")
    evaluation = sample.evaluation()
    return qlab.Lab(sample.model, sample.example_inputs, sample.calibration(), evaluation)


def test_the_depthwise_network_gets_its_accuracy_back_and_keeps_relu6(depthwise):
    repaired = equalized(depthwise)
    report = repaired.report
    assert report.before["accuracy"] < 50 and report.after["accuracy"] > 96
    (note,) = report.notes
    assert "ReLU6 kept" in note and "evaluation data" in note
    assert "5 of 24 channels stay, since ReLU6 clips them" in report.layers.reason["stem.conv"]
    x = torch.cat(sample_models.load("depthwise").calibration())
    assert difference(depthwise, repaired, x) < 1e-4
    corrected = depthwise.apply(repaired).repair_with("bias_correction", MAPPING)
    lost = report.before["float_accuracy"] - report.before["accuracy"]
    won = corrected.report.after["accuracy"] - report.before["accuracy"]
    assert won >= 0.9 * lost
    assert corrected.report.gain("sqnr") > 1


def test_replacing_relu6_is_said_and_compared_with_the_original(depthwise):
    report = equalized(depthwise, relu6="replace").report
    assert "ReLU6 became ReLU, which is another function, in stem.conv" in report.notes[0]
    assert report.notes[0] in report.describe()
    assert report.after["float_accuracy"] == report.before["float_accuracy"]
    assert report.after["accuracy"] < 50  # these channels were clipped for a reason


def test_what_replacing_relu6_costs_in_float_is_said(depthwise):
    repaired = equalized(depthwise, relu6="replace")
    right, seen = 0, 0
    with torch.no_grad():
        for batch in depthwise._evaluation_data:
            right += int((repaired.model(*batch.inputs).argmax(1) == batch.labels).sum())
            seen += batch.samples
    before = repaired.report.before["float_accuracy"]
    said = f"that alone, in float: accuracy {before:.1f} → {100 * right / seen:.1f} %, SQNR "
    assert repaired.report.notes[1].startswith(said)
    assert "its output differs by up to" in repaired.report.notes[1]


def test_biases_are_absorbed_where_relu6_was_replaced():
    model = absorbing(0)
    model[1] = nn.ReLU6()
    lab = lab_of(model, 2, 5, 5)
    kept, replaced = equalized(lab), equalized(lab, relu6="replace")
    assert "ReLU6 would clip elsewhere" in kept.report.layers.reason["0"]
    assert replaced.report.layers.absorbed["0"] > 1
    x = next(iter(lab._study.sources[0])).inputs[0]
    assert difference(lab, replaced, x) < 1e-4


def test_biases_are_absorbed_by_what_is_seen_without_the_clips():
    model = nn.Sequential(
        nn.Linear(1, 1), nn.ReLU6(), nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1)
    ).requires_grad_(False)
    values = (1.0, 0.0, -1.0, 20.0, 1.0, 0.0)
    for parameter, value in zip(model.parameters(), values, strict=True):
        parameter.fill_(value)
    x = torch.linspace(0, 18, 64)[:, None]  # the third layer gives 14 and more, or 2 without clip
    lab = qlab.Lab(model.eval(), (x[:1],), [x])
    report = equalized(lab, relu6="replace").report
    assert report.layers.absorbed["2"] == 0.0
    assert equalized(lab).report.layers.absorbed["2"] > 10


def test_relu6_that_never_clips_may_be_replaced():
    model = nn.Sequential(
        nn.Linear(6, 8), nn.ReLU6(), nn.Linear(8, 8), nn.Identity(), nn.ReLU6(), nn.Linear(8, 3)
    )
    spread(model)
    model[0].weight.data /= 50
    model[2].weight.data /= 500
    lab = lab_of(model, 6)
    for how in ("keep", "replace"):
        repaired = equalized(lab, relu6=how)
        assert difference(lab, repaired, torch.randn(64, 6) / 2) < 1e-4
        assert any("became ReLU" in note for note in repaired.report.notes) == (how == "replace")
        assert how == "replace" or "on 0 of" in repaired.report.notes[0]
        assert qlab.Lab(model, (torch.zeros(1, 6),), [torch.zeros(1, 6)]).layer("0").type
    lab.apply(repaired).compare(repaired.mapping)


def test_another_way_with_relu6_is_refused(depthwise):
    with pytest.raises(ArgumentError, match=r"relu6='keep' or relu6='replace'.*'drop'"):
        equalized(depthwise, relu6="drop")


def absorbing(padding: int) -> nn.Module:
    model = nn.Sequential(nn.Conv2d(2, 4, 1), nn.ReLU(), nn.Conv2d(4, 3, 3, padding=padding))
    model[0].weight.data *= 0.1
    model[0].bias.data = torch.tensor([3.0, 0.0, 2.0, -1.0])
    return model.eval().requires_grad_(False)


def test_biases_are_absorbed_where_nothing_falls_below_them():
    lab = lab_of(absorbing(0), 2, 5, 5)
    with_bias, without = equalized(lab), equalized(lab, absorb=False)
    x = next(iter(lab._study.sources[0])).inputs[0]
    assert difference(lab, with_bias, x) < 1e-4
    assert with_bias.report.layers.absorbed["0"] > 1
    ranges = []
    for repaired in (with_bias, without):
        stats = lab.apply(repaired).statistics("0")
        ranges.append(float(stats.max_val))
    assert ranges[0] < 0.6 * ranges[1]
    assert with_bias.report.after["sqnr"] > without.report.after["sqnr"]


def only_biases() -> nn.Module:
    """Channels that are balanced already, far above 0."""
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3)).requires_grad_(False)
    model[0].weight.fill_(0.5)
    model[2].weight.fill_(0.5)
    model[0].bias.fill_(20.0)
    return model.eval()


def test_a_repair_that_only_absorbs_biases_is_one(monkeypatch):
    lab = lab_of(only_biases(), 4)
    repaired = equalized(lab)
    table = repaired.report.layers
    assert table.factor_min["0"] == table.factor_max["0"] == 1.0
    assert table.changed.all() and table.absorbed["0"] > 10
    assert table.reason["2"].startswith("takes the absorbed biases of 0; ")
    row = Suggestion(REMEDIES["equalize"], (), None, None, 0.0)
    monkeypatch.setattr(repair_search, "suggestions", lambda *given: [row] if given[-1] else [])
    found = lab.repair(MAPPING, {"sqnr": repaired.report.after["sqnr"] - 0.1}, allowed=["equalize"])
    assert found.reached and [step.remedy for step in found.steps] == ["equalize"]


@pytest.mark.parametrize(("lowest", "absorbed"), [(10.0, 5.0), (4.0, 0.0)])
def test_a_quarter_of_a_channel_s_range_stays_for_data_not_seen(lowest, absorbed):
    model = nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1)).requires_grad_(False)
    for parameter, value in zip(model.parameters(), (1.0, lowest, 1.0, 0.0), strict=True):
        parameter.fill_(value)
    x = torch.linspace(0, 20, 32)[:, None]
    report = equalized(qlab.Lab(model.eval(), (x[:1],), [x])).report
    assert report.layers.absorbed["0"] == pytest.approx(absorbed)


def test_a_tenth_below_the_clip_stays_for_data_not_seen():
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU6(), nn.Linear(2, 1)).requires_grad_(False)
    model[0].weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 0.01]]))
    model[0].bias.zero_()
    model[2].weight.copy_(torch.tensor([[0.01, 1000.0]]))
    x = torch.stack([torch.linspace(0, 5, 32), torch.linspace(0, 500, 32)], 1)
    lab = qlab.Lab(model.eval(), (x[:1],), [x])
    repaired = equalized(lab)
    seen = repaired.model.get_submodule("0")(x).amax(0)
    assert float(seen[1]) == pytest.approx(6 / 1.1, rel=1e-3)
    x = torch.tensor([[5.0, 540.0]])  # above what calibration saw, within what is kept free
    torch.testing.assert_close(repaired.model(x), lab.graph(x))


def test_biases_are_not_absorbed_by_a_layer_that_pads():
    report = equalized(lab_of(absorbing(1), 2, 5, 5)).report
    assert "no bias absorbed: '2' pads with zeros" in report.layers.reason["0"]
    assert report.layers.absorbed["0"] == 0


def test_a_repaired_model_is_equalized_beside_its_reference():
    lab = lab_of(spread(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))), 6)
    corrected = lab.apply(lab.repair_with("bias_correction", MAPPING))
    repaired = equalized(corrected)
    x = torch.randn(32, 6)
    assert repaired.reference is not None and repaired.reference is not repaired.model
    torch.testing.assert_close(repaired.reference(x), lab.graph(x), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(repaired.model(x), corrected.graph(x), rtol=1e-4, atol=1e-4)
    better = corrected.apply(repaired)
    assert better.compare("fp8-e4m3" if "fp8-e4m3" in qlab.presets.PRESETS else None).complete


def test_cancelling_between_rounds_changes_nothing(depthwise):
    asked = iter([False] * 6)
    stopped = depthwise.repair_with("equalize", MAPPING, should_stop=lambda: next(asked, True))
    assert not stopped.report.complete and stopped.model is depthwise.graph
