"""Models that are migrated: their code, without what the library under test brings."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


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


class Operators(nn.Module):
    """For the graph workflow: what the reference calls by names, with numbers and with constants.

    Args:
        transposed: Add transposed convolutions, which take no weight scales per channel.
    """

    def __init__(self, transposed: bool = False) -> None:
        super().__init__()
        self.conv, self.transposed = nn.Conv2d(2, 2, 1), transposed
        shapes = {
            "gain": (8,), "shift": (8,), "offset": (8,), "added": (8,), "matrix": (8, 8),
            "scale": (2,), "bias": (2,), "line_bias": (2,), "back_bias": (2,),
            "plane": (2, 2, 3, 3), "back_plane": (2, 2, 3, 3),
            "line": (2, 2, 3), "back_line": (2, 2, 3),
        }  # fmt: skip
        for name, shape in shapes.items():  # the reference loses one that is used twice
            self.register_parameter(name, nn.Parameter(torch.randn(shape)))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        numbers = F.relu(2 + x) + F.relu(x * -0.5) * 1.5 + (x + self.added)
        curves = F.relu(F.leaky_relu(x, 0.2) * F.elu(x, 0.7))
        where = torch.where(x > 0, x, curves)
        norms = F.layer_norm(x, (8,), self.gain, self.shift, 1e-3) + F.instance_norm(x)
        norms = F.instance_norm(norms, weight=self.scale, bias=self.bias) + F.layer_norm(x, (8,))
        lines = F.conv1d(x.reshape(2, 2, 64), self.line, self.line_bias, 1, 1, 1, 1)
        planes = F.relu(F.conv2d(x, self.plane, None, (1, 1), (1, 1), (1, 1), 1))
        rows = F.dropout(F.relu(F.linear(x, self.matrix, self.offset)), 0.5, self.training)
        parts = [numbers, curves, where, norms, lines.reshape(2, 2, 8, 8), planes, rows]
        if self.transposed:
            two: Any = {"stride": (1, 1), "padding": (1, 1), "output_padding": (0, 0)}
            one: Any = {"stride": (1,), "padding": (1,), "output_padding": (0,)}
            # by name: the reference gives groups and dilation in another order than torch does
            two, one = (
                two | {"groups": 1, "dilation": (1, 1)},
                one | {"groups": 1, "dilation": (1,)},
            )
            parts.append(F.conv_transpose2d(x, self.back_plane, self.back_bias, **two))
            flat = F.conv_transpose1d(x.reshape(2, 2, 64), self.back_line, None, **one)
            parts.append(flat.reshape(2, 2, 8, 8))
        return torch.cat(parts, 1)


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
