"""GPTQ: codes that make up for each other's errors, on the grid that is converted."""

import pytest
import torch
from torch import nn

import qlab
import sample_models
from qlab.errors import ArgumentError
from qlab.granularity import PerAxis, PerGroup, PerTensor
from qlab.qconfig import QConfigMapping
from qlab.qparams import dequantize, quantize
from qlab.ranges import Fixed, TensorSpec
from tests.qlab.algorithms.transformers import block_lab, vit_lab, weights_of

W4A8 = weights_of(4, activation=TensorSpec())


@pytest.fixture(scope="module")
def lab() -> qlab.Lab:
    return block_lab()


@pytest.fixture(scope="module")
def repaired(lab):
    return lab.repair_with("gptq", W4A8)


@pytest.mark.parametrize("bits", [3, 4])
@pytest.mark.parametrize("sample", ["vit", "mlp"])
def test_every_linear_layer_of_the_samples_beats_rounding_to_nearest(sample, bits):
    lab = vit_lab()
    if sample == "mlp":
        found = sample_models.load("mlp")
        lab = qlab.Lab(found.model, found.example_inputs, found.calibration(64), found.evaluation())
    report = lab.repair_with("gptq", weights_of(bits)).report
    linear = [layer.name for layer in lab.layers if layer.type.startswith("Linear")]
    assert len(linear) > 2
    ratios = report.layers.error_ratio[linear]
    assert (ratios < 0.7).all() and ratios.median() < 0.4
    assert report.gain("sqnr") > 2


def test_its_error_is_what_the_layer_gives_on_the_data(lab):
    """The first layer of a network with float activations reads the same either way."""
    mapping = weights_of(3)
    repaired = lab.repair_with("gptq", mapping, ["conv"])
    row = repaired.report.layers.loc["conv"]
    before = lab.compare(mapping).layers.sqnr_local["conv"]
    assert row.layer_sqnr_learned > row.layer_sqnr_nearest
    layer = lab.graph.get_submodule("conv")
    x = torch.cat(list(lab._study.sources[0]._source))
    noise = repaired.model.get_submodule("conv")(x) - layer(x)
    signal = layer(x) - layer.bias[:, None]
    measured = 10 * torch.log10(signal.double().square().sum() / noise.double().square().sum())
    assert row.layer_sqnr_learned == pytest.approx(float(measured), abs=1e-3)
    assert row.layer_sqnr_nearest == pytest.approx(before, abs=1.5)  # bias and data differ


@pytest.mark.parametrize(
    "mapping",
    [W4A8, weights_of(3, PerGroup(4)), weights_of(2, PerTensor()), weights_of(4, PerAxis(0))],
    ids=["W4A8", "3 bits in groups", "2 bits per tensor", "4 bits"],
)
def test_converting_gives_exactly_the_integers_that_were_chosen(lab, mapping):
    layers = [n for n in ("conv", "a", "b", "up", "down", "last") if n != "conv" or mapping is W4A8]
    repaired = lab.repair_with("gptq", mapping, layers)
    better = lab.apply(repaired)
    converted, plan = better.convert(repaired.mapping), better.plan(repaired.mapping)
    for name in layers:
        weight, spec = better.weight(name), plan.step(name).weight
        assert isinstance(spec.policy, Fixed)
        held = converted.get_submodule(name).weight()
        assert torch.equal(dequantize(held.codes, held.qparams), weight)
        assert torch.equal(held.codes, quantize(weight, held.qparams).to(held.codes.dtype))
    again = better.compare(QConfigMapping.from_json(repaired.mapping.to_json()))
    assert again.output == repaired.report.after
    assert repaired.report.gain("sqnr") > 0


def test_without_the_search_of_ranges_the_grid_is_the_one_asked_for(lab):
    plain = lab.repair_with("gptq", W4A8, ["a", "up", "down", "last"], clip=False)
    asked = lab.plan(W4A8)
    for name in plain.report.layers.index:
        spec = plain.mapping.module_name_qconfigs[name].weight_spec
        qparams = lab.qparams(name, asked.step(name).weight, "weight")
        assert torch.equal(torch.tensor(spec.policy.scales), qparams.scale.flatten())
    assert (plain.report.layers.error_ratio < 1).all()


