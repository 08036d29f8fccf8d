"""The clipping bound that keeps the most information, by Kullback-Leibler divergence."""

from __future__ import annotations

import torch
from torch import Tensor

_CANDIDATES = 64


def best_bound(counts: Tensor, levels: int) -> int:
    """How many leading bins to keep so that ``levels`` codes describe the histogram best.

    For every candidate number of bins the histogram is cut there, what lies beyond joining the
    last bin, and compared with its picture in ``levels`` even steps, where each step's mass is
    spread over its non-empty bins. The cut with the least divergence ``Σ p·log(p/q)`` wins.

    Args:
        counts: float64 ``(B,)``, histogram of magnitudes from 0 on.
        levels: Number of codes for magnitudes.

    Returns:
        A number of bins from ``levels`` to B; B where there are no more bins than levels.

    Source: S. Migacz, 8-bit Inference with TensorRT, GTC 2017.
    """
    bins = counts.numel()
    if bins <= levels:
        return bins
    step = max(1, (bins - levels) // _CANDIDATES)
    cuts = torch.cat([torch.arange(levels, bins, step), torch.tensor([bins])])
    best = int(cuts[_divergence(counts, cuts, levels).argmin()])
    near = torch.arange(max(levels, best - step + 1), min(bins, best + step - 1) + 1)
    return int(near[_divergence(counts, near, levels).argmin()])


def _divergence(counts: Tensor, cuts: Tensor, levels: int) -> Tensor:
    """Divergence for each number of kept bins, ``(C,)``."""
    longest = int(cuts.max())
    zero = counts.new_zeros(1)
    mass = torch.cat([zero, counts.cumsum(0)])
    filled = torch.cat([zero, (counts > 0).to(torch.float64).cumsum(0)])
    # The step of bin b is floor(b * levels / cut); step g starts at bin ceil(g * cut / levels).
    starts = (torch.arange(levels + 1) * cuts[:, None] + levels - 1) // levels
    step_mass, step_filled = mass[starts].diff(), filled[starts].diff()
    bin_of = torch.arange(longest)
    step_of = (bin_of * levels // cuts[:, None]).clamp(max=levels - 1)
    kept = bin_of < cuts[:, None]
    present = kept & (counts[:longest] > 0)
    q = (step_mass / step_filled.clamp(min=1)).gather(1, step_of) * present
    p = counts[:longest] * kept
    rest = mass[-1] - mass[cuts]
    p = p.scatter_add(1, cuts[:, None] - 1, rest[:, None])
    p, q = p / p.sum(1, keepdim=True), q / q.sum(1, keepdim=True).clamp(min=1e-300)
    return torch.where(p > 0, p * (p / q.clamp(min=1e-12)).log(), 0.0).sum(1)
