"""Each kind of configuration goes out as a program and as ONNX, or is refused before writing."""

import pytest
import torch
from torch import nn

import qlab
from qlab import PerGroup, QConfigMapping, TensorSpec, presets, qconfig_of
from qlab.dtypes import integer
from qlab.errors import ArgumentError, QlabError
from qlab.quantization import default_dynamic_qconfig

_INT4 = TensorSpec(integer(4, signed=True), symmetric=True, granularity=PerGroup(8))
_INT16 = TensorSpec(integer(16, signed=True), symmetric=True)
CONFIGURATIONS = {
    "int8": presets.get("int8").mapping(),
    "int4 groups": QConfigMapping().set_global(qconfig_of(None, _INT4)),
    "int16": QConfigMapping().set_global(qconfig_of(_INT16, TensorSpec.int8_weight())),
    "float8": presets.get("float8").mapping(),
    "dynamic": QConfigMapping().set_object_type(nn.Linear, default_dynamic_qconfig),
}
#: What a file cannot hold: the input's scale of each call is no operator of ONNX's here.
REFUSED = {("dynamic", ".onnx")}


def _chain() -> tuple[nn.Module, torch.Tensor]:
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)), torch.randn(32, 8)


def _convolutions() -> tuple[nn.Module, torch.Tensor]:
    layers = nn.Conv2d(8, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    return nn.Sequential(*layers), torch.randn(8, 8, 6, 6)


@pytest.mark.parametrize("build", [_chain, _convolutions])
@pytest.mark.parametrize("name", CONFIGURATIONS)
@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
def test_works_or_says_why_and_writes_nothing(build, name, suffix, tmp_path):
    torch.manual_seed(0)
    model, x = build()
    lab = qlab.Lab(model.eval(), x[:2], [x])
    mapping, path = CONFIGURATIONS[name], tmp_path / f"model{suffix}"
    path.write_bytes(b"before")
    try:
        lab.export(path, mapping)
    except QlabError as error:
        assert (name, suffix) in REFUSED and "has no form of" in error.problem
        assert [*tmp_path.iterdir()] == [path] and path.read_bytes() == b"before"
        return
    assert (name, suffix) not in REFUSED and [*tmp_path.iterdir()] == [path]
    with torch.no_grad():
        expected = lab.convert(mapping)(x)
    if suffix == ".onnx":
        assert lab.check_onnx(path, mapping).output["sqnr"] > 25.0
        return
    with torch.no_grad():
        found = torch.export.load(path).module()(x)
    assert (found - expected).square().sum() < 1e-3 * expected.square().sum()


@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
def test_a_folder_in_the_place_of_the_file(suffix, tmp_path):
    model, x = _chain()
    (tmp_path / f"model{suffix}").mkdir()
    with pytest.raises(ArgumentError, match=r"a file's path.*a folder"):
        qlab.Lab(model.eval(), x[:2], [x]).export(tmp_path / f"model{suffix}", "int8")
    assert [path.name for path in tmp_path.rglob("*")] == [f"model{suffix}"]


def test_a_folder_that_may_not_be_written_to(tmp_path, monkeypatch):
    """As the system answers, since the suite may run as one who may write everywhere."""

    def denied(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    model, x = _chain()
    lab = qlab.Lab(model.eval(), x[:2], [x])
    monkeypatch.setattr("qlab.io.files.os.open", denied)
    with pytest.raises(ArgumentError, match=r"may be written to.*Permission denied"):
        lab.export(tmp_path / "recipe.json", "int8")
    assert [*tmp_path.iterdir()] == []
