"""The squared error that quantization does: expected, from statistics, or measured, on data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from qlab.dtypes import QDType
from qlab.errors import UnsupportedError
from qlab.qparams import QParams, check_float, dequantize, quantize
from qlab.stats import TensorStats


@dataclass(frozen=True)
class QuantizationError:
    """Sums of squares over all finite values of a tensor, in squared real units.

    Attributes:
        rounding: Error of the values inside the range of codes.
        clipping: Error of the values outside it, which saturate.
        signal: Σx².
        clipped_share: Share of the values outside the range, 0 to 1.
        scaled: Σ(error/scale)², no unit.
        count: Number of values.
    """

    rounding: float
    clipping: float
    signal: float
    clipped_share: float
    scaled: float
    count: int

    @property
    def total(self) -> float:
        """Σ(x - y)²: rounding and clipping together."""
        return self.rounding + self.clipping

    @property
    def sqnr_db(self) -> float:
        """10·log10(Σx² / Σ(x - y)²) in dB, higher is better; +inf without error, else -inf
        without signal."""
        if self.total == 0:
            return math.inf
        return 10 * math.log10(self.signal / self.total) if self.signal else -math.inf

    @property
    def nmse(self) -> float:
        """Σ(x - y)² / Σx², lower is better; 0 without error, else +inf without signal."""
        if self.total == 0:
            return 0.0
        return self.total / self.signal if self.signal else math.inf

    @property
    def rmse_over_scale(self) -> float:
        """Root of the mean of (error/scale)²; evenly spread data gives 1/√12 ≈ 0.289."""
        return math.sqrt(self.scaled / self.count) if self.count else 0.0


@dataclass(frozen=True)
class Bins:
    """Groups of values known by their moments; tensors float64 that broadcast with each other.

    Attributes:
        count: Number of values in each group.
        mean: Their mean.
        variance: Their population variance.
    """

    count: Tensor
    mean: Tensor
    variance: Tensor

    @property
    def half_width(self) -> Tensor:
        """Half the width of the even density that has the group's mean and variance."""
        return (3 * self.variance).sqrt()

    @classmethod
    def of(cls, stats: TensorStats) -> Bins:
        """The histogram of statistics as bins sorted by mean, shape ``(K,)``.

        A bin of two values is two points, since two moments determine them.
        """
        histogram = stats.histogram()
        pair = (histogram.counts == 2) & (histogram.variance > 0)
        at = torch.repeat_interleave(pair + 1)
        second = torch.nn.functional.pad(at.diff() == 0, (1, 0))
        count, pair = histogram.counts[at].to(torch.float64), pair[at]
        shift = histogram.variance[at].sqrt() * torch.where(second, 1.0, -1.0)
        return cls(
            count=torch.where(pair, 1.0, count),
            mean=histogram.mean[at] + torch.where(pair, shift, 0.0),
            variance=torch.where(pair, 0.0, histogram.variance[at]),
        )

    def merged(self, group: Tensor) -> Bins:
        """Joins neighbours along the last axis of 1-d bins.

        Args:
            group: int64 ``(K,)``, ascending group numbers from 0.
        """
        size = int(group[-1]) + 1 if group.numel() else 0

        def total(values: Tensor) -> Tensor:
            return torch.zeros(size, dtype=torch.float64).index_add_(0, group, values)

        count = total(self.count)
        mean = total(self.count * self.mean) / count
        spread = self.variance + (self.mean - mean[group]).square()
        return Bins(count, mean, total(self.count * spread) / count)


@lru_cache
def _float_levels(dtype: QDType, low: int, high: int) -> tuple[Tensor, Tensor, Tensor]:
    """Levels of a float8 grid, the thresholds between them, and each level's offset.

    The offset makes ``offset + r³/3``, r the distance from the level, an antiderivative of the
    squared rounding error.
    """
    codes = torch.arange(256, dtype=torch.uint8).view(dtype.storage).to(torch.float32)
    codes = codes[codes.isfinite()].clamp(low, high)
    levels = codes.to(dtype.storage).to(torch.float32).unique().to(torch.float64)
    gaps = levels.diff()
    offsets = torch.cat([gaps.new_zeros(1), (gaps**3 / 12).cumsum(0)])
    zero = int(torch.searchsorted(levels, 0.0))
    return levels, levels[:-1] + gaps / 2, offsets - offsets[zero]


