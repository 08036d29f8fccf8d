"""The range that minimises the expected squared error."""

from __future__ import annotations

import torch
from torch import Tensor

from qlab.ranges.error import Bins, Grid
from qlab.ranges.scheme import Scheme

_COARSE = 2.0 ** (-torch.arange(48, dtype=torch.float64) / 4)
_COARSE_2D = 2.0 ** (-torch.arange(14, dtype=torch.float64) / 2)
_ZOOM = torch.linspace(-1, 1, 17, dtype=torch.float64)
_MOST = 2**21  # elements of one temporary


def best_range(bins: Bins, low: Tensor, high: Tensor, scheme: Scheme) -> tuple[Tensor, Tensor]:
    """Coarse-to-fine search for the clipping bounds with the least expected squared error.

    Args:
        bins: Shape ``(R, K)``: R tensors, or channels, at once.
        low: float64 ``(R,)``, smallest value; taken as 0 if above.
        high: float64 ``(R,)``, largest value; taken as 0 if below.
        scheme: The codes. Where they are symmetric, or float8, one bound is searched for, else
            two.

    Returns:
        The bounds, float64 ``(R,)`` each. Their expected error is at most that of the full range.
    """
    rows = low.numel()
    each = max(1, _MOST // max(1, bins.count.shape[-1] * _COARSE_2D.numel() ** 2))
    parts = [
        _search(
            Bins(*(t[i : i + each] for t in (bins.count, bins.mean, bins.variance))),
            low[i : i + each].clamp(max=0.0),
            high[i : i + each].clamp(min=0.0),
            scheme,
        )
        for i in range(0, rows, each)
    ]
    if not parts:
        return low, high
    return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])


def _search(bins: Bins, low: Tensor, high: Tensor, scheme: Scheme) -> tuple[Tensor, Tensor]:
    bins = Bins(*(t[:, None] for t in (bins.count, bins.mean, bins.variance)))
    if scheme.symmetric or scheme.dtype.is_float:
        bound = torch.maximum(-low, high)[:, None]
        low, high = -bound[:, 0], bound[:, 0]
        lows, highs = -bound * _COARSE, bound * _COARSE
    elif bool((low == 0).all()) or bool((high == 0).all()):
        lows, highs = low[:, None] * _COARSE, high[:, None] * _COARSE
    else:
        pairs = torch.cartesian_prod(_COARSE_2D, _COARSE_2D)
        lows, highs = low[:, None] * pairs[:, 0], high[:, None] * pairs[:, 1]
    best = _best(bins, lows, highs, scheme)
    step = 0.3
    for _ in range(3):
        shifts = 1 + step * _ZOOM
        if scheme.symmetric or scheme.dtype.is_float:
            best = _best(bins, best[0][:, None] * shifts, best[1][:, None] * shifts, scheme)
        else:
            one = torch.ones_like(shifts)
            best = _best(bins, best[0][:, None] * shifts, best[1][:, None] * one, scheme)
            best = _best(bins, best[0][:, None] * one, best[1][:, None] * shifts, scheme)
        step /= 6
    lows, highs = torch.stack([best[0], low], 1), torch.stack([best[1], high], 1)
    return _best(bins, lows, highs, scheme)


def _best(bins: Bins, lows: Tensor, highs: Tensor, scheme: Scheme) -> tuple[Tensor, Tensor]:
    """Of candidates ``(R, C)`` the one with the least error in each row."""
    error = Grid(scheme.choose(lows, highs)).total(bins)
    at = error.argmin(-1, keepdim=True)
    return lows.gather(1, at)[:, 0], highs.gather(1, at)[:, 0]
