"""Observers whose range is that of the data: cumulative or a moving average."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from qlab.dtypes import quint8
from qlab.errors import ShapeError, UnsupportedError
from qlab.granularity import (
    QScheme,
    per_channel_affine,
    per_channel_affine_float_qparams,
    per_channel_symmetric,
    per_tensor_affine,
    per_tensor_symmetric,
)
from qlab.observers.base import DTypeLike, UniformQuantizationObserverBase
from qlab.qparams import EPS
from qlab.ranges import MovingAverage, RangePolicy
from qlab.stats import TensorStats


class _RangeObserver(UniformQuantizationObserverBase):
    """Keeps the range itself, in its buffers, and no other trace of the data."""

    def observe(self, x: Tensor) -> None:
        per_channel = self.qscheme.per_channel
        batch = TensorStats(channel_axis=self.ch_axis if per_channel else None, histogram=False)
        batch.update(x)
        if per_channel:
            low, high = batch.channel_min, batch.channel_max
        else:
            low, high = batch.min_val, batch.max_val
        low, high = low.to(self.min_val), high.to(self.max_val)
        if per_channel and not self.min_val.numel():
            self.min_val, self.max_val = low, high
            return
        if low.shape != self.min_val.shape:
            raise ShapeError(
                f"{type(self).__name__}: the number of channels changed",
                expected=f"{self.min_val.numel()} channels along axis {self.ch_axis}",
                received=f"shape {tuple(x.shape)}",
            )
        self.min_val.copy_(self._updated(self.min_val, torch.minimum(self.min_val, low), low))
        self.max_val.copy_(self._updated(self.max_val, torch.maximum(self.max_val, high), high))

    def _updated(self, old: Tensor, extreme: Tensor, new: Tensor) -> Tensor:
        """One bound after a batch whose own bound is ``new``; infinite where nothing was seen."""
        if not isinstance(self.policy, MovingAverage):
            return extreme
        average = torch.where(old.isfinite(), self.policy.step(old, new), new)
        return torch.where(new.isfinite(), average, old)


class MinMaxObserver(_RangeObserver):
    """The smallest and the largest value of all data, per tensor.

    ``min_val = min(min_val, min(x))``, ``max_val = max(max_val, max(x))``; scale and zero point by
    `qlab.qparams.choose_qparams`. Arguments and errors: `UniformQuantizationObserverBase`.

    Source: the reference's ``torch.ao.quantization.observer.MinMaxObserver``; bit-equal to it.
    """

    schemes = (per_tensor_affine, per_tensor_symmetric)


class MovingAverageMinMaxObserver(MinMaxObserver):
    """The moving average of each batch's smallest and largest value, per tensor.

    The first batch sets both bounds; then ``bound += averaging_constant * (extremum - bound)``.

    Args:
        averaging_constant: Weight of the newest batch, above 0 and at most 1.
        dtype: As in `UniformQuantizationObserverBase`, like the others that are not named here.
        is_dynamic: Asks for an ``averaging_constant`` of 1 (`UnsupportedError`).

    Source: the reference's ``torch.ao.quantization.observer.MovingAverageMinMaxObserver``;
    bit-equal to it.
    """

    def __init__(
        self,
        averaging_constant: float = 0.01,
        dtype: DTypeLike = quint8,
        qscheme: QScheme | Any = per_tensor_affine,
        reduce_range: bool = False,
        quant_min: int | None = None,
        quant_max: int | None = None,
        eps: float = EPS,
        is_dynamic: bool = False,
        factory_kwargs: dict[str, Any] | None = None,
    ) -> None:
        if is_dynamic and averaging_constant != 1:
            raise UnsupportedError(
                "Dynamic quantization looks at one input, not at an average over inputs",
                expected="averaging_constant=1 with is_dynamic=True",
                received=f"averaging_constant={averaging_constant}",
            )
        super().__init__(
            *(dtype, qscheme, reduce_range, quant_min, quant_max, factory_kwargs, eps, is_dynamic),
            policy=MovingAverage(averaging_constant),
        )
        self.averaging_constant = averaging_constant


class PerChannelMinMaxObserver(_RangeObserver):
    """The smallest and the largest value of all data, for each index of an axis.

    Args:
        ch_axis: The axis of the channels.
        dtype: As in `UniformQuantizationObserverBase`, like the others that are not named here.
        is_dynamic: There is no dynamic quantization per channel (`UnsupportedError`).
        policy: How the range is chosen; `MinMax` if None.

    Source: the reference's ``torch.ao.quantization.observer.PerChannelMinMaxObserver``; bit-equal
    to it.
    """

    schemes = (per_channel_affine, per_channel_symmetric, per_channel_affine_float_qparams)
    shaped_by_data = ("min_val", "max_val")

    def __init__(
        self,
        ch_axis: int = 0,
        dtype: DTypeLike = quint8,
        qscheme: QScheme | Any = per_channel_affine,
        reduce_range: bool = False,
        quant_min: int | None = None,
        quant_max: int | None = None,
        factory_kwargs: dict[str, Any] | None = None,
        eps: float = EPS,
        is_dynamic: bool = False,
        *,
        policy: RangePolicy | None = None,
    ) -> None:
        if is_dynamic:
            raise UnsupportedError(
                f"{type(self).__name__} does not do dynamic quantization",
                fix="Use MovingAverageMinMaxObserver with averaging_constant=1.",
            )
        super().__init__(
            *(dtype, qscheme, reduce_range, quant_min, quant_max, factory_kwargs, eps, is_dynamic),
            policy=policy,
            ch_axis=ch_axis,
        )


class MovingAveragePerChannelMinMaxObserver(PerChannelMinMaxObserver):
    """The moving average of each batch's smallest and largest value, for each index of an axis.

    Args:
        averaging_constant: Weight of the newest batch, above 0 and at most 1.
        ch_axis: The axis of the channels.
        dtype: As in `PerChannelMinMaxObserver`, like the others that are not named here.

    Source: the reference's
    ``torch.ao.quantization.observer.MovingAveragePerChannelMinMaxObserver``; bit-equal to it.
    """

    def __init__(
        self,
        averaging_constant: float = 0.01,
        ch_axis: int = 0,
        dtype: DTypeLike = quint8,
        qscheme: QScheme | Any = per_channel_affine,
        reduce_range: bool = False,
        quant_min: int | None = None,
        quant_max: int | None = None,
        eps: float = EPS,
        is_dynamic: bool = False,
        factory_kwargs: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(
            *(ch_axis, dtype, qscheme, reduce_range, quant_min, quant_max),
            *(factory_kwargs, eps, is_dynamic),
            policy=MovingAverage(averaging_constant),
        )
        self.averaging_constant = averaging_constant