def clip_margin(qparams: QParams) -> float:
    """How far beyond the last code, in codes, a value counts as clipped.

    Half a code for integers, which those values round over, and nothing for float8; plus the
    rounding of the float32 scale, so that the extrema that set a range are not clipped by it.
    """
    rounding = (qparams.quant_max - qparams.quant_min) * 2.0**-22
    return rounding if qparams.dtype.is_float else 0.5 + rounding


class Grid:
    """The codes of one or many sets of parameters, on the axis ``x / scale + zero_point``.

    Args:
        qparams: Scale and zero point of shape S.
    """

    def __init__(self, qparams: QParams) -> None:
        self.scale = qparams.scale.to(torch.float64)[..., None]
        self.zero_point = qparams.zero_point.to(torch.float64)[..., None]
        self.levels = None
        self.first, self.last = qparams.quant_min, qparams.quant_max
        self.margin = clip_margin(qparams)
        if qparams.dtype.is_float:
            self.levels = _float_levels(qparams.dtype, qparams.quant_min, qparams.quant_max)

    def codes(self, x: Tensor) -> Tensor:
        """Where real numbers ``S + (K,)`` lie between the codes, before rounding."""
        return x / self.scale + self.zero_point

    def nearest(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """The level that ``u`` rounds to, and for float8 that level's offset (`_float_levels`)."""
        if self.levels is None:
            level = torch.round(u).clamp_(self.first, self.last)
            return level, level
        levels, thresholds, offsets = self.levels
        at = torch.bucketize(u, thresholds)
        return levels[at], offsets[at]

    def mean_square(self, bins: Bins) -> Tensor:
        """Mean squared error of each bin in squared scales, ``S + (K,)``: ``(1/w)∫(u - q(u))² du``.

        The values of a bin are taken to lie evenly around its mean, with its variance. Where all
        of them round to one level the result is exact: ``(mean - level)² + variance``.
        """
        mean, half = self.codes(bins.mean), bins.half_width / self.scale
        low, high = mean - half, mean + half
        low_level, low_offset = self.nearest(low)
        high_level, high_offset = self.nearest(high)
        low -= low_level  # from here on distances, worked out in place: large tables come here
        high -= high_level
        # With distances a and b of the ends, d levels apart, b - a = w - d, and so the integral is
        # (b³ - a³)/3 + offsets = w·m + (offsets - d·m), m = (a² + ab + b²)/3.
        levels = high_level.sub_(low_level)
        offsets = levels / 12 if self.levels is None else high_offset - low_offset
        product = low * high
        mean_square = low.add_(high).square_().sub_(product).div_(3)
        offsets.sub_(levels.mul_(mean_square))
        # A width of 0 crosses no threshold: nothing is to be added then.
        return mean_square.add_(offsets.mul_(_inverse(2 * bins.half_width) * self.scale))

    def clipped(self, bins: Bins) -> tuple[Tensor, Tensor]:
        """Each bin's share of values that saturate, and their part of `mean_square`."""
        mean, half = self.codes(bins.mean), bins.half_width / self.scale
        above = _above(mean, half, self.last, self.margin)
        below = _above(-mean, half, -self.first, self.margin)
        return above[0] + below[0], above[1] + below[1]

    def total(self, bins: Bins) -> Tensor:
        """Summed squared error in squared real units, shape S."""
        return (self.mean_square(bins) * bins.count).sum(-1) * self.scale[..., 0].square()


def _inverse(width: Tensor) -> Tensor:
    """1 / width; 0 where it is 0."""
    return (1 / width).masked_fill_(width == 0, 0.0)


def _above(mean: Tensor, half: Tensor, last: int, margin: float) -> tuple[Tensor, Tensor]:
    """Share of ``mean ± half`` beyond ``last + margin``, and the squared error it adds."""
    low, high = mean - half, mean + half
    limit = last + margin
    share = ((high - limit) / (high - low)).clamp(0, 1)
    cubes = ((high - last) ** 3 - margin**3) / 3 / (high - low)
    whole = (mean - last).square() + half.square() / 3
    error = torch.where(low >= limit, whole, torch.where(high > limit, cubes, 0.0))
    whole_share = torch.where(low >= limit, 1.0, torch.where(high > limit, share, 0.0))
    return whole_share, error


def expected_error(stats: TensorStats, qparams: QParams) -> QuantizationError:
    """The error that quantization would do to data of which the statistics are known.

    That of the values themselves where the statistics hold them (`TensorStats.values`), else
    `histogram_error`.

    Args:
        stats: With a histogram.
        qparams: One scale and zero point for the whole tensor, any data type.

    Returns:
        Sums over the ``stats.count`` finite values; all 0 if there are none.

    Raises:
        UnsupportedError: No histogram, or a scale per channel or group.
    """
    _check_one_scale(qparams)
    values = stats.values
    if values is None:
        return histogram_error(stats, qparams)
    return measured_error(values, qparams.to("cpu"))


def histogram_error(stats: TensorStats, qparams: QParams) -> QuantizationError:
    """As `expected_error`, from the histogram alone.

    An integral over the histogram's bins: inside a bin values are taken to lie evenly around the
    bin's own mean with the bin's own variance, so that a bin whose values lie on one point counts
    as that point. Within 1 % of the error measured on data from 2 to 8 bits, for smooth and for
    discrete data, where bins hold many values. Where they hold a few each, chance decides where
    these lie: of 4,096 values in 704 bins it was seen 1.4 % off, of 1,024 values 2.4 %.

    Args:
        stats: With a histogram.
        qparams: One scale and zero point for the whole tensor, any data type.

    Returns:
        Sums over the ``stats.count`` finite values; all 0 if there are none.

    Raises:
        UnsupportedError: No histogram, or a scale per channel or group.
    """
    _check_one_scale(qparams)
    bins, grid = Bins.of(stats), Grid(qparams.to("cpu"))
    share, clipped = (float((part * bins.count).sum()) for part in grid.clipped(bins))
    mean_square = float((grid.mean_square(bins) * bins.count).sum())
    unit = qparams.scale_value**2
    return QuantizationError(
        rounding=max(mean_square - clipped, 0.0) * unit,
        clipping=clipped * unit,
        signal=stats.sum_of_squares,
        clipped_share=share / stats.count if stats.count else 0.0,
        scaled=mean_square,
        count=stats.count,
    )


def _check_one_scale(qparams: QParams) -> None:
    if not qparams.per_tensor_granularity:
        raise UnsupportedError(
            "The expected error is known for one scale per tensor",
            expected="QParams of granularity PerTensor()",
            received=f"{qparams.granularity}",
            fix="Use measured_error on the tensor itself.",
        )


def measured_error(x: Tensor, qparams: QParams) -> QuantizationError:
    """The error that quantization does to a tensor.

    Args:
        x: Any floating dtype and shape; NaN and infinities are left out.
        qparams: Any granularity that fits ``x``.

    Returns:
        Sums over the finite values; all 0 if there are none.

    Raises:
        DTypeError: ``x`` is not floating point.
        ShapeError: Scales and ``x`` do not fit.
    """
    check_float(x, "measured_error")
    x, count = x.detach().to(torch.float32), x.numel()
    if count and not all(bool(end.isfinite()) for end in x.aminmax()):
        finite = x.isfinite()
        x, count = x.where(finite, 0.0), int(finite.sum())
    codes = quantize(x, qparams)
    squares = (x - dequantize(codes, qparams)).to(torch.float64).square_()
    rows = qparams.granularity.rows(squares).sum(1)
    scale = qparams.scale.to(torch.float64).reshape(-1)
    clipped, share = _clipped(x, codes, squares, qparams)
    total = float(rows.sum())
    return QuantizationError(
        rounding=max(total - clipped, 0.0),
        clipping=clipped,
        signal=float(x.to(torch.float64).square_().sum()),
        clipped_share=share / count if count else 0.0,
        scaled=float((rows / scale.square()).sum()),
        count=count,
    )


def _clipped(x: Tensor, codes: Tensor, squares: Tensor, qparams: QParams) -> tuple[float, int]:
    """Summed squares and number of the values beyond the range: only the end codes hold such."""
    ends = codes.to(torch.float32) if qparams.dtype.is_float else codes
    at = ((ends == qparams.quant_max) | (ends == qparams.quant_min)).flatten().nonzero().flatten()
    granularity = qparams.granularity
    scale, zero_point = (
        granularity.expand(values, x.shape).expand(x.shape).flatten()[at].to(torch.float64)
        for values in (qparams.scale, qparams.zero_point)
    )
    margin = clip_margin(qparams)
    code = x.flatten()[at] / scale + zero_point
    beyond = (code > qparams.quant_max + margin) | (code < qparams.quant_min - margin)
    return float(squares.flatten()[at][beyond].sum()), int(beyond.sum())
