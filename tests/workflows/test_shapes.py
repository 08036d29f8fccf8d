"""Converted models whose inputs change their shape: every layer stays bound for the last few."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qlab.graph import convert_fx, prepare_fx
from qlab.nn.intrinsic import quantized as nniq
from qlab.nn.quantized.weighted import WeightedModule
from qlab.quantization.backend_config import get_onednn_backend_config


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x).relu()
        return F.gelu(self.c((self.b(a) + a).relu().mean((2, 3))))


def converted(*, fused: bool) -> nn.Module:
    x, backend = torch.randn(1, 3, 8, 8), get_onednn_backend_config() if fused else None
    prepared = prepare_fx(Residual().eval(), "int8", x, backend_config=backend)
    prepared(x)
    return convert_fx(prepared)


@torch.no_grad()
@pytest.mark.parametrize("fused", [False, True])
def test_shapes_that_alternate_are_neither_checked_nor_bound_anew(
    fused: bool, monkeypatch: pytest.MonkeyPatch
):
    torch.manual_seed(0)
    model = converted(fused=fused)
    sums = [module for module in model.modules() if isinstance(module, nniq.ConvAddReLU2d)]
    assert len(sums) == fused
    assert fused == any(isinstance(module, nniq.LinearGELU) for module in model.modules())
    images = [torch.randn(n, 3, size, size) for n, size in ((1, 8), (2, 8), (1, 6), (3, 5))]
    wanted = [model(x) for x in images]

    def refused(*_: object) -> None:
        raise AssertionError("computed from the start")

    with monkeypatch.context() as patched:
        for kind in {type(m) for m in model.modules() if isinstance(m, WeightedModule)}:
            patched.setattr(kind, "compute", refused)
        for _ in range(2):
            assert all(torch.equal(model(x), y) for x, y in zip(images, wanted, strict=True))
        with pytest.raises(AssertionError, match="computed from the start"):
            model(torch.randn(1, 3, 7, 7))
    for module in model.modules():
        if isinstance(module, WeightedModule):
            module.get_buffer("weight_codes").neg_()
    changed = [model(x) for x in images]
    for module in model.modules():
        getattr(module, "_cache", {}).clear()
    for x, y, before in zip(images, changed, wanted, strict=True):
        assert torch.equal(model(x), y) and not torch.equal(y, before)
