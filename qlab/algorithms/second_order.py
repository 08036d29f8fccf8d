"""The arithmetic of GPTQ: rounding weight by weight, what is left makes up for each error."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from qlab.algorithms.moments import Moments
from qlab.errors import ArgumentError, NonFiniteError
from qlab.granularity import PerAxis
from qlab.qparams import QParams, dequantize, quantize

_MOST_DAMPING = 1.0


@dataclass(frozen=True, eq=False)
class Rounding:
    """A weight rounded to codes, beside the nearest codes.

    Attributes:
        weight: The real numbers that the codes stand for, float32, the weight's shape.
        errors: Squared error of each output channel over the data, float64 (O,).
        nearest_errors: The same for the nearest codes.
        kept_nearest: bool (O,): channels that stay at the nearest codes, as that is no worse.
        damping: What was added to the diagonal, relative to its mean.
    """

    weight: Tensor
    errors: Tensor
    nearest_errors: Tensor
    kept_nearest: Tensor
    damping: float


def round_second_order(
    weight: Tensor,
    moments: Moments,
    qparams: QParams,
    *,
    act_order: bool = True,
    block: int = 128,
    damping: float = 0.01,
) -> Rounding:
    """Codes whose *output* is near that of the float weight, one input at a time.

    With ``H = Σ x xᵀ + λI`` and U the upper Cholesky factor of ``H⁻¹``, weights are rounded from
    the first input to the last, and after each the weights still to be rounded take over its
    error: ``W[:, j+1:] -= (w_j - q_j) / U_jj · U[j, j+1:]``. An output channel for which that ends
    no better than the nearest codes, on the data seen, keeps the nearest.

    Args:
        weight: float (O, …), finite.
        moments: Of the layer's inputs.
        qparams: The grid, which stays as it is.
        act_order: Begin with the inputs of the largest ``Σ x²``, whose errors cost most.
        block: Inputs whose errors are passed on together to those behind them; changes the time
            it takes, not what comes out, but for float64 rounding.
        damping: λ over the mean of H's diagonal, positive; multiplied by 10, up to 1, where H
            stays singular.

    Raises:
        ArgumentError: A damping or block that is not positive.
        NonFiniteError: The weight or the inputs have NaN or infinity.

    Source: Frantar et al. 2022, "GPTQ: Accurate Post-Training Quantization for Generative
    Pre-trained Transformers", arXiv 2210.17323.
    """
    if not damping > 0 or block < 1:
        raise ArgumentError(
            "GPTQ: damping and block must be positive", received=f"{damping=}, {block=}"
        )
    if not bool(moments.sums.isfinite().all() & weight.isfinite().all()):
        raise NonFiniteError("GPTQ: weights and inputs must be finite", received="NaN or infinity")
    nearest = dequantize(quantize(weight, qparams), qparams)
    before = moments.errors(nearest - weight)
    rows = moments.grouped(weight)
    diagonal = moments.sums.diagonal(dim1=1, dim2=2)
    order = diagonal.argsort(dim=1, descending=True, stable=True) if act_order else None
    scale, zero_point = (
        _ordered(moments.grouped(_full(values, qparams, weight)), order)
        for values in (qparams.scale, qparams.zero_point)
    )
    factor, used = _factor(moments.sums, order, damping)
    rounded = _sweep(_ordered(rows, order), factor, _Grid(scale, zero_point, qparams), block)
    if order is not None:
        rounded = torch.gather(rounded, 2, _along(order.argsort(dim=1), rounded))
    found = rounded.to(torch.float32).reshape(weight.shape)
    errors = moments.errors(found - weight)
    worse = errors >= before
    keep = worse.reshape(-1, *[1] * (weight.ndim - 1))
    return Rounding(
        weight=torch.where(keep, nearest, found),
        errors=torch.where(worse, before, errors),
        nearest_errors=before,
        kept_nearest=worse,
        damping=used,
    )


@dataclass(frozen=True, eq=False)
class _Grid:
    """Scale and zero point of every weight, (G, R, I), and what else their codes need."""

    scale: Tensor
    zero_point: Tensor
    like: QParams

    def nearest(self, values: Tensor, column: int) -> Tensor:
        """Real numbers (G, R) of one input → the nearest on the grid."""
        scale = self.scale[..., column].reshape(-1).to(torch.float32)
        zero_point = self.zero_point[..., column].reshape(-1).to(self.like.zero_point.dtype)
        limits = (self.like.quant_min, self.like.quant_max)
        qparams = QParams(scale, zero_point, self.like.dtype, PerAxis(0), *limits)
        flat = values.reshape(-1).to(torch.float32)
        return dequantize(quantize(flat, qparams), qparams).reshape(values.shape).to(values)


def _full(values: Tensor, qparams: QParams, weight: Tensor) -> Tensor:
    return qparams.granularity.expand(values, weight.shape).expand(weight.shape)


def _along(order: Tensor, rows: Tensor) -> Tensor:
    return order.unsqueeze(1).expand(-1, rows.shape[1], -1)


def _ordered(rows: Tensor, order: Tensor | None) -> Tensor:
    return rows.clone() if order is None else torch.gather(rows, 2, _along(order, rows))


def _factor(sums: Tensor, order: Tensor | None, damping: float) -> tuple[Tensor, float]:
    """Upper Cholesky factor of the inverse of the damped moments, and the damping it took."""
    hessian = sums.clone()
    if order is not None:
        hessian = torch.gather(hessian, 1, order.unsqueeze(2).expand_as(hessian))
        hessian = torch.gather(hessian, 2, order.unsqueeze(1).expand_as(hessian))
    diagonal = hessian.diagonal(dim1=1, dim2=2)
    mean = diagonal.mean(1, keepdim=True)
    diagonal[diagonal == 0] = 1.0  # an input that is always 0 takes part in nothing
    mean = torch.where(mean > 0, mean, torch.ones_like(mean))
    used = damping
    while True:
        damped = hessian + torch.diag_embed((used * mean).expand_as(diagonal))
        lower, failed = torch.linalg.cholesky_ex(damped)
        if not bool(failed.any()):
            upper, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
            if not bool(failed.any()):
                return upper, used
        if used >= _MOST_DAMPING:
            raise NonFiniteError(
                "GPTQ: the inputs' moments cannot be inverted",
                received=f"a damping of {used:g} was not enough",
                fix="Look for inputs of very different magnitudes, or leave the layer out.",
            )
        used *= 10


def _sweep(rows: Tensor, factor: Tensor, grid: _Grid, block: int) -> Tensor:
    """Rounds (G, R, I) from the first input to the last; ``rows`` is overwritten."""
    length = rows.shape[-1]
    result = torch.empty_like(rows)
    for start in range(0, length, block):
        stop = min(start + block, length)
        errors = torch.zeros_like(rows[..., start:stop])
        for column in range(start, stop):
            values = rows[..., column]
            rounded = grid.nearest(values, column)
            result[..., column] = rounded
            error = (values - rounded) / factor[:, column, column].unsqueeze(1)
            inside = factor[:, column, column:stop].unsqueeze(1)
            rows[..., column:stop] -= error.unsqueeze(2) * inside
            errors[..., column - start] = error
        rows[..., stop:] -= errors @ factor[:, start:stop, stop:]
    return result
