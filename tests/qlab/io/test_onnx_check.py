"""What the comparison with onnxruntime counts, and which files it refuses."""

import onnx
import pytest
import torch
from torch import nn

import qlab
from qlab.errors import ArgumentError, FormatError
from qlab.io.onnx_check import holds_integer_biases
from qlab.io.onnx_file import onnx_bytes
from qlab.io.portable import portable
from qlab.io.standalone import ATEN


@pytest.fixture(scope="module")
def lab() -> qlab.Lab:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 3)).eval()
    return qlab.Lab(model, torch.randn(1, 32), [torch.randn(64, 32)])


@pytest.fixture(scope="module")
def content(lab, tmp_path_factory) -> bytes:
    return lab.export(tmp_path_factory.mktemp("onnx") / "model.onnx", "int8").read_bytes()


@pytest.mark.parametrize("level", ["disable_all", "all"])
def test_a_file_agrees_with_the_model_it_was_made_from(lab, content, level):
    check = lab.check_onnx(content, "int8", level=level)
    assert check.most_local_steps <= 1
    assert check.output["within_one"] >= 0.99 and check.output["top1_agreement"] == 100.0
    assert check.totals("local")["codes"] == 64 * (32 + 16 + 3)
    assert (check.level, check.samples, check.complete) == (level, 64, True)
    assert "opset 25" in check.describe() and level in check.describe()


def test_another_scale_shows_at_the_tensor_and_in_what_follows(lab, content):
    proto = onnx.load_from_string(content)
    scale = next(t for t in proto.graph.initializer if t.name == "0.output_scale")
    wrong = onnx.numpy_helper.to_array(scale) * 0.5
    scale.CopyFrom(onnx.numpy_helper.from_array(wrong, scale.name))
    table = lab.check_onnx(proto.SerializeToString(), "int8").table
    first, last = table.index[1], table.index[-1]
    assert table.loc[first, "max_steps_local"] > 1
    assert table.loc[last, "max_steps_accumulated"] > 1
    assert table.loc[table.index[0], "max_steps_accumulated"] == 0


def test_stopping_early_says_so():
    model = nn.Sequential(nn.Linear(4, 2)).eval()
    many = qlab.Lab(model, torch.randn(1, 4), [torch.randn(8, 4)] * 3)
    written = onnx_bytes(many.convert("int8"), torch.randn(1, 4))
    seen = []
    check = many.check_onnx(
        written, "int8", on_progress=lambda *a: seen.append(a[:2]), should_stop=lambda: True
    )
    assert (check.complete, check.samples, seen) == (False, 8, [(1, 3)])


def test_what_is_no_onnx_is_refused(lab):
    with pytest.raises(FormatError, match="Not a valid ONNX file"):
        lab.check_onnx(b"not a protocol buffer", "int8")


def test_a_file_of_others_is_refused(lab, content):
    proto = onnx.load_from_string(content)
    del proto.metadata_props[:]
    with pytest.raises(FormatError, match="does not say which of its tensors"):
        lab.check_onnx(proto.SerializeToString(), "int8")


def test_a_file_of_another_model_is_refused(content):
    class Other(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unlike = nn.Linear(32, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.unlike(x)

    other = qlab.Lab(Other().eval(), torch.randn(1, 32), [torch.randn(8, 32)])
    with pytest.raises(FormatError, match="made from another model"):
        other.check_onnx(content, "int8")


def test_an_unknown_level_and_a_missing_file_are_refused(lab, content, tmp_path):
    with pytest.raises(ArgumentError, match="disable_all or basic"):
        lab.check_onnx(content, "int8", level="most")
    with pytest.raises(ArgumentError, match="cannot be read"):
        lab.check_onnx(tmp_path / "none.onnx", "int8")


def test_where_nothing_is_rounded_no_steps_are_claimed(lab):
    converted = lab.convert("int8-weights-only")
    check = lab.check_onnx(onnx_bytes(converted, lab.example_values), "int8-weights-only")
    assert "no tensor of codes to compare" in check.describe()
    assert "step" not in check.describe() and check.output["sqnr"] > 60.0


@pytest.mark.parametrize(
    "layer",
    [
        nn.AdaptiveAvgPool2d(1),
        nn.AvgPool2d(2, padding=1),
        nn.Upsample(scale_factor=2, mode="bilinear"),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_means_in_the_middle_between_two_codes_go_where_qlab_puts_them(layer):
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(), layer), torch.randn(16, 4, 8, 8)
    lab = qlab.Lab(model, x, [x])
    converted = lab.convert("int8")
    check = lab.check_onnx(onnx_bytes(converted, lab.example_values), "int8")
    assert check.table["exact_local"].iloc[-1] == 1.0
    codes = torch.randint(0, 256, (64, 4, 8, 8), dtype=torch.uint8)
    name = str(list(converted.graph.nodes)[-3].target)
    apart = portable(converted, ATEN)
    ours, theirs = (graph.get_submodule(name)(codes) for graph in (converted, apart))
    assert torch.equal(ours, theirs)


def test_an_exported_file_is_compared_with_the_model_as_measured_too(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 64)).eval()
    lab = qlab.Lab(model, torch.randn(1, 32), [torch.randn(2000, 32)])
    content = lab.export(tmp_path / "model.onnx", "int8").read_bytes()
    assert holds_integer_biases(content)
    check = lab.check_onnx(content, "int8")
    assert (check.table["exact_local"].iloc[1:] == 1.0).all()  # QuantizeLinear divides: it may tie
    assert check.output["sqnr"] > check.measured["sqnr"]
    assert 20.0 < check.measured["sqnr"] < 80.0 and check.measured["exact"] < 1.0
    assert "; beside the model with real biases" in check.describe()
    measured = lab.convert("int8")
    with torch.no_grad():
        x = next(iter(lab._evaluation_data)).inputs[0]
        theirs = lab.convert(qlab.presets.get("int8").mapping().set_integer_biases())(x)
        noise = (measured(x) - theirs).square().sum() / measured(x).square().sum()
    assert check.measured["sqnr"] == pytest.approx(-10 * float(noise.log10()), abs=0.5)


def test_a_configuration_with_integer_biases_is_its_own_measure(lab, content):
    mapping = qlab.presets.get("int8").mapping().set_integer_biases()
    check = lab.check_onnx(content, mapping)
    assert not check.measured and check.output["exact"] == 1.0
    assert "real biases" not in check.describe()


def test_a_file_with_real_biases_is_compared_with_them_alone(lab):
    written = onnx_bytes(lab.convert("int8"), lab.example_values)
    assert not holds_integer_biases(written)
    check = lab.check_onnx(written, "int8")
    assert not check.measured and check.most_local_steps <= 1


def test_whether_a_file_has_integer_biases_is_asked_of_onnx_alone(tmp_path):
    with pytest.raises(FormatError, match="Not a valid ONNX file"):
        holds_integer_biases(b"no protocol buffer")
    with pytest.raises(ArgumentError, match="The ONNX file cannot be read"):
        holds_integer_biases(tmp_path / "absent.onnx")
