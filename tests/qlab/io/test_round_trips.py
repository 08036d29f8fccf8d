"""Every sample model goes out in every form and does there what it did here."""

import pytest
import torch
from torch import nn

import qlab
import sample_models
from qlab import PerGroup, QConfigMapping, TensorSpec, qconfig_of
from qlab.analysis.batches import Batches
from qlab.dtypes import integer
from qlab.io.checkpoint import load_quantized
from qlab.io.onnx_check import check_onnx
from qlab.io.onnx_file import onnx_bytes
from qlab.io.standalone import pt2_bytes
from tests.alone import run_alone

TRAINED = sample_models.names(trained=True)
ALL = sample_models.names()
UNTRAINED = tuple(name for name in ALL if name not in TRAINED)
LINEAR_AND_CONV = ("mlp", "conv_bn_relu", "residual", "depthwise", "resnet18", "mobilenet_v2")
LABS: dict[str, tuple[qlab.Lab, torch.Tensor]] = {}


def _lab(name: str) -> tuple[qlab.Lab, torch.Tensor]:
    """A sample model; networks for photographs see corners of a few."""
    if name not in LABS:
        sample = sample_models.load(name)
        images = torch.cat(sample.calibration(64 if name in TRAINED else 8))[..., :64, :64]
        LABS[name] = qlab.Lab(sample.model, images[:1], [images]), images
    return LABS[name]


def _groups_of_four_bits() -> QConfigMapping:
    weight = TensorSpec(integer(4, signed=True), symmetric=True, granularity=PerGroup(32))
    return QConfigMapping().set_global(qconfig_of(None, weight))


@pytest.mark.parametrize("name", ALL)
def test_checkpoint_and_recipe(name, tmp_path):
    lab, images = _lab(name)
    read = load_quantized(lab.export(tmp_path / "model.safetensors", "int8"))
    with torch.no_grad():
        assert torch.equal(read(images), lab.convert("int8")(images))
    recipe = lab.export(tmp_path / "recipe.json", "int8").read_text()
    again = lab.convert(QConfigMapping.from_json(recipe))
    with torch.no_grad():
        assert torch.equal(again(images), read(images))


@pytest.mark.parametrize("name", ALL)
def test_onnx_in_onnxruntime(name, tmp_path):
    """As exported, biases are integers in both, and linear and convolution give equal codes."""
    lab, _ = _lab(name)
    path = lab.export(tmp_path / "model.onnx", "int8")
    check = lab.check_onnx(path, "int8")
    assert check.most_local_steps <= 1
    assert check.output["top1_agreement"] == 100.0
    if name in LINEAR_AND_CONV:
        assert check.totals("accumulated")["codes"] and check.output["exact"] == 1.0
        assert check.output["within_one"] >= 0.99
    assert {"sqnr", "top1_agreement"} <= check.measured.keys()


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_real_biases_are_what_differs_in_large_networks(name):
    """Random weights carry a code that moves by one step on to many."""
    lab, images = _lab(name)
    converted = lab.convert("int8")
    data = [Batches([images], 1, lab.device, "images")]
    check = check_onnx(onnx_bytes(converted, lab.example_values), converted, data)
    totals = check.totals("local")
    assert check.most_local_steps <= 1 and not check.measured
    assert 5e-5 * totals["codes"] < totals["off_by_1"] < 2e-3 * totals["codes"]


@pytest.mark.parametrize("name", TRAINED)
def test_integer_biases_go_out_and_come_back(name, tmp_path):
    lab, images = _lab(name)
    mapping = qlab.presets.get("int8").mapping().set_integer_biases()
    converted = lab.convert(mapping)
    assert any(getattr(module, "integer_bias", False) for module in converted.modules())
    read = load_quantized(lab.export(tmp_path / "model.safetensors", mapping))
    recipe = QConfigMapping.from_json(lab.export(tmp_path / "recipe.json", mapping).read_text())
    found = run_alone(lab.export(tmp_path / "model.pt2", mapping).read_bytes(), images, tmp_path)
    with torch.no_grad():
        expected = converted(images)
        assert torch.equal(read(images), expected)
        assert torch.equal(lab.convert(recipe)(images), expected)
    assert torch.equal(found.argmax(1), expected.argmax(1))
    assert (found - expected).square().sum() < 1e-3 * expected.square().sum()
    steps = lab.fidelity(mapping)
    assert steps.table["max_steps_local"].max() <= 1


@pytest.mark.parametrize("name", UNTRAINED)
def test_a_large_network_as_a_program_without_qlab(name, tmp_path):
    lab, images = _lab(name)
    found = run_alone(lab.export(tmp_path / "model.pt2", "int8").read_bytes(), images, tmp_path)
    with torch.no_grad():
        expected = lab.convert("int8")(images)
    assert (found - expected).square().sum() < 0.01 * expected.square().sum()


@pytest.mark.parametrize("name", TRAINED)
def test_a_program_without_qlab(name, tmp_path):
    """Within one step of the output: float sums are not exact, and means tie."""
    lab, images = _lab(name)
    converted = lab.convert("int8")
    found = run_alone(lab.export(tmp_path / "model.pt2", "int8").read_bytes(), images, tmp_path)
    with torch.no_grad():
        expected = converted(images)
    step = converted.get_submodule(_last_module(converted)).input_qparams[0].scale_value
    assert (found - expected).abs().max() <= 1.001 * step
    assert torch.equal(found.argmax(1), expected.argmax(1))
    assert len(found) == 64  # its example was one image


def _last_module(graph: torch.fx.GraphModule) -> str:
    output = next(node for node in graph.graph.nodes if node.op == "output")
    return str(output.all_input_nodes[0].target)


@pytest.mark.parametrize(
    "mapping", ["int4-weights", "float8", "int8-weights-only", _groups_of_four_bits()],
    ids=["int4", "float8", "weights", "int4-groups"],
)  # fmt: skip
def test_other_widths_as_onnx_and_program(mapping, tmp_path):
    lab, images = _lab("mlp")
    converted = lab.convert(mapping)
    with torch.no_grad():
        expected = converted(images)
    check = lab.check_onnx(onnx_bytes(converted, lab.example_values), mapping)
    assert check.most_local_steps <= 1
    assert check.output["top1_agreement"] == 100.0 and check.output["sqnr"] > 40.0
    found = run_alone(pt2_bytes(converted, lab.example_values), images, tmp_path)
    assert torch.equal(found.argmax(1), expected.argmax(1))
    assert (found - expected).abs().max() < 0.02 * expected.abs().max()


class Masked(nn.Module):
    """Called by name, in another order than its arguments stand."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x, scale=2.0, *, mask=None):
        return self.linear(x).masked_fill(mask == 0, -1.0) * scale


def test_a_program_without_qlab_takes_the_keywords_of_its_example(tmp_path):
    torch.manual_seed(0)
    inputs = {"mask": torch.randint(0, 2, (4, 8)), "x": torch.randn(4, 8)}
    lab = qlab.Lab(Masked().eval(), inputs, [inputs])
    found = run_alone(lab.export(tmp_path / "model.pt2", "int8").read_bytes(), inputs, tmp_path)
    with torch.no_grad():
        assert torch.allclose(found, lab.convert("int8")(inputs["x"], inputs["mask"]), atol=1e-6)
