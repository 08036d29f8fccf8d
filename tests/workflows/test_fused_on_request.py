"""Sums behind convolutions and GELU behind linear layers, fused on request, in the whole engine."""

from contextlib import nullcontext
from pathlib import Path

import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import qlab
from qlab import ops
from qlab.nn.intrinsic import quantized as nniq
from qlab.qconfig import QConfigMapping, get_default_qconfig
from qlab.registry import ON_REQUEST, PATTERNS
from tests.qlab.graph.test_fuse import settled

X = torch.randn(16, 3, 6, 6, generator=torch.Generator().manual_seed(0))
FUSED = {"second": nniq.ConvAddReLU2d, "third": nniq.ConvAdd2d, "fc": nniq.LinearGELU}


class Network(nn.Module):
    """Residual blocks with and without ReLU and projection, then a linear layer with GELU."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.norm, self.side = nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)
        self.third, self.pool = nn.Conv2d(4, 4, 1), nn.AdaptiveAvgPool2d(1)
        self.fc, self.gelu, self.head = nn.Linear(4, 8), nn.GELU("tanh"), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        x = (self.norm(self.second(x)) + self.side(x)).relu()
        x = self.third(x) + x
        return self.head(self.gelu(self.fc(self.pool(x).flatten(1))))


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return settled(Network()).requires_grad_(False)


@pytest.fixture
def lab(model: nn.Module) -> qlab.Lab:
    return qlab.Lab(model, (X[:1],), [X], patterns=(*PATTERNS, *ON_REQUEST))


def kinds(made: nn.Module) -> dict[str, type[nn.Module]]:
    return {name: type(made.get_submodule(name)) for name in FUSED}


def test_a_lab_measures_them_as_layers(lab: qlab.Lab, model: nn.Module):
    made = lab.convert("int8")
    assert kinds(made) == FUSED
    layers = lab.compare("int8").layers
    assert list(layers.index) == ["first", "side", "second", "third", "fc", "head"]
    assert (layers.sqnr_local > 30).all()
    apart = qlab.Lab(model, (X[:1],), [X]).compare("int8").layers
    assert {"add", "add_1", "gelu"} <= set(apart.index)


def test_what_is_simulated_is_what_is_deployed(lab: qlab.Lab):
    table = lab.fidelity("int8").table
    assert set(FUSED) <= set(table.index)
    assert (table.max_steps_local[[*FUSED]] <= 1).all()
    assert (table.exact_local[[*FUSED]] > 0.99).all()


@pytest.mark.parametrize("part", ["add", "norm", "gelu"])
def test_who_names_a_part_alone_does_not_get_the_whole_in_integers(lab: qlab.Lab, part: str):
    name = {"add": "second", "norm": "second", "gelu": "fc"}[part]
    mapping = QConfigMapping().set_global(get_default_qconfig()).set_module_name(part, None)
    step = lab.plan(mapping).step(name)
    assert step.execution == "float" and f"{part!r}" in step.reason
    assert lab.plan(mapping).unmatched == ()
    assert kinds(lab.convert(mapping))[name] is not FUSED[name]


def test_exports(lab: qlab.Lab, tmp_path: Path):
    made = lab.convert("int8")
    wanted, step = made(X), float(made.get_submodule("head").scale)
    lab.export(tmp_path / "m.safetensors", "int8")
    back = qlab.load_quantized(tmp_path / "m.safetensors")
    assert kinds(back) == FUSED and torch.equal(back(X), wanted)
    assert back.code.count(".last_use(") == made.code.count(".last_use(") == 1
    lab.export(tmp_path / "m.onnx", "int8")
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {session.get_inputs()[0].name: X[:1].numpy()})
    assert (torch.from_numpy(y) - wanted[:1]).abs().max() <= 2.01 * step
    lab.export(tmp_path / "m.pt2", "int8")
    program = torch.export.load(tmp_path / "m.pt2").module()
    assert (program(X[:1]) - wanted[:1]).abs().max() <= 2.01 * step


def test_a_saved_lab_comes_back_fused(lab: qlab.Lab, tmp_path: Path):
    wanted = lab.convert("int8")(X)
    lab.save(tmp_path / "lab.qlab")
    again = qlab.load_lab(tmp_path / "lab.qlab", calibration=[X])
    made = again.convert("int8")
    assert kinds(made) == FUSED and torch.equal(made(X), wanted)
    mapping = QConfigMapping().set_global(get_default_qconfig()).set_module_name("add", None)
    assert again.plan(mapping).step("second").execution == "float"


@pytest.mark.parametrize("kernel", ["reference", None])
def test_kernels_agree(lab: qlab.Lab, kernel: str | None):
    made = lab.convert("int8")
    with ops.use("reference"):
        wanted = made(X)
    with ops.use(kernel) if kernel else nullcontext():
        assert torch.equal(made(X), wanted) and torch.equal(made(X), wanted)


def test_channels_of_different_size_do_not_move_through_a_sum(model: nn.Module):
    with torch.no_grad():
        for layer in (model.first, model.third, model.side):
            layer.weight.mul_(torch.logspace(-1, 1, 4).reshape(-1, 1, 1, 1))
    lab = qlab.Lab(model, (X[:1],), [X], patterns=(*PATTERNS, *ON_REQUEST))
    repaired = lab.repair_with("equalize", "int8-per-tensor")
    torch.testing.assert_close(repaired.model(X), lab.graph(X), rtol=1e-4, atol=1e-5)


def test_repairs_of_single_layers_leave_sums_out(lab: qlab.Lab):
    for name in ("bias_correction", "adaround"):
        report = lab.repair_with(name, "int8-per-tensor").report
        left = report.layers.loc[["second", "third"]]
        assert not left.changed.any() and left.reason.str.contains("one tensor alone").all()
