"""One network calibrated as a graph, under several observers: for generator and tests."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

#: The qconfig's activation observer, by its name in the library's module ``observer``, and how far
#: a scale may lie from the reference's: histograms choose their range by another search.
OBSERVERS = {"MinMaxObserver": 1e-6, "MovingAverageMinMaxObserver": 1e-6, "HistogramObserver": 0.1}


class Net(nn.Module):
    """Pooling of three kinds, flatten, concatenation, stacking, sums, a clamp, dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())
        self.right, self.small = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)
        self.deep = nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8))
        self.pool, self.average = nn.MaxPool2d(2), nn.AvgPool2d(2)
        self.whole, self.drop = nn.AdaptiveAvgPool2d(2), nn.Dropout(0.3)
        self.fc, self.last = nn.Linear(96, 8), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.pool(self.left(x)), self.average(self.right(x))
        joined = self.deep(torch.cat([a, self.small(F.avg_pool2d(x, 2))], 1))
        clamped = torch.clamp(joined, -0.4, 0.9) + joined
        skip = F.interpolate(F.max_pool2d(b, 2), scale_factor=2.0)
        rest = torch.cat([torch.squeeze(clamped), skip + b, b], 1)
        rest = torch.cat([self.whole(rest), self.whole(joined)], 1)
        y = self.fc(self.drop(torch.flatten(rest, 1)))
        y = torch.stack([y, y * y], 1).reshape(-1, 16)
        return self.last(y)


def batches() -> list[Tensor]:
    """Four batches, each wider than the one before."""
    torch.manual_seed(1)
    return [(1 + index) * torch.randn(4, 3, 8, 8) for index in range(4)]


def build(quantization: Any, workflow: Any, observer: str, net: nn.Module) -> Any:
    """The network prepared by a library and calibrated.

    Args:
        quantization: ``torch.ao.quantization`` or ``qlab.quantization``.
        workflow: Its module ``quantize_fx``.
        observer: A name in `OBSERVERS`.
        net: The float network.
    """
    qconfig = quantization.QConfig(
        activation=getattr(quantization, observer),
        weight=quantization.default_per_channel_weight_observer,
    )
    mapping = quantization.QConfigMapping().set_global(qconfig)
    prepared = workflow.prepare_fx(net.eval(), mapping, (batches()[0],))
    for batch in batches():
        prepared(batch)
    return prepared


def observed(prepared: Any) -> dict[str, list[float]]:
    """Scale and zero point of every observed tensor, by the node that makes it."""
    found = {}
    for node in prepared.graph.nodes:
        if "activation_post_process" in str(node.target):
            scale, zero_point = prepared.get_submodule(node.target).calculate_qparams()
            found[node.args[0].name] = [float(scale), float(zero_point)]
    return found
