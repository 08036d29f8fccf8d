"""What a layer reads on average, from batch norm alone: no data is looked at.

Behind batch norm a channel is taken as normal, with mean β and standard deviation |γ|; an
activation clips it, an addition sums independent numbers, an average keeps means. Zeros that a
convolution pads with are not counted.

Source: Nagel et al. 2019, arXiv 1906.04721, section 4.2.1 and appendix C.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, fx, nn

from qlab.graph.nodes import bounds_of
from qlab.nn.functions import Add
from qlab.nn.intrinsic import AddReLU
from qlab.nn.intrinsic.fused import FusedModule

_KEEP = (nn.Flatten, nn.Identity, nn.Dropout, nn.Dropout2d)
_AVERAGE = (
    *(nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
)

Moments = tuple[Tensor, Tensor]


class UnknownMeanError(Exception):
    """Nothing tells what a tensor is on average; the message says why, in words."""


def expected_values(graph: fx.GraphModule, node: str) -> Tensor:
    """The mean of each channel of a node's output, float64 (C,).

    Args:
        graph: A fused float graph; ``meta["batch_norm"]`` of its nodes holds what was folded.
        node: The node.

    Raises:
        UnknownMeanError: It is not known; says why.
    """
    nodes = {n.name: n for n in graph.graph.nodes}
    return _moments(graph, nodes[node])[0]


def _moments(graph: fx.GraphModule, node: fx.Node) -> Moments:
    """Mean and variance of each channel, float64 (C,)."""
    name = node.meta.get("name", node.name)
    if node.op != "call_module":
        raise UnknownMeanError(f"nothing tells what {name!r} is on average")
    module: Any = graph.get_submodule(str(node.target))
    if "batch_norm" in node.meta:
        mean, std = (torch.tensor(v, dtype=torch.float64) for v in node.meta["batch_norm"])
        parts = list(module)[1:] if isinstance(module, FusedModule) else []
        return _clipped((mean, std.square()), parts)
    sources = node.all_input_nodes
    if isinstance(module, Add | AddReLU):
        (a, b), (c, d) = (_moments(graph, source) for source in sources)
        return _clipped((a + c, b + d), [nn.ReLU()] if isinstance(module, AddReLU) else [])
    if isinstance(module, nn.ReLU | nn.ReLU6 | nn.Hardtanh):
        return _clipped(_moments(graph, sources[0]), [module])
    if isinstance(module, _KEEP):
        return _moments(graph, sources[0])
    if isinstance(module, _AVERAGE):
        mean, _ = _moments(graph, sources[0])
        return mean, torch.full_like(mean, math.nan)  # depends on how neighbours go together
    raise UnknownMeanError(f"no batch norm tells what {name!r} gives on average")


def _clipped(moments: Moments, activations: list[nn.Module]) -> Moments:
    for activation in activations:
        if bool(moments[1].isnan().any()):
            raise UnknownMeanError("what is averaged and clipped again has no known mean")
        low, high = bounds_of(activation)
        moments = clipped_normal(*moments, low, high)
    return moments


def clipped_normal(mean: Tensor, variance: Tensor, low: float, high: float) -> Moments:
    """Mean and variance of a normal number that is clipped.

    Args:
        mean: Of the normal number, float64, any shape.
        variance: Of it, the same shape; 0 for a constant.
        low: What lies below becomes this; may be -inf.
        high: What lies above becomes this; may be inf.

    Returns:
        Both in the shape of ``mean``.
    """
    std = variance.clamp_min(1e-24).sqrt()
    normal = torch.distributions.Normal(torch.zeros(()).double(), torch.ones(()).double())
    first, second = [], []
    below = above = density_low = density_high = torch.zeros_like(mean)
    if math.isfinite(low):
        edge = (low - mean) / std
        below, density_low = normal.cdf(edge), normal.log_prob(edge).exp()
        first.append(low * below)
        second.append(low * low * below + std * (low + mean) * density_low)
    if math.isfinite(high):
        edge = (high - mean) / std
        above, density_high = 1 - normal.cdf(edge), normal.log_prob(edge).exp()
        first.append(high * above)
        second.append(high * high * above - std * (high + mean) * density_high)
    inside = 1 - below - above
    first_moment = mean * inside + std * (density_low - density_high) + sum(first)
    second_moment = (mean.square() + variance) * inside + sum(second)
    return first_moment, (second_moment - first_moment.square()).clamp_min(0.0)
