"""Functions of codes that keep their scale and zero point."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor

from qlab.qparams import QParams, quantize_round_first


@lru_cache(maxsize=1024)
def code_of(value: float, qparams: QParams) -> float:
    """The code that stands for a real number, per tensor."""
    return quantize_round_first(
        torch.tensor(float(value), device=qparams.scale.device), qparams
    ).item()


def as_reals(x: Tensor) -> Tensor:
    """Codes as floating-point numbers, exactly."""
    return x.to(torch.float64 if x.dtype == torch.int32 else torch.float32)


def selected(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Applies a function that only selects among the codes, such as a maximum or a clamp."""
    return function(as_reals(x)).to(x.dtype)


@lru_cache(maxsize=1024)
def _unit_steps(qparams: QParams) -> QParams:
    return replace(qparams, scale=torch.ones_like(qparams.scale))


def linear_map(
    function: Callable[[Tensor], Tensor],
    x: Tensor,
    x_qparams: QParams,
    y_qparams: QParams | None,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """``quantize(s_x · f(x - z_x))`` for a linear ``f``, such as averaging or interpolation.

    Where the output keeps the input's parameters the scale cancels, so ``f(x - z_x)`` is rounded
    as it is: for averages that is the exact answer, ties to even.

    Args:
        function: Linear.
        x: Codes.
        x_qparams: Per tensor.
        y_qparams: The output's parameters; None keeps the input's.
        dtype: What ``f`` computes in.
    """
    steps = x.to(dtype)
    if not x_qparams.symmetric_around_zero:
        steps = steps - x_qparams.zero_point
    return rounded_map(function(steps), x_qparams, y_qparams)


def rounded_map(mapped: Tensor, x_qparams: QParams, y_qparams: QParams | None) -> Tensor:
    """``quantize(s_x · mapped)``; where the output keeps the input's parameters the scale cancels.

    Args:
        mapped: Steps of the input's scale, from its zero point.
        x_qparams: Per tensor.
        y_qparams: The output's parameters; None keeps the input's.
    """
    if y_qparams is None and torch.compiler.is_compiling():  # which does not look into caches
        unit = replace(x_qparams, scale=torch.ones_like(x_qparams.scale))
        return quantize_round_first(mapped, unit)
    if y_qparams is None:
        return quantize_round_first(mapped, _unit_steps(x_qparams))
    return quantize_round_first(mapped.to(torch.float32) * x_qparams.scale, y_qparams)


def exact_mean(
    x: Tensor, x_qparams: QParams, dim: int | tuple[int, ...] | None, keepdim: bool
) -> Tensor:
    """Mean of ``x - z_x`` over some axes, float64: the quotient of the exact sum, rounded once."""
    if x.dtype not in (torch.uint8, torch.int8):
        steps = x.to(torch.float64)
        return (steps - x_qparams.zero_point).mean(dim, keepdim)
    # int32 is summed ten times as fast, and holds 2**23 codes of a byte.
    total = x.sum(dim, keepdim, dtype=torch.int32 if x.numel() < 2**23 else torch.int64)
    count = x.numel() // max(total.numel(), 1)
    return (total - count * x_qparams.zero_point).to(torch.float64) / count
