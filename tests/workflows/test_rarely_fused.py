"""Fused modules that the reference has for one engine only, in both workflows and exported."""

from pathlib import Path

import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import qlab
import qlab.nn.intrinsic as nni
import qlab.nn.intrinsic.quantized as nniq
from qlab import quantization
from qlab.errors import UnsupportedError
from qlab.quantization.quantize_fx import convert_fx, prepare_fx

FUSED = {
    "sum": nniq.ConvAddReLU2d,
    "plain_sum": nniq.ConvAdd2d,
    "tanh": nniq.LinearTanh,
    "leaky": nniq.LinearLeakyReLU,
}
X = torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(3))


class Network(nn.Module):
    """Fused modules as their users build them, between stubs."""

    def __init__(self) -> None:
        super().__init__()
        self.quant, self.dequant = quantization.QuantStub(), quantization.DeQuantStub()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.sum = nni.ConvAddReLU2d(nn.Conv2d(4, 4, 3, padding=1), torch.add, nn.ReLU())
        self.plain_sum = nni.ConvAdd2d(nn.Conv2d(4, 4, 1), torch.add)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.tanh = nni.LinearTanh(nn.Linear(4, 5), nn.Tanh())
        self.leaky = nni.LinearLeakyReLU(nn.Linear(5, 5), nn.LeakyReLU(0.2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(self.quant(x))
        y = self.plain_sum(self.sum(x, x), x)
        return self.dequant(self.leaky(self.tanh(self.pool(y).flatten(1))))


def check(made: nn.Module, model: nn.Module) -> None:
    assert {name: type(made.get_submodule(name)) for name in FUSED} == FUSED
    error = (made(X) - model(X)).norm() / model(X).norm()
    assert error < 0.05


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return Network().eval()


def test_eager(model: nn.Module):
    model.qconfig = quantization.get_default_qconfig("x86")
    prepared = quantization.prepare(model)
    prepared(X)
    check(quantization.convert(prepared), model)


def test_graph_and_what_it_is_exported_to(model: nn.Module, tmp_path: Path):
    prepared = prepare_fx(model, quantization.get_default_qconfig_mapping(), (X,))
    prepared(X)
    made = convert_fx(prepared)
    check(made, model)
    lab = qlab.Lab(model, X, [X])
    lab.calibrate()
    lab.export(tmp_path / "m.safetensors", None)
    back = qlab.load_quantized(tmp_path / "m.safetensors")
    assert torch.equal(back(X), lab.convert(None)(X))
    lab.export(tmp_path / "m.onnx", None)
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {session.get_inputs()[0].name: X.numpy()})
    step = float(back.get_submodule("leaky").scale)
    assert (torch.from_numpy(y) - back(X)).abs().max() <= 2.01 * step


def test_a_sum_left_in_float_is_no_part_of_a_checkpoint(model: nn.Module, tmp_path: Path):
    lab = qlab.Lab(model, X, [X])
    lab.calibrate()
    mapping = quantization.get_default_qconfig_mapping().set_module_name("sum", None)
    with pytest.raises(UnsupportedError, match=r"'sum' cannot be saved.*ConvAddReLU2d"):
        lab.export(tmp_path / "m.safetensors", mapping)
