"""What a small error of each layer does to the network's output, from two backward passes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from qlab.analysis.networks import outputs_of
from qlab.analysis.probe import QuantizedLayer
from qlab.execution import CachedRun, Program, channels_last, full_precision

PROBES = 2


def estimated_noise(
    program: Program,
    inputs: tuple[Any, ...],
    changes: Sequence[tuple[str, QuantizedLayer, Sequence[str]]],
    *,
    samples: int,
    seed: int,
) -> tuple[Any, list[float]]:
    """The squared error that each layer alone would cause at the output, to first order.

    A layer's error Δ becomes JΔ at the output, J being the derivative of the output by the
    layer's. With random signs v, E[(vᵀJΔ)²] = |JΔ|², and vᵀJ for all layers together is one
    backward pass. Every sample has its own signs. Unlike a sum of squared gradients times squared
    errors, this knows how the errors within a layer belong together.

    Args:
        program: The float network.
        inputs: One batch.
        changes: For each layer its node, the layer as deployed and the nodes that feed it.
        samples: Number of samples in the batch.
        seed: Of the signs.

    Returns:
        The network's output, and for each layer the estimate of ``sum((x - y)^2)`` over the batch.

    Source: Hutchinson, A stochastic estimator of the trace of the influence matrix, 1990;
    Dong et al., HAWQ-V2, 2019, use it for the same question about the loss.
    """
    nodes = {node for node, *_ in changes}
    wanted = nodes.union(*(feeding for *_, feeding in changes))
    values: dict[str, Tensor] = {}

    def observe(name: str, value: Any) -> None:
        if name in nodes and not value.requires_grad:
            value.requires_grad_()
        if name in wanted:
            values[name] = value

    own = tuple(x.detach() if isinstance(x, Tensor) else x for x in inputs)
    with torch.enable_grad():
        # Backwards too most layers are faster in this order, pooling several times.
        output = channels_last(program).run(own, observe)
    slopes = _slopes(outputs_of(output), {name: values[name] for name in nodes}, seed)
    found = []
    for node, layer, feeding in changes:
        value = layer.run([values[name].detach() for name in feeding], torch.preserve_format)
        found.append(_squares(value.sub_(values[node].detach()), slopes[node], samples))
    return output, found


def changed_value(
    run: CachedRun, node: str, layer: QuantizedLayer, inputs: Sequence[str]
) -> tuple[Tensor, Tensor]:
    """A layer's output as deployed, fed the float network's values, and the float output."""
    values = run.values({node, *inputs})
    reference = values[node]
    return layer.run([values[name] for name in inputs]).to(reference.dtype), reference


def _slopes(
    outputs: dict[str, Tensor], values: dict[str, Tensor], seed: int
) -> dict[str, list[Tensor | None]]:
    """For each value the gradients of PROBES random sums over all outputs that count, see
    `batch_errors`; None where it has none."""
    first, *others = outputs.values()
    counted = [y for y in (first, *(x for x in others if x.isfinite().all())) if y.requires_grad]
    if not counted:
        return {name: [None] * PROBES for name in values}
    generator = torch.Generator().manual_seed(seed)
    slopes: dict[str, list[Tensor | None]] = {name: [] for name in values}
    for probe in range(PROBES):
        signs = [
            torch.randint(0, 2, y.shape, generator=generator).mul_(2).sub_(1).to(y) for y in counted
        ]
        with full_precision():
            grads = torch.autograd.grad(
                counted,
                list(values.values()),
                signs,
                retain_graph=probe < PROBES - 1,
                allow_unused=True,
            )
        for name, grad in zip(values, grads, strict=True):
            slopes[name].append(grad)
    return slopes


def _squares(error: Tensor, slopes: Sequence[Tensor | None], samples: int) -> float:
    """Mean over the probes of the sum over the samples of (slope · error)²."""
    rows = samples if error.numel() % samples == 0 else 1
    total = 0.0
    for slope in slopes:
        if slope is not None:
            slope = slope.to(error.dtype)  # a model in half or double precision has its own
            pair = (error, slope)
            if all(map(_is_channels_last, pair)):  # in the usual order they would be copied
                pair = tuple(x.permute(0, 2, 3, 1) for x in pair)
            products = torch.linalg.vecdot(*(x.reshape(rows, -1) for x in pair))
            total += float(products.double().square().sum())
    return total / len(slopes)


def _is_channels_last(x: Tensor) -> bool:
    return x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)
