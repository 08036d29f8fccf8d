"""SmoothQuant: outliers behind norms move into the weights; the float function stays."""

import pytest
import torch
from torch import nn

import qlab
from qlab.errors import ArgumentError
from qlab.qconfig import QConfigMapping, default_dynamic_qconfig, qconfig_of
from qlab.ranges import Fixed, TensorSpec
from tests.qlab.algorithms.transformers import block_lab, vit_lab, weights_of


@pytest.fixture(scope="module")
def lab() -> qlab.Lab:
    return block_lab()


@pytest.fixture(scope="module")
def repaired(lab):
    return lab.repair_with("smoothquant", "int8-minmax")


@pytest.fixture(scope="module")
def outliers() -> qlab.Lab:
    return vit_lab(outliers=True)


def test_it_wins_back_what_outliers_behind_norms_cost(outliers):
    x = outliers._evaluation_data._source[0][0]
    plain = vit_lab().graph(x)
    assert (outliers.graph(x) - plain).norm() < 1e-4 * plain.norm()  # the injection is no change
    report = outliers.repair_with("smoothquant", "int8").report
    assert report.gain("sqnr") > 6
    changed = report.layers[report.layers.changed]
    assert len(changed) == 8 and (changed.error_ratio < 0.2).all()
    assert (changed.factor_max > 10 * changed.factor_min).all()


@pytest.mark.parametrize("norm", [nn.LayerNorm(16), nn.RMSNorm(16), nn.LayerNorm(16, bias=False)])
def test_the_float_network_computes_the_same(norm):
    torch.manual_seed(3)
    norm.weight.data = torch.randn(16) * torch.logspace(-1, 1, 16)
    lab = block_lab(norm)
    repaired = lab.repair_with("smoothquant", "int8-minmax")
    x = lab._evaluation_data._source[0]
    before, after = lab.graph(x), repaired.model(x)
    assert (before - after).norm() < 1e-4 * before.norm()
    assert repaired.report.layers.changed["a"]
    scaled = repaired.model.get_submodule("a").weight / lab.graph.get_submodule("a").weight
    assert scaled[0].max() > 2 * scaled[0].min()  # and is not the same network


def test_layers_that_share_an_input_are_scaled_together(lab, repaired):
    table = repaired.report.layers
    assert table.strength["a"] == table.strength["b"]
    assert "'norm' takes them up" in table.reason["a"]
    factors = [
        (repaired.model.get_submodule(n).weight / lab.graph.get_submodule(n).weight)[0]
        for n in ("a", "b")
    ]
    torch.testing.assert_close(*factors)
    assert repaired.mapping == qlab.presets.get("int8-minmax").mapping()
    assert repaired.report.samples == 48


def test_refusals_have_reasons(lab, repaired):
    refused = repaired.report.refusals
    assert refused["conv"] == "it is no linear layer"
    assert refused["last"] == "'gelu', which makes its input, is not a layer norm or RMS norm"
    report = lab.repair_with("smoothquant", "int8", ["a"]).report
    assert report.refusals["a"] == "it shares its input with 'b', which was not asked for"
    report = lab.repair_with("smoothquant", weights_of(4)).report
    assert report.refusals["a"] == "its input stays in float" and report.samples == 0
    only = weights_of(8, activation=TensorSpec())
    only.set_module_name("a", None).set_module_name("b", None)
    said = lab.repair_with("smoothquant", only, ["a"]).report.refusals["a"]
    assert said.startswith("its weight stays in float: ")


def test_what_is_fixed_already_is_left_alone(lab):
    rounded = lab.apply(lab.repair_with("gptq", "int4-weights"))
    refused = rounded.repair_with("smoothquant", rounded.mapping).report.refusals
    assert "fixed grid already" in refused["a"]
    fixed = QConfigMapping().set_global(
        qconfig_of(TensorSpec(policy=Fixed(0.1, 128)), TensorSpec.int8_weight())
    )
    refused = lab.repair_with("smoothquant", fixed).report.refusals
    assert refused["b"] == "the input of 'a' has a fixed scale already"


