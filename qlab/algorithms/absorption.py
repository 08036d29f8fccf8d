"""Bias absorption: what keeps a channel above 0 moves into the next layer's bias.

Where a channel never falls below c > 0, ``relu(x - c) + c = relu(x)``: the layer's bias gives up c,
and the next layer's takes it in, ``b' + W' c``. The activation's range then starts at 0.

Source: Nagel et al. 2019, arXiv 1906.04721, section 4.1.3; c is what calibration saw, not the
paper's estimate from batch norm, less a quarter of the channel's range: exact on that data, and
on other data as long as it does not reach further down.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn

from qlab.algorithms.scale_groups import GroupFinder, ScaleGroup, input_rows
from qlab.algorithms.targets import add_to_bias, is_transposed
from qlab.analysis.study import Study
from qlab.nn.intrinsic.fold import core

_MARGIN = 0.25  # of a channel's range, for data not seen
_PASSES = (nn.ReLU, nn.Flatten, nn.Identity)


def absorb(
    study: Study,
    finder: GroupFinder,
    group: ScaleGroup,
    factors: Tensor,
    graphs: list[fx.GraphModule],
) -> float | str:
    """Moves what it can, in all graphs.

    Args:
        study: With the statistics of the graph before its channels were scaled.
        finder: Of that graph.
        group: A group of layers.
        factors: What its channels were multiplied with, (C,).
        graphs: Changed in place.

    Returns:
        The largest bias that moved [real units, scaled], or why nothing could be.
    """
    reason = _obstacle(finder, group)
    if reason is not None:
        return f"no bias absorbed: {reason}"
    seen = study.stats(group.producers[0])
    margin = _MARGIN * (seen.channel_max - seen.channel_min)
    lowest = (seen.channel_min - margin).clamp_min(0.0) * factors
    if not bool((lowest > 0).any()):
        return "no bias to absorb: every channel comes near 0"
    for graph in graphs:
        producer = _inner(graph, finder, group.producers[0])
        add_to_bias(producer, -lowest.to(producer.weight))
        for name in group.consumers:
            layer = _inner(graph, finder, name)
            add_to_bias(layer, _response(layer, lowest.to(layer.weight)))
    return float(lowest.max())


def _inner(graph: fx.GraphModule, finder: GroupFinder, node: str) -> Any:
    return core(graph.get_submodule(str(finder.nodes[node].target)))


def _obstacle(finder: GroupFinder, group: ScaleGroup) -> str | None:
    if len(group.producers) > 1:
        return "several layers are added"
    if group.clips:
        return "ReLU6 would clip elsewhere"
    for name in group.between:
        module = finder.graph.get_submodule(str(finder.nodes[name].target))
        if not isinstance(module, _PASSES):
            return f"{type(module).__name__} lies between"
    for name in group.consumers:
        layer, called = finder.layer(finder.nodes[name]), finder.name(finder.nodes[name])
        if is_transposed(layer):
            return f"{called!r} is transposed: its borders see less of it"
        if not isinstance(layer, nn.Linear) and _padded(layer):
            return f"{called!r} pads with zeros: its borders see less of it"
    return None


def _padded(layer: Any) -> bool:
    if isinstance(layer.padding, str):
        return layer.padding == "same" and any(size > 1 for size in layer.kernel_size)
    return layer.padding_mode == "zeros" and any(layer.padding)


def _response(layer: Any, shift: Tensor) -> Tensor:
    """What a constant in each input channel adds to a layer's outputs, (outputs,)."""
    weight = layer.weight.detach()
    repeated = shift.repeat_interleave(input_rows(layer).shape[0] // shift.numel())
    groups = 1 if isinstance(layer, nn.Linear) else layer.groups
    sums = weight.flatten(2).sum(2) if weight.ndim > 2 else weight
    per_group = repeated.reshape(groups, 1, -1).expand(-1, weight.shape[0] // groups, -1)
    return (sums * per_group.reshape_as(sums)).sum(1, dtype=torch.float64).to(weight.dtype)
