"""Whole networks by Triton's kernels: the integers of the reference kernels on the CPU."""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import qlab
from qlab import ops
from qlab.graph import convert_fx, prepare_fx


class Net(nn.Module):
    """Convolutions of all kinds that Triton has, an addition, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.pointwise = nn.Conv2d(8, 8, 1)
        self.pool, self.head = nn.AdaptiveAvgPool2d(1), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.first(x)).relu()
        x = x + self.pointwise(self.depthwise(x).relu())
        return self.head(self.pool(x).flatten(1))


@pytest.fixture
def converted() -> nn.Module:
    x = torch.randn(4, 3, 6, 6)
    prepared = prepare_fx(Net().eval(), "int8", x)
    prepared(x)
    return convert_fx(prepared)


def by_triton(model: nn.Module, x: Tensor, device: torch.device) -> Tensor:
    """What a network gives on a device, checked: which kernels ran."""
    ops.reset_counts()
    with ops.use("triton"), torch.no_grad():
        y = model.to(device)(x.to(device)).cpu()
    ran = {kernel for operator, kernel in ops.counts() if operator in ("conv2d", "linear")}
    assert ran == {"triton"}
    assert {("quantize", "triton"), ("add", "triton")} <= set(ops.counts())
    return y


def test_a_converted_network_gives_the_integers_of_the_reference(
    triton_device: torch.device, converted: nn.Module
):
    x = torch.randn(2, 3, 6, 6)
    with ops.use("reference"), torch.no_grad():
        wanted = converted(x)
    moved = copy.deepcopy(converted).to(triton_device)
    for _ in range(2):  # the second call is neither checked nor bound again
        assert torch.equal(by_triton(moved, x, triton_device), wanted)
    with ops.use("reference"), torch.no_grad():  # and back
        assert torch.equal(moved.to("cpu")(x), wanted)


def test_a_checkpoint_serves_every_kernel(triton_device: torch.device, tmp_path: Path):
    x = torch.randn(4, 3, 6, 6)
    lab = qlab.Lab(Net().eval(), x, [x])
    lab.export(tmp_path / "net.safetensors")
    loaded = qlab.load_quantized(tmp_path / "net.safetensors")
    with ops.use("reference"), torch.no_grad():
        wanted = loaded(x)
    assert torch.equal(by_triton(loaded, x, triton_device), wanted)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_lab_on_cuda_gives_networks_whose_integers_are_those_of_the_cpu():
    x = torch.randn(8, 3, 6, 6)
    lab = qlab.Lab(Net().eval(), x, [x], device="cuda")
    model = lab.convert("int8").eval()
    with torch.no_grad():
        found = model(x.cuda()).cpu()
        assert torch.equal(found, model.to("cpu")(x))
    report = lab.compare("int8")
    on_cpu = qlab.Lab(Net().eval(), x, [x], device="cpu").compare("int8")
    assert list(report.layers.index) == list(on_cpu.layers.index)
    for column in ("sqnr_accumulated", "cosine_accumulated"):
        assert report.layers[column].to_list() == pytest.approx(
            on_cpu.layers[column].to_list(), rel=1e-2, nan_ok=True
        )
