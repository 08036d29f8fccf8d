"""Transformers for the tests of repairs: a small block, and the sample with outliers."""

import copy

import torch
from torch import nn

import qlab
import sample_models
from qlab.dtypes import integer
from qlab.granularity import Granularity, PerAxis
from qlab.qconfig import QConfigMapping, qconfig_of
from qlab.ranges import MSE, TensorSpec

OUTLIERS, TIMES = [3, 17, 40], 60.0


class Block(nn.Module):
    """A norm that two linear layers read, a chain through ReLU, and one behind GELU."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, 16, 1)
        self.norm = norm
        self.a, self.b = nn.Linear(16, 16), nn.Linear(16, 16)
        self.up, self.relu, self.down = nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 16)
        self.gelu, self.last = nn.GELU(), nn.Linear(16, 8)

    def forward(self, x):
        x = self.norm(self.conv(x).transpose(1, 2))
        x = self.down(self.relu(self.up(self.a(x) * torch.sigmoid(self.b(x)))))
        return self.last(self.gelu(x))


def block_lab(norm: nn.Module | None = None) -> qlab.Lab:
    """A Lab of a `Block`, whose inputs have loud channels."""
    torch.manual_seed(0)
    model = Block(nn.LayerNorm(16) if norm is None else norm).eval().requires_grad_(False)
    if norm is None:
        model.norm.weight[[2, 9]] = torch.tensor([25.0, -40.0])
    x = torch.randn(48, 4, 12, generator=torch.Generator().manual_seed(1))
    return qlab.Lab(model, (x[:1],), [x[:20], x[20:]], [x[:32]])


def vit_lab(images: int = 96, outliers: bool = False) -> qlab.Lab:
    """A Lab of the sample transformer, which ``outliers`` do not change as a function.

    With them three channels behind each norm are 60 times larger, the weights that meet them
    60 times smaller.
    """
    sample = sample_models.load("vit")
    model = copy.deepcopy(sample.model)
    times = torch.ones(48)
    times[OUTLIERS] = TIMES if outliers else 1.0
    with torch.no_grad():
        for block in model.blocks:
            attn = block.attn
            for norm, readers in (
                (block.norm1, (attn.q, attn.k, attn.v)),
                (block.norm2, (block.mlp.fc1,)),
            ):
                norm.weight *= times
                norm.bias *= times
                for reader in readers:
                    reader.weight /= times
    evaluation = [(x[:images], y[:images]) for x, y in sample.evaluation()[:1]]
    return qlab.Lab(model, sample.example_inputs, sample.calibration(64), evaluation)


def weights_of(
    bits: int, granularity: Granularity | None = None, activation: TensorSpec | None = None
) -> QConfigMapping:
    """Weights of so many bits, per channel if not said otherwise; activations in float if so."""
    weight = TensorSpec(integer(bits, signed=True), True, granularity or PerAxis(0), MSE())
    return QConfigMapping().set_global(qconfig_of(activation, weight))
