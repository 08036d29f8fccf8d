"""Policies that turn what a tensor looked like into the range that its codes shall cover."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from qlab.errors import (
    ArgumentError,
    FormatError,
    NonFiniteError,
    ShapeError,
    UnknownNameError,
    UnsupportedError,
    check_type,
)
from qlab.granularity import PerTensor
from qlab.qparams import QParams
from qlab.ranges.entropy import best_bound, magnitudes
from qlab.ranges.error import Bins
from qlab.ranges.policy import Range, RangePolicy, require_data, require_zero_in_range
from qlab.ranges.scheme import Scheme
from qlab.ranges.search import best_range, best_row_ranges
from qlab.stats import TensorStats


@dataclass(frozen=True)
class MinMax(RangePolicy):
    """From the smallest to the largest value: nothing is clipped."""

    name: ClassVar[str] = "min_max"
    needs_histogram: ClassVar[bool] = False

    @property
    def label(self) -> str:
        return "min-max"

    def tensor_range(self, stats: TensorStats, scheme: Scheme) -> Range:
        return stats.min_val, stats.max_val

    def channel_range(self, stats: TensorStats, scheme: Scheme) -> Range:
        low, high = stats.channel_min, stats.channel_max
        empty = (low > high).nonzero().flatten().tolist()
        if empty:
            raise NonFiniteError(
                "No range to choose from: a channel held no finite value",
                received=f"channels {empty}",
                fix="Look for the first layer whose output is not finite.",
            )
        return low, high

    def row_range(self, rows: Tensor, scheme: Scheme) -> Range:
        return rows.amin(1), rows.amax(1)


@dataclass(frozen=True)
class MovingAverage(RangePolicy):
    """Moving average of each batch's extrema, in the order of batch indices.

    The first batch sets both bounds; from then on ``bound += constant * (extremum - bound)``,
    each operation rounded to float32. With one batch it is `MinMax`.

    Args:
        constant: Weight of the newest batch, above 0 and at most 1.

    Source: pytorch.org/docs, ``MovingAverageMinMaxObserver``.
    """

    constant: float = 0.01
    name: ClassVar[str] = "moving_average"
    needs_histogram: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_type("MovingAverage", "the constant", self.constant, (int, float), "a number")
        if not 0 < self.constant <= 1:
            raise ArgumentError(
                "MovingAverage: the constant is a weight",
                expected="0 < constant <= 1",
                received=self.constant,
            )

    @property
    def label(self) -> str:
        return "moving average"

    def step(self, average: Tensor, extremum: Tensor) -> Tensor:
        """The average after one more batch; float32, any shape."""
        return average + self.constant * (extremum - average)

    def tensor_range(self, stats: TensorStats, scheme: Scheme) -> Range:
        extrema = torch.stack([stats.batch_min, stats.batch_max], 1).numpy()
        average, constant = extrema[0], np.float32(self.constant)
        for extremum in extrema[1:]:
            average = average + constant * (extremum - average)
        low, high = torch.from_numpy(average.copy())
        return low, high

    def row_range(self, rows: Tensor, scheme: Scheme) -> Range:
        return rows.amin(1), rows.amax(1)


@dataclass(frozen=True)
class Percentile(RangePolicy):
    """Leaves out the same share of the data at either end.

    The range goes from the ``100 - percent`` to the ``percent`` percentile; a symmetric scheme
    takes the larger magnitude of the two. From statistics the percentiles are exact to one
    histogram bin (0.8 %); from data they are values of the data.

    Args:
        percent: Above 50 and at most 100.
    """

    percent: float = 99.99
    name: ClassVar[str] = "percentile"

    def __post_init__(self) -> None:
        if not 50 < self.percent <= 100:
            raise ArgumentError(
                "Percentile: a range needs its upper end above its lower end",
                expected="50 < percent <= 100",
                received=self.percent,
            )

    @property
    def label(self) -> str:
        return f"percentile {self.percent:g}"

    def tensor_range(self, stats: TensorStats, scheme: Scheme) -> Range:
        share = self.percent / 100
        low, high = torch.tensor(stats.quantile([1 - share, share]), dtype=torch.float32)
        return low, high

    def row_range(self, rows: Tensor, scheme: Scheme) -> Range:
        size = rows.shape[1]
        rank = min(size, max(1, math.ceil(self.percent / 100 * size)))
        return rows.kthvalue(size + 1 - rank, 1).values, rows.kthvalue(rank, 1).values


@dataclass(frozen=True)
class MSE(RangePolicy):
    """The range with the least expected squared error, never worse than `MinMax`."""

    name: ClassVar[str] = "mse"

    def check(self, scheme: Scheme) -> None:
        require_zero_in_range(self, scheme)

    @property
    def label(self) -> str:
        return "least squared error"

    def tensor_range(self, stats: TensorStats, scheme: Scheme) -> Range:
        low, high = best_range(Bins.of(stats), float(stats.min_val), float(stats.max_val), scheme)
        return torch.tensor(low), torch.tensor(high)

    def row_range(self, rows: Tensor, scheme: Scheme) -> Range:
        low, high = best_row_ranges(rows.cpu(), scheme)
        return low.float().to(rows.device), high.float().to(rows.device)


@dataclass(frozen=True)
class Entropy(RangePolicy):
    """The bound on magnitudes whose codes diverge least from the data (Kullback-Leibler).

    Zeros are left out, since every range expresses them exactly; they would outweigh the rest
    after ReLU.

    Args:
        bins: How many even bins of magnitude are compared.

    Source: S. Migacz, 8-bit Inference with TensorRT, GTC 2017.
    """

    bins: int = 2048
    name: ClassVar[str] = "entropy"

    def __post_init__(self) -> None:
        if self.bins < 2:
            raise ArgumentError("Entropy: at least two bins", received=self.bins)

    @property
    def label(self) -> str:
        return "entropy"

    def check(self, scheme: Scheme) -> None:
        require_zero_in_range(self, scheme)
        if scheme.dtype.is_float:
            raise UnsupportedError(
                "Entropy compares evenly spaced codes",
                expected="an integer type",
                received=scheme.dtype.name,
                fix="Choose MSE() or MinMax().",
            )

    def tensor_range(self, stats: TensorStats, scheme: Scheme) -> Range:
        low, high = float(stats.min_val), float(stats.max_val)
        most = max(-low, high)
        if most == 0:
            return stats.min_val, stats.max_val
        counts = magnitudes(stats.histogram(), most, self.bins)
        return _bounded(low, high, self._bound(counts, low, high, scheme), scheme)

    def row_range(self, rows: Tensor, scheme: Scheme) -> Range:
        device = rows.device
        ranges = [self._one_row(row, scheme) for row in rows.cpu()]
        low, high = (torch.stack(t).to(device) for t in zip(*ranges, strict=True))
        return low, high

    def _one_row(self, row: Tensor, scheme: Scheme) -> Range:
        low, high = float(row.min()), float(row.max())
        most = max(-low, high)
        if most == 0:
            return row.min(), row.max()
        shares = row[row != 0].abs().to(torch.float64) / most
        counts = torch.histc(shares, self.bins, 0, 1)
        return _bounded(low, high, self._bound(counts, low, high, scheme), scheme)

    def _bound(self, counts: Tensor, low: float, high: float, scheme: Scheme) -> float:
        first, last = scheme.limits
        levels = last - first + 1
        if scheme.symmetric or low < 0 < high:
            levels = max(1, levels // 2)
        return max(-low, high) * best_bound(counts, levels) / self.bins


def _bounded(low: float, high: float, bound: float, scheme: Scheme) -> Range:
    if scheme.symmetric:
        return torch.tensor(-bound), torch.tensor(bound)
    return torch.tensor(max(min(low, 0.0), -bound)), torch.tensor(min(max(high, 0.0), bound))


@dataclass(frozen=True)
class Fixed(RangePolicy):
    """Given scales and zero points, whatever the data; it needs no calibration.

    Args:
        scale: Positive, finite; real units per code. A tuple gives each channel or group its own,
            in the order of the flattened scales.
        zero_point: A code of the spec's type; 0 for float8. One for all scales, or a tuple.
    """

    scale: float | tuple[float, ...]
    zero_point: int | tuple[int, ...]
    name: ClassVar[str] = "fixed"
    needs_histogram: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for field in ("scale", "zero_point"):
            if isinstance(given := getattr(self, field), list):
                object.__setattr__(self, field, tuple(given))
        if not all(math.isfinite(scale) and scale > 0 for scale in self.scales):
            raise ArgumentError(
                "Fixed: a scale is positive and finite", received=f"scale={self.scale}"[:200]
            )
        if isinstance(self.zero_point, tuple) and len(self.zero_point) != len(self.scales):
            raise ArgumentError(
                "Fixed: one zero point for all scales, or one for each",
                expected=f"{len(self.scales)} zero points",
                received=f"{len(self.zero_point)}",
            )

    @classmethod
    def of(cls, qparams: QParams) -> Fixed:
        """The policy that gives exactly these scales and zero points."""
        if not qparams.scale.ndim:
            return cls(float(qparams.scale), int(qparams.zero_point))
        zero_points = tuple(qparams.zero_point.flatten().tolist())
        same = len(set(zero_points)) == 1
        return cls(tuple(qparams.scale.flatten().tolist()), zero_points[0] if same else zero_points)

    @property
    def scales(self) -> tuple[float, ...]:
        """All scales, of channels or groups in their order; one where they share it."""
        return self.scale if isinstance(self.scale, tuple) else (self.scale,)

    @property
    def zero_points(self) -> tuple[int, ...]:
        """All zero points, one for each scale."""
        given = self.zero_point
        return given if isinstance(given, tuple) else (given,) * len(self.scales)

    @property
    def label(self) -> str:
        if isinstance(self.scale, tuple):
            low, high = min(self.scale), max(self.scale)
            return f"fixed at {len(self.scale)} scales from {low:g} to {high:g}"
        return f"fixed at scale {self.scale:g}, zero point {self.zero_point}"

    def check(self, scheme: Scheme) -> None:
        low, high = (0, 0) if scheme.dtype.is_float else scheme.limits
        if not all(low <= zero_point <= high for zero_point in self.zero_points):
            raise ArgumentError(
                f"Fixed: the zero point is no code of {scheme.dtype.name}",
                expected=f"{low} to {high}",
                received=str(self.zero_point)[:200],
            )
        if isinstance(self.scale, tuple) and isinstance(scheme.granularity, PerTensor):
            raise ArgumentError(
                "Fixed: one scale per tensor",
                expected="a number",
                received=f"{len(self.scale)} scales",
            )

    def range(self, stats: TensorStats, scheme: Scheme) -> Range:
        return self._range(self._channels(stats, scheme), scheme)

    def tensor_range(self, stats: TensorStats, scheme: Scheme) -> Range:
        return self._range((), scheme)

    def row_range(self, rows: Tensor, scheme: Scheme) -> Range:
        return self._range((rows.shape[0],), scheme)

    def qparams(self, stats: TensorStats, scheme: Scheme) -> QParams:
        return self._qparams(self._channels(stats, scheme), scheme)

    def row_qparams(self, rows: Tensor, scheme: Scheme, shape: tuple[int, ...]) -> QParams:
        return self._qparams(shape, scheme)

    def _channels(self, stats: TensorStats, scheme: Scheme) -> tuple[int, ...]:
        if isinstance(scheme.granularity, PerTensor):
            return ()
        channels = tuple(stats.channel_min.shape)
        if channels == (0,):
            require_data(stats)
        return channels

    def _range(self, shape: tuple[int, ...], scheme: Scheme) -> Range:
        scale, zero_point = self._filled(shape)
        low, high = ((code - zero_point) * scale for code in scheme.limits)
        return low, high

    def _qparams(self, shape: tuple[int, ...], scheme: Scheme) -> QParams:
        scale, zero_point = self._filled(shape)
        return QParams(scale, zero_point, scheme.dtype, scheme.granularity, *scheme.limits)

    def _filled(self, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Scales (float32) and zero points (int32) of a shape, in its order."""
        scale = torch.tensor(self.scales, dtype=torch.float32)
        zero_point = torch.tensor(self.zero_points, dtype=torch.int32)
        if not isinstance(self.scale, tuple):
            return scale[0].expand(shape).clone(), zero_point[0].expand(shape).clone()
        if math.prod(shape) != len(self.scale):
            raise ShapeError(
                "Fixed: the scales do not fit the tensor",
                expected=f"{math.prod(shape)} scales",
                received=f"{len(self.scale)}",
            )
        return scale.reshape(shape), zero_point.reshape(shape)


POLICIES: dict[str, type[RangePolicy]] = {
    policy.name: policy for policy in (MinMax, MovingAverage, Percentile, MSE, Entropy, Fixed)
}


def policy_from_dict(data: dict[str, Any]) -> RangePolicy:
    """Inverse of `RangePolicy.to_dict`.

    Raises:
        UnknownNameError: No policy has this name.
        FormatError: Fields are missing, or unknown ones are there.
    """
    arguments = dict(data)
    name = arguments.pop("name", None)
    if name not in POLICIES:
        raise UnknownNameError.of("range policy", name, POLICIES)
    policy = POLICIES[name]
    try:
        return policy(**arguments)
    except TypeError as error:
        known = [f.name for f in fields(policy)]  # pyright: ignore[reportArgumentType]
        raise FormatError(
            f"The range policy {name!r} has other fields",
            expected=", ".join(known) or "none",
            received=", ".join(arguments) or "none",
        ) from error