def test_what_nothing_improves_stays_rounded_to_nearest():
    layer = nn.Linear(4, 2, bias=False)
    layer.weight.data = torch.tensor([[7.0, -7.0, 1.0, 0.0], [3.0, 2.0, 7.0, -7.0]])
    x = torch.randn(32, 4)
    model = nn.Sequential(layer).requires_grad_(False)
    report = qlab.Lab(model, (x,), [x], [x]).repair_with("gptq", weights_of(4)).report
    (row,) = report.layers.itertuples()
    assert row.reason == "rounded to nearest, which nothing found improved"
    assert row.error_ratio == 1 or row.layer_sqnr_nearest == row.layer_sqnr_learned


def test_nothing_is_random(lab, repaired):
    again = lab.repair_with("gptq", W4A8, seed=5)
    states = repaired.model.state_dict(), again.model.state_dict()
    assert all(torch.equal(t, states[1][name]) for name, t in states[0].items())
    assert again.mapping == repaired.mapping


def test_refusals_have_reasons(lab, repaired):
    report = lab.repair_with("gptq", "float8").report
    assert "not evenly spaced" in report.refusals["a"]
    twice = lab.apply(repaired).repair_with("gptq", repaired.mapping).report
    assert "fixed grid already" in twice.refusals["down"]
    kept = W4A8.copy().set_module_name("a", None)
    report = lab.repair_with("gptq", kept, ["a", "gelu"]).report
    assert report.refusals["a"].startswith("its weight stays in float: ")
    assert report.refusals["gelu"].startswith("it is no linear layer")
    x = torch.randn(8, 2, 5, 5)
    model = nn.Sequential(nn.ConvTranspose2d(2, 3, 2)).requires_grad_(False)
    report = qlab.Lab(model, (x,), [x], [x]).repair_with("gptq", "int4-weights").report
    assert "transposed convolution" in report.refusals["0"]


def test_moments_that_cannot_be_inverted_leave_the_layer_as_it_was(lab, monkeypatch):
    def failing(hessian):
        return hessian, torch.ones(len(hessian), dtype=torch.int32)

    monkeypatch.setattr(torch.linalg, "cholesky_ex", failing)
    report = lab.repair_with("gptq", W4A8, ["a"]).report
    assert "cannot be inverted" in report.refusals["a"]


@pytest.mark.parametrize("name", ["samples", "damping"])
def test_settings_must_be_positive(lab, name):
    with pytest.raises(ArgumentError, match=f"GPTQ: {name} must be positive"):
        lab.repair_with("gptq", W4A8, **{name: 0})


def test_cancelling_in_the_middle_leaves_everything_as_it_was(lab):
    lab.compare(W4A8)
    told = []

    def stop() -> bool:
        return sum("rounding" in label for label in told) == 4

    stopped = lab.repair_with(
        "gptq", W4A8, on_progress=lambda *args: told.append(args[2]), should_stop=stop
    )
    assert not stopped.report.complete and stopped.model is lab.graph
    assert stopped.mapping == W4A8


def test_the_repaired_model_is_saved_exported_and_written_as_onnx(lab, repaired, tmp_path):
    better = lab.apply(repaired)
    x = lab._evaluation_data._source[0]
    expected = better.convert(repaired.mapping)(x)
    loaded = qlab.load_lab(better.save(tmp_path / "a.lab"), evaluation=[x])
    assert loaded.compare(loaded.mapping).output == repaired.report.after
    path = better.export(tmp_path / "model.safetensors", repaired.mapping)
    assert torch.equal(qlab.load_quantized(path)(x), expected)
    better.export(tmp_path / "model.onnx", repaired.mapping)
    assert (tmp_path / "model.onnx").stat().st_size > 0