def test_a_layer_in_float_is_scaled_along_with_its_neighbour(lab):
    mapping = qlab.presets.get("int8-minmax").mapping().set_module_name("b", None)
    repaired = lab.repair_with("smoothquant", mapping)
    x = lab._evaluation_data._source[0]
    assert repaired.report.layers.changed["a"] and "b" not in repaired.report.layers.index
    assert (repaired.model(x) - lab.graph(x)).norm() < 1e-4 * lab.graph(x).norm()


def test_where_nothing_is_gained_nothing_changes():
    lab = block_lab(nn.LayerNorm(16))
    with torch.no_grad():
        repaired = lab.repair_with("smoothquant", "int16-activations", strength=1.0)
    assert repaired.report.refusals["a"] == ("its input stays as it is: no factors lower the error")
    assert repaired.report.layers.error_ratio["a"] == 1
    assert repaired.reference is None


def test_dynamic_layers_are_smoothed_for_the_type_that_their_input_gets():
    dynamic = QConfigMapping().set_global(default_dynamic_qconfig)
    lab = block_lab()
    report = lab.repair_with("smoothquant", dynamic).report
    assert report.layers.changed["a"] and report.gain("sqnr") > 1


def test_the_seed_draws_the_rows(lab, repaired):
    few = [lab.repair_with("smoothquant", "int8-minmax", rows=8, seed=s) for s in (0, 0, 1)]
    ratios = [f.report.layers.error_ratio["a"] for f in few]
    assert ratios[0] == ratios[1] != ratios[2]
    again = lab.repair_with("smoothquant", "int8-minmax").model.state_dict()
    assert all(torch.equal(t, again[n]) for n, t in repaired.model.state_dict().items())


@pytest.mark.parametrize("name", ["tries", "samples", "rows"])
def test_settings_are_whole_and_positive(lab, name):
    with pytest.raises(ArgumentError, match=f"SmoothQuant: {name} is a whole number"):
        lab.repair_with("smoothquant", "int8", **{name: 0})
    with pytest.raises(ArgumentError, match="strength lies between 0 and 1"):
        lab.repair_with("smoothquant", "int8", strength=1.5)


def test_cancelling_in_the_middle_leaves_everything_as_it_was(lab):
    told = []
    stopped = lab.repair_with(
        "smoothquant",
        "int8",
        on_progress=lambda *args: told.append(args[2]),
        should_stop=lambda: told[-1:] == ["smoothing norm"],
    )
    assert not stopped.report.complete and stopped.model is lab.graph


def test_the_repaired_model_is_saved_and_exported(lab, repaired, tmp_path):
    better = lab.apply(repaired)
    x = lab._evaluation_data._source[0]
    loaded = qlab.load_lab(better.save(tmp_path / "a.lab"), evaluation=[x])
    assert loaded.compare(loaded.mapping).output == repaired.report.after
    expected = better.convert(repaired.mapping)(x)
    path = better.export(tmp_path / "model.safetensors", repaired.mapping)
    assert torch.equal(qlab.load_quantized(path)(x), expected)
    better.export(tmp_path / "model.onnx", repaired.mapping)


def test_it_follows_a_repair_that_changed_the_function(lab):
    corrected = lab.apply(lab.repair_with("bias_correction", "int8-minmax"))
    smoothed = corrected.repair_with("smoothquant", corrected.mapping)
    x, y = lab._evaluation_data._source[0], lab.graph
    assert smoothed.report.layers.changed["a"] and smoothed.reference is not smoothed.model
    assert (smoothed.reference(x) - y(x)).norm() < 1e-4 * y(x).norm()
    assert (smoothed.model(x) - corrected.graph(x)).norm() < 1e-4 * y(x).norm()
    assert (corrected.graph(x) - y(x)).norm() > 1e-3 * y(x).norm()
