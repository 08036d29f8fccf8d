"""What a quantizer can express and what a tensor holds, as arrays for charts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from qlab.granularity import PerAxis, PerTensor
from qlab.qparams import QParams, dequantize, quantize
from qlab.stats import TensorStats

#: Bins of a histogram: as many as the number of values fills, at most 256.
BINS = ((4096, 256), (512, 64), (0, 32))


def codes_and_levels(qparams: QParams) -> tuple[np.ndarray, np.ndarray]:
    """Every code and the real number it stands for, ascending.

    Args:
        qparams: One scale for the whole tensor.

    Returns:
        Codes (int64; for float8 the format's own values, float64) and levels (float64).
    """
    dtype = qparams.dtype
    if not dtype.is_float:
        codes = torch.arange(qparams.quant_min, qparams.quant_max + 1)
        levels = dequantize(codes.to(dtype.storage), qparams)
        return codes.numpy(), levels.numpy().astype(float)
    values = torch.arange(256, dtype=torch.uint8).view(dtype.storage).float()
    values = values[values.isfinite()].unique()
    levels = dequantize(values.to(dtype.storage), qparams)
    return values.numpy().astype(float), levels.numpy().astype(float)


def one_scale(qparams: QParams, index: int) -> QParams:
    """The parameters that one channel or group uses, as those of a whole tensor.

    Args:
        qparams: Of any granularity; one scale for all is every channel's.
        index: Position among its scales, flattened.
    """
    if qparams.per_tensor_granularity:
        return qparams
    scale, zero_point = (t.flatten()[index] for t in (qparams.scale, qparams.zero_point))
    return replace(qparams, scale=scale, zero_point=zero_point, granularity=PerTensor())


def bounds(qparams: QParams) -> tuple[np.ndarray, np.ndarray]:
    """The smallest and the largest number that each scale can express, shape (scales,) or ()."""
    shape = qparams.scale.shape
    flat = replace(
        qparams,
        scale=qparams.scale.reshape(-1),
        zero_point=qparams.zero_point.reshape(-1),
        granularity=PerAxis(0),
    )
    ends = torch.tensor([[qparams.quant_min, qparams.quant_max]]).expand(flat.scale.numel(), 2)
    low, high = dequantize(ends.to(qparams.dtype.storage), flat).numpy().astype(float).T
    return (low.reshape(-1), high.reshape(-1)) if shape else (low[0], high[0])


def extrema(tensor: Tensor, qparams: QParams | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The smallest and the largest value of each channel of a weight, or of each of its groups.

    Args:
        tensor: The weight, output channels first.
        qparams: Where they have one scale for all, or are left out, channels are told apart all
            the same.
    """
    own = None if qparams is None or qparams.per_tensor_granularity else qparams.granularity
    rows = (own or PerAxis(0)).rows(tensor.detach())
    return rows.amin(1).numpy().astype(float), rows.amax(1).numpy().astype(float)


def histogram_of(stats: TensorStats) -> tuple[np.ndarray, np.ndarray]:
    """Edges and counts of evenly spaced bins over all values."""
    bins = next(bins for least, bins in BINS if stats.count >= least)
    edges, counts = stats.display_histogram(bins)
    return np.asarray(edges), np.asarray(counts)


def codes_used(stats: TensorStats, levels: np.ndarray) -> int:
    """How many levels have at least one value nearest to them, from statistics.

    Args:
        stats: Of the float tensor.
        levels: Evenly spaced, ascending.
    """
    half = (levels[1] - levels[0]) / 2
    _, counts = stats.display_histogram(
        len(levels), low=float(levels[0] - half), high=float(levels[-1] + half)
    )
    ends = int(stats.min_val < levels[0]) * int(counts[0] == 0)
    ends += int(stats.max_val > levels[-1]) * int(counts[-1] == 0)
    return int((counts > 0).sum()) + ends


def codes_taken(weight: Tensor, qparams: QParams) -> int:
    """How many different codes the values of a weight take, over all of its scales together."""
    codes = quantize(weight, qparams).int().flatten() - qparams.quant_min
    return int((codes.bincount() > 0).sum())
