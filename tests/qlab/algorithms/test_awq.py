"""AWQ: factors that protect weights of loud inputs, and cut ranges; the float function stays."""

import pytest
import torch
from torch import nn

import qlab
from qlab.errors import ArgumentError
from qlab.granularity import PerAxis, PerGroup, PerTensor
from qlab.qparams import fake_quantize
from qlab.ranges import Fixed, TensorSpec
from tests.qlab.algorithms.transformers import block_lab, vit_lab, weights_of


@pytest.fixture(scope="module")
def lab() -> qlab.Lab:
    return block_lab()


@pytest.fixture(scope="module")
def repaired(lab):
    return lab.repair_with("awq", weights_of(3))


@pytest.mark.parametrize("bits", [3, 4])
@pytest.mark.parametrize("granularity", [PerAxis(0), PerGroup(16)], ids=str)
def test_every_linear_layer_of_the_transformer_beats_rounding_to_nearest(bits, granularity):
    lab = vit_lab()
    mapping = weights_of(bits, granularity)
    linear = [layer.name for layer in lab.layers if layer.type.startswith("Linear")]
    report = lab.repair_with("awq", mapping, linear).report
    assert len(linear) == 13
    assert (report.layers.error_ratio < 1).all() and report.layers.error_ratio.median() < 0.85


def test_loud_inputs_are_divided_and_the_float_function_stays(lab, repaired):
    table = repaired.report.layers
    assert table.strength["a"] == table.strength["b"] > 0
    x = lab._evaluation_data._source[0]
    before, after = lab.graph(x), repaired.model(x)
    assert (before - after).norm() < 1e-4 * before.norm()
    ratio = repaired.model.get_submodule("a").weight / lab.graph.get_submodule("a").weight
    assert set(ratio[0].topk(2).indices.tolist()) == {2, 9}


def test_a_linear_layer_in_front_takes_factors_up_through_relu():
    torch.manual_seed(4)
    model = nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 16)).requires_grad_(False)
    model[0].weight[[2, 9]] *= 40
    model[2].weight[:, [2, 9]] *= 0.3
    x, mapping = torch.randn(80, 16), weights_of(3)
    lab = qlab.Lab(model, (x[:1],), [x], [x])
    repaired = lab.repair_with("awq", mapping)
    table = repaired.report.layers
    assert table.strength["2"] > 0 and "'0' takes them up" in table.reason["2"]
    torch.testing.assert_close(repaired.model(x), lab.graph(x), rtol=1e-4, atol=1e-4)
    # The error of the layer in front is told in the units that it had before its rows were divided.
    rows = (lab.weight("0") / lab.apply(repaired).weight("0")).median(1).values
    spec = repaired.mapping.module_name_qconfigs["0"].weight_spec
    scaled = lab.apply(repaired).weight("0")
    after = ((fake_quantize(scaled, spec.qparams_of(scaled)) - scaled) @ x.T).T * rows
    asked = lab.qparams("0", lab.plan(mapping).step("0").weight, "weight")
    before = x @ (fake_quantize(lab.weight("0"), asked) - lab.weight("0")).T
    ratio = after.double().square().sum() / before.double().square().sum()
    assert table.error_ratio["0"] == pytest.approx(float(ratio), rel=1e-3)
    assert rows.max() > 2 * rows.min()


def test_errors_are_those_of_the_layers_that_are_converted(lab, repaired):
    study = lab._study
    better = lab.apply(repaired)
    assert repaired.report.refusals == {}
    for name in ("a", "up", "down"):
        probe = study.probe(name)
        x = torch.cat([v[probe.inputs[0]] for v in study.float_values(probe)]).flatten(0, 1)
        asked = lab.qparams(name, lab.plan(weights_of(3)).step(name).weight, "weight")
        nearest = fake_quantize(lab.weight(name), asked) - lab.weight(name)
        before = (x @ nearest.T).double().square().sum()
        scaled = torch.cat(
            [v[probe.inputs[0]] for v in better._study.float_values(better._study.probe(name))]
        ).flatten(0, 1)
        spec = better.plan(repaired.mapping).step(name).weight
        weight = better.weight(name)
        change = fake_quantize(weight, spec.qparams_of(weight)) - weight
        after = (scaled @ change.T).double().square().sum()
        ratio = repaired.report.layers.error_ratio[name]
        assert ratio == pytest.approx(float(after / before), rel=0.02)
        assert ratio < 1


