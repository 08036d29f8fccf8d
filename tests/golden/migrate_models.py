"""Models that are migrated: their code, without what the library under test brings."""

import torch
from torch import Tensor, nn


class Eager(nn.Module):
    """Layers between stubs, with arithmetic by name."""

    def __init__(self, stubs: tuple[nn.Module, nn.Module], named: list[nn.Module], *layers) -> None:
        super().__init__()
        self.quant, self.dequant = stubs
        self.layers = nn.Sequential(*layers)
        self.sum, self.product, self.join = named

    def forward(self, x: Tensor) -> Tensor:
        y = self.layers(self.quant(x))
        return self.dequant(self.join.cat([self.sum.add(y, y), self.product.mul(y, y)], 1))


class Traced(nn.Module):
    """For the graph workflow: fused, functional and arithmetic layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.fc, self.norm = nn.Linear(4, 3), nn.LayerNorm(3)
        self.weight = nn.Parameter(torch.randn(3, 3))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn(self.conv(x)))
        y = torch.relu(y + self.conv(x)) * y
        y = nn.functional.hardswish(nn.functional.max_pool2d(torch.cat([y, y], 1), 2))
        y = self.norm(self.fc(y.mean((2, 3))[:, :4]))
        return nn.functional.linear(y, self.weight)


class Recurrent(nn.Module):
    """A recurrent layer between stubs."""

    def __init__(self, stubs: tuple[nn.Module, nn.Module], lstm: nn.Module) -> None:
        super().__init__()
        self.quant, self.dequant = stubs
        self.lstm = lstm

    def forward(self, x: Tensor) -> Tensor:
        return self.dequant(self.lstm(self.quant(x))[0])


class Attention(nn.Module):
    """Attention of a tensor to itself, between stubs."""

    def __init__(self, stubs: tuple[nn.Module, nn.Module], attention: nn.Module) -> None:
        super().__init__()
        self.quant, self.dequant = stubs
        self.attention = attention

    def forward(self, x: Tensor) -> Tensor:
        x = self.quant(x)
        return self.dequant(self.attention(x, x, x)[0])


def first(y) -> Tensor:
    """The first tensor of a result."""
    return first(y[0]) if isinstance(y, tuple) else y
