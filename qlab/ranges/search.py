"""The range with the least squared error: from a histogram, or for every row of data."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from qlab.ranges.error import Bins, Grid
from qlab.ranges.scheme import Scheme

_SHRINK = 2.0 ** (-torch.arange(48, dtype=torch.float64) / 3)
_ZOOM_POINTS = 17
_ZOOM_BINS = 1024  # with fewer bins more points are tried, since discrete data has sharp minima
_STEPS = (0.3, 0.05, 0.008)
_SMOOTH = (25, (0.25, 0.02))  # points and steps for many bins, whose minima are wide
_MOST = torch.finfo(torch.float32).max
_BOTH = torch.ones(1, 2, dtype=torch.float64)
_EACH = torch.eye(2, dtype=torch.float64)


def best_range(bins: Bins, low: float, high: float, scheme: Scheme) -> tuple[float, float]:
    """Coarse-to-fine search for the clipping bounds with the least expected squared error.

    Both bounds shrink together over 16 octaves, then each alone, on bins joined to an eighth of
    an octave; then each moves in finer and finer steps, on bins joined below a quarter of the
    scale. Symmetric schemes, float8 and one-sided data have one bound.

    Args:
        bins: 1-d, sorted by mean.
        low: Smallest value; taken as 0 if above.
        high: Largest value; taken as 0 if below.
        scheme: The codes.

    Returns:
        The bounds. Their expected error is at most that of the full range.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    bound = max(-low, high)
    if bound == 0:
        return low, high
    if tied(scheme):
        low, high = -bound, bound
    full = torch.tensor([low, high], dtype=torch.float64)
    moves = _BOTH if tied(scheme) or 0.0 in (low, high) else _EACH
    shrunk = bound * _SHRINK
    coarse = _joined_by_octave(bins)
    best = _best(coarse, torch.stack([-shrunk, shrunk], 1).clamp(full[0], full[1]), scheme)
    if len(moves) == 2:
        for move in moves:
            best = _best(coarse, torch.where(move > 0, full * _SHRINK[:, None], best), scheme)
    codes = min(max(scheme.limits[1] - scheme.limits[0], 32), 512)
    fine = _joined(bins, torch.floor(bins.mean * (4 * codes / float(best.abs().max()))))
    density = min(max(_ZOOM_BINS // max(fine.count.numel(), 1), 1), 16)
    points, steps = (_ZOOM_POINTS * density, _STEPS) if density > 1 else _SMOOTH
    zoom = torch.linspace(-1, 1, points, dtype=torch.float64)[:, None]
    for step in steps:
        for move in moves:
            best = _best(fine, best * (1 + step * zoom * move), scheme)
    low, high = _best(bins, torch.stack([best, full]), scheme).tolist()
    return low, high


def tied(scheme: Scheme) -> bool:
    """Whether both bounds have one magnitude."""
    return scheme.symmetric or scheme.dtype.is_float


def _joined_by_octave(bins: Bins) -> Bins:
    eighths = torch.floor(8 * bins.mean.abs().clamp(min=1e-45).log2()) + 2**12
    return _joined(bins, torch.copysign(eighths, bins.mean))


def _joined(bins: Bins, label: Tensor) -> Bins:
    """Joins neighbours with the same label."""
    changes = torch.nn.functional.pad(label.diff() != 0, (1, 0))
    return bins.merged(changes.cumsum(0))


def _best(bins: Bins, candidates: Tensor, scheme: Scheme) -> Tensor:
    """Of ranges ``(C, 2)`` the one with the least error."""
    candidates = candidates.clamp(-_MOST, _MOST)
    grid = Grid(scheme.choose(candidates[:, 0], candidates[:, 1]))
    return candidates[grid.total(bins).argmin()]


_ROW_BINS = 1024
_FEW = 128  # elements per row up to which every candidate is tried on the data itself
_BLOCK = 2**17  # elements whose temporaries stay in a core's cache
_FEW_WORK = 2**19  # errors of single values that are computed to try more candidates there
_ROW_STEPS = (0.03, 0.008)
_ROW_ZOOM = torch.linspace(-1, 1, 7, dtype=torch.float64)[:, None]
_FEW_ZOOM = torch.linspace(-1, 1, 65, dtype=torch.float64)[:, None]  # few values: sharp minima


def best_row_ranges(rows: Tensor, scheme: Scheme) -> tuple[Tensor, Tensor]:
    """The clipping bounds with the least squared error for every row.

    Rows are brought to largest magnitude 1, so that one table of errors, candidates by bins,
    serves them all; the best candidate is then refined on the data itself.

    Args:
        rows: Finite real numbers ``(R, E)``, R and E > 0.
        scheme: The codes.

    Returns:
        The bounds, float64 ``(R,)`` each. Their error is at most that of the full range.
    """
    candidates = _row_candidates(scheme, rows.numel())
    table = _error_table(candidates, scheme) if rows.shape[1] > _FEW else None
    best = []
    for block in rows.split(max(1, _BLOCK // rows.shape[1])):
        block = block.to(torch.float64)
        bound = block.abs().amax(1).clamp(min=1e-300)
        scaled = block / bound[:, None]
        if table is None:
            errors = _row_errors(scaled, candidates.expand(len(block), -1, -1), scheme)
        else:
            errors = _histograms(scaled) @ table
        start = candidates[errors.argmin(1)] * bound[:, None]
        best.append(_refined(block, start, scheme))
    low, high = torch.cat(best).unbind(1)
    return low, high


def _row_candidates(scheme: Scheme, elements: int) -> Tensor:
    """Ranges ``(C, 2)`` for rows of largest magnitude 1; the fewer elements, the more."""
    many = _FEW_WORK // elements
    most = 1.3 if many > 1000 else 1.0  # codes may fit few values best beyond their range
    if tied(scheme):
        bounds = torch.linspace(0, most, min(max(many, 100), 1600) + 1, dtype=torch.float64)[1:]
        return torch.stack([-bounds, bounds], 1)
    bounds = torch.linspace(0, most, min(max(math.isqrt(many), 25), 80), dtype=torch.float64)
    return torch.cartesian_prod(-bounds, bounds)[1:]


def _refined(rows: Tensor, best: Tensor, scheme: Scheme) -> Tensor:
    """Moves each row's range ``(R, 2)`` in finer and finer steps; the full range competes."""
    full = torch.stack([rows.amin(1).clamp(max=0.0), rows.amax(1).clamp(min=0.0)], 1)
    zoom = _ROW_ZOOM if rows.shape[1] > _FEW else _FEW_ZOOM
    for step in _ROW_STEPS:
        for move in _BOTH if tied(scheme) else _EACH:
            candidates = best[:, None] * (1 + step * zoom * move)
            best = _best_of(rows, candidates, scheme)
    return _best_of(rows, torch.stack([best, full], 1), scheme)


def _error_table(candidates: Tensor, scheme: Scheme) -> Tensor:
    """Mean squared error ``(bins, C)`` of even bins from -1 to 1 under ranges ``(C, 2)``."""
    width = 2 / _ROW_BINS
    centres = (torch.arange(_ROW_BINS, dtype=torch.float64) + 0.5) * width - 1
    spread = torch.tensor(width**2 / 12, dtype=torch.float64)
    grid = Grid(scheme.choose(candidates[:, 0], candidates[:, 1]))
    return (grid.mean_square(Bins(spread, centres, spread)) * grid.scale.square()).T


def _histograms(scaled: Tensor) -> Tensor:
    """Counts ``(R, bins)`` of rows in -1 to 1."""
    at = ((scaled + 1) * (_ROW_BINS / 2)).long().clamp_(max=_ROW_BINS - 1)
    at += torch.arange(len(scaled))[:, None] * _ROW_BINS
    counts = torch.bincount(at.flatten(), minlength=len(scaled) * _ROW_BINS)
    return counts.reshape(-1, _ROW_BINS).to(torch.float64)


def _row_errors(rows: Tensor, candidates: Tensor, scheme: Scheme) -> Tensor:
    """Squared error ``(R, C)`` of every row under each of its ranges ``(R, C, 2)``."""
    errors = []
    for part in candidates.split(max(1, _BLOCK // rows.numel()), 1):
        grid = Grid(scheme.choose(part[..., 0], part[..., 1]))
        error = grid.codes(rows[:, None])
        error -= grid.nearest(error)[0]
        errors.append(torch.linalg.vecdot(error, error) * grid.scale[..., 0].square())
    return torch.cat(errors, 1)


def _best_of(rows: Tensor, candidates: Tensor, scheme: Scheme) -> Tensor:
    candidates = candidates.clamp(-_MOST, _MOST)
    at = _row_errors(rows, candidates, scheme).argmin(1)
    return candidates[torch.arange(len(rows)), at]