@pytest.mark.parametrize(
    "mapping",
    [weights_of(4), weights_of(3, PerGroup(8)), weights_of(4, activation=TensorSpec())],
    ids=["4 bits", "3 bits in groups", "W4A8"],
)
def test_converting_gives_exactly_the_integers_of_the_chosen_ranges(lab, mapping):
    layers = ["a", "b", "up", "down", "last"]
    repaired = lab.repair_with("awq", mapping, layers)
    better = lab.apply(repaired)
    converted = better.convert(repaired.mapping)
    cut = 0
    for name in layers:
        spec = better.plan(repaired.mapping).step(name).weight
        cut += isinstance(spec.policy, Fixed)
        held = converted.get_submodule(name).weight()
        expected = spec.qparams_of(better.weight(name))
        assert torch.equal(held.qparams.scale, expected.scale)
    assert cut > 2 and repaired.report.gain("sqnr") > 0
    assert better.compare(repaired.mapping).output == repaired.report.after


def test_convolutions_and_layers_that_cannot_be_scaled_have_their_ranges_cut(lab, repaired):
    reasons = repaired.report.layers.reason
    assert reasons["conv"].startswith("it is no linear layer; ")
    assert reasons["last"].startswith("'gelu', which makes its input, is not a layer norm, RMS")
    assert isinstance(repaired.mapping.module_name_qconfigs["last"].weight_spec.policy, Fixed)


def test_without_cut_ranges_policies_stay(lab):
    repaired = lab.repair_with("awq", weights_of(3), clip=False)
    assert repaired.mapping == weights_of(3)
    assert repaired.report.refusals["conv"] == "it is no linear layer"
    assert repaired.report.gain("sqnr") > 0


def test_refusals_have_reasons(lab):
    refused = lab.repair_with("awq", weights_of(4), ["a", "gelu"]).report
    assert refused.layers.reason["a"].startswith("it shares its input with 'b'")
    assert "no linear layer" in refused.refusals["gelu"]
    shared = weights_of(4, PerTensor())
    shared.set_module_name("down", weights_of(4).global_qconfig)
    report = lab.repair_with("awq", shared, ["up", "down"]).report
    assert report.layers.reason["down"].startswith("'up', before it, has one scale")
    rounded = lab.apply(lab.repair_with("gptq", weights_of(4), ["up"]))
    report = rounded.repair_with("awq", rounded.mapping).report
    assert report.layers.reason["down"].startswith("the weights of 'up', before it, lie on a fixed")
    assert "fixed grid already" in report.refusals["up"]


def test_float8_weights_are_scaled_and_not_cut(lab):
    report = lab.repair_with("awq", "float8").report
    assert "not evenly spaced" in report.layers.reason["conv"]


def test_scales_that_lie_elsewhere_keep_their_ranges():
    x = torch.randn(64, 6) * torch.logspace(0, 1, 6)
    model = nn.Sequential(nn.Linear(6, 4)).requires_grad_(False)
    lab = qlab.Lab(model, (x,), [x], [x])
    report = lab.repair_with("awq", weights_of(4, PerAxis(1))).report
    assert not report.layers.changed["0"] and "no cut of its ranges" in report.refusals["0"]


@pytest.mark.parametrize("name", ["tries", "samples", "rows"])
def test_settings_are_whole_and_positive(lab, name):
    with pytest.raises(ArgumentError, match=f"AWQ: {name} is a whole number of 1 or more"):
        lab.repair_with("awq", weights_of(4), **{name: 0})


def test_the_same_seed_gives_the_same(lab):
    mapping = weights_of(4, activation=TensorSpec())
    first, again = (lab.repair_with("awq", mapping, rows=16, seed=2) for _ in range(2))
    states = first.model.state_dict(), again.model.state_dict()
    assert all(torch.equal(t, states[1][name]) for name, t in states[0].items())
    assert first.mapping == again.mapping


@pytest.mark.parametrize("label", ["scaling the input of a", "cutting ranges of up"])
def test_cancelling_in_the_middle_leaves_everything_as_it_was(lab, label):
    told = []
    stopped = lab.repair_with(
        "awq",
        weights_of(4),
        on_progress=lambda *args: told.append(args[2]),
        should_stop=lambda: told[-1:] == [label],
    )
    assert not stopped.report.complete and stopped.model is lab.graph
    assert stopped.mapping == weights_of(4)


def test_gptq_follows_where_ranges_were_not_cut(lab, tmp_path):
    scaled = lab.apply(lab.repair_with("awq", weights_of(3), clip=False))
    rounded = scaled.repair_with("gptq", scaled.mapping)
    assert rounded.report.gain("sqnr") > 0
    best = scaled.apply(rounded)
    x = lab._evaluation_data._source[0]
    loaded = qlab.load_lab(best.save(tmp_path / "a.lab"), evaluation=[x])
    assert loaded.compare(loaded.mapping).output == rounded.report.after
    path = best.export(tmp_path / "model.safetensors", rounded.mapping)
    assert torch.equal(qlab.load_quantized(path)(x), best.convert(rounded.mapping)(x))
    best.export(tmp_path / "model.onnx", rounded.mapping)
