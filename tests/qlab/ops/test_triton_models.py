"""Whole networks by Triton's kernels: the integers of the reference kernels on the CPU."""

import copy
from collections.abc import Callable
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


@pytest.fixture
def labs(device: torch.device) -> tuple[qlab.Lab, qlab.Lab, Tensor]:
    """Two Labs of one network, on the CPU and on a device, and the data of both."""
    x, net = torch.randn(8, 3, 6, 6), Net().eval()
    made = [qlab.Lab(copy.deepcopy(net), x, [x], device=where) for where in ("cpu", device)]
    return made[0], made[1], x


def codes_of(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """The integers that every module of a converted network gives, on the CPU."""
    codes: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, __: object, y: object) -> None:
            if isinstance(y, Tensor) and not y.is_floating_point():
                codes[name] = y.cpu()

        return hook

    hooks = [m.register_forward_hook(keep(name)) for name, m in model.named_modules() if name]
    with torch.no_grad():
        model(x)
    for hook in hooks:
        hook.remove()
    assert len(codes) > 4
    return codes


def test_one_calibration_gives_the_same_integers_on_both_devices(
    labs: tuple[qlab.Lab, qlab.Lab, Tensor], device: torch.device, tmp_path: Path
):
    on_cpu, _, x = labs
    there = qlab.load_lab(on_cpu.save(tmp_path / "net.qlab"), device=device)
    assert there.device.type == device.type
    model = there.convert("int8").eval()
    wanted, found = codes_of(on_cpu.convert("int8"), x), codes_of(model, x.to(device))
    assert wanted.keys() == found.keys()
    for name, codes in wanted.items():
        assert torch.equal(found[name], codes), name
    again = codes_of(model.to("cpu"), x)
    assert all(torch.equal(again[name], codes) for name, codes in wanted.items())


def test_calibrating_on_both_devices_differs_by_the_order_of_sums_at_most(
    labs: tuple[qlab.Lab, qlab.Lab, Tensor],
):
    on_cpu, there, _ = labs
    wanted, found = on_cpu.convert("int8").state_dict(), there.convert("int8").state_dict()
    scales = [name for name in wanted if name.endswith("scale")]
    assert len(scales) > 4
    for name in scales:
        torch.testing.assert_close(found[name].cpu(), wanted[name], rtol=1e-5, atol=0.0)
    reports = on_cpu.compare("int8"), there.compare("int8")
    assert list(reports[0].layers.index) == list(reports[1].layers.index)
    for column in ("sqnr_accumulated", "cosine_accumulated"):
        assert reports[1].layers[column].to_list() == pytest.approx(
            reports[0].layers[column].to_list(), rel=1e-2, nan_ok=True
        )
