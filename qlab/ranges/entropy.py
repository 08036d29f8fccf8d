"""The clipping bound that keeps the most information, by Kullback-Leibler divergence."""

from __future__ import annotations

import torch
from torch import Tensor

from qlab.histogram import Histogram

_CANDIDATES = 64
_LEAST = 1e-12  # stands for an empty step of q, relative to all


def magnitudes(histogram: Histogram, most: float, bins: int) -> Tensor:
    """Counts of non-zero magnitudes in even bins from 0 to ``most``."""
    edges = torch.linspace(0, most, bins + 1, dtype=torch.float64)
    negative = -edges.flip(0)
    negative[-1] = -1e-46  # above every negative float32, so that zeros count once
    counts = histogram.rebin(edges) + histogram.rebin(negative).flip(0)
    zeros = (histogram.mean == 0) & (histogram.variance == 0)
    counts[0] = (counts[0] - histogram.counts[zeros].sum()).clamp(min=0)
    return counts


def best_bound(counts: Tensor, levels: int) -> int:
    """How many leading bins to keep so that ``levels`` codes describe the histogram best.

    For every candidate number of bins the histogram is cut there and what lies beyond joins the
    last bin: p. Its picture q has ``levels`` even steps, each step's mass (without what lies
    beyond) spread over its non-empty bins. The cut with the least ``Σ p·log(p/q)`` wins.

    Args:
        counts: float64 ``(B,)``, histogram of magnitudes from 0 on, not all 0.
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
    """Divergence for each number of kept bins, ``(C,)``.

    q is constant over a step's bins, so that sums over bins become differences of running sums.
    """
    mass, filled, p_log_p = (
        torch.nn.functional.pad(values.cumsum(0), (1, 0))
        for values in (counts, (counts > 0).to(torch.float64), torch.xlogy(counts, counts))
    )
    # The step of bin b is floor(b * levels / cut); step g starts at bin ceil(g * cut / levels).
    starts = (torch.arange(levels + 1) * cuts[:, None] + levels - 1) // levels
    step_mass, step_filled = mass[starts].diff(), filled[starts].diff()
    last = counts[cuts - 1]
    step_filled[:, -1] += last == 0  # what lies beyond makes the last bin non-empty
    kept, everything = mass[cuts], mass[-1]
    beyond = everything - kept
    q = (step_mass / step_filled.clamp(min=1)).clamp(min=_LEAST * float(everything))
    p_log_q = (step_mass * q.log()).sum(1) + beyond * q[:, -1].log()
    joined = last + beyond
    entropy = p_log_p[cuts] - torch.xlogy(last, last) + torch.xlogy(joined, joined)
    divergence = (entropy - p_log_q) / everything + (kept / everything).log()
    return divergence.masked_fill(kept == 0, torch.inf)
