"""The histogram behind `TensorStats`: bins that are the top 16 bits of the float32.

A bin's key is sign, exponent and the first 7 bits of the mantissa, so that bins are at most 0.8 %
wide relative to their values, whatever the range. The 16 bits below the key say where in its bin
a value lies; their sum and sum of squares are kept as exact integers. So the first two moments of
every bin are known, a bin whose values all lie on one point is seen as that point, and nothing
depends on the order in which data came.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
import torch
from torch import Tensor

from qlab.counting import CARRY
from qlab.errors import ArgumentError, UncalibratedError


def _magnitude(bits: Tensor) -> Tensor:
    """|x| of the smallest magnitude in the bin of a sign-less key; 2**128 beyond the last bin."""
    value = (bits.to(torch.int32) << 16).view(torch.float32).to(torch.float64)
    return value.masked_fill(value.isinf(), 2.0**128)


@dataclass(frozen=True, eq=False)
class Histogram:
    """Counts of a tensor's finite values in bins of fixed edges, sorted by value.

    Attributes:
        keys: int32 ``(K,)``: the top 16 bits of the float32 values in the bin, 0 to 65535.
        counts: int64 ``(K,)``.
        lower: float64 ``(K,)``: lower edges, clipped to the smallest value seen.
        upper: float64 ``(K,)``: upper edges, clipped to the largest value seen.
        mean: float64 ``(K,)``: mean of the values in each bin.
        variance: float64 ``(K,)``: their population variance; 0 where all lie on one point.
    """

    keys: Tensor
    counts: Tensor
    lower: Tensor
    upper: Tensor
    mean: Tensor
    variance: Tensor

    @classmethod
    def from_table(cls, keys: Tensor, table: Tensor, min_val: float, max_val: float) -> Histogram:
        """Builds it from what `qlab.counting.add_tables` gives, without its non-finite bins."""
        negative = int(torch.searchsorted(keys, 0x8000))
        order = torch.cat([torch.arange(negative, keys.numel()).flip(0), torch.arange(negative)])
        keys, table = keys[order], table[:, order]
        inner = _magnitude(keys & 0x7FFF)
        outer = _magnitude((keys & 0x7FFF) + 1)
        unit = (outer - inner) / 2**16
        count, offsets = table[0].to(torch.float64), table[1].to(torch.float64)
        squares = table[2].to(torch.float64) + table[3].to(torch.float64) * 2.0**CARRY
        centre = offsets / count
        # Below 1e-9 of a square lies the rounding of float64, not a spread.
        spread = squares / count - centre.square()
        spread = spread.masked_fill(spread < 1e-9 * centre.square(), 0.0)
        below = keys >= 0x8000
        mean = inner + unit * centre
        return cls(
            keys=keys,
            counts=table[0],
            lower=torch.where(below, -outer, inner).clamp(min_val, max_val),
            upper=torch.where(below, -inner, outer).clamp(min_val, max_val),
            mean=torch.where(below, -mean, mean),
            variance=unit.square() * spread,
        )

    @property
    def half_width(self) -> Tensor:
        """float64 ``(K,)``: half the width of the uniform density with each bin's variance."""
        return (3 * self.variance).sqrt()

    def _density(self) -> tuple[Tensor, Tensor]:
        """Where each bin's values are taken to lie: evenly around the mean, within its edges."""
        half = self.half_width
        low = torch.maximum(self.mean - half, self.lower)
        return torch.minimum(low, self.upper), torch.minimum(self.mean + half, self.upper)

    @overload
    def quantile(self, q: float) -> float: ...

    @overload
    def quantile(self, q: Sequence[float]) -> list[float]: ...

    def quantile(self, q: float | Sequence[float]) -> float | list[float]:
        """Values below which a share ``q`` of the data lies.

        Linear between the edges of what a bin's values occupy, so that the error is below the
        width of one bin (0.8 % of the value); exact at 0 and 1 and where a bin is one point.

        Args:
            q: One share or several, each from 0 to 1.

        Returns:
            A number for a number, a list for a sequence.

        Raises:
            ArgumentError: A share outside 0 to 1.
            UncalibratedError: The histogram is empty.
        """
        shares = torch.as_tensor(q, dtype=torch.float64).flatten()
        if not bool(((shares >= 0) & (shares <= 1)).all()):
            raise ArgumentError("quantile: a share lies from 0 to 1", received=repr(q))
        if not self.keys.numel():
            raise UncalibratedError(
                "quantile: the histogram is empty", fix="Collect finite values first."
            )
        ends = self.counts.cumsum(0).to(torch.float64)
        rank = shares * ends[-1]
        at = torch.searchsorted(ends, rank).clamp(max=ends.numel() - 1)
        low, high = self._density()
        part = (1 - (ends[at] - rank) / self.counts[at]).clamp(0, 1)
        values = low[at] + part * (high[at] - low[at])
        values = torch.where(shares == 0, self.lower[0], values)
        values = torch.where(shares == 1, self.upper[-1], values)
        return values.tolist() if isinstance(q, Sequence) else float(values[0])

    def display(
        self, bins: int = 256, low: float | None = None, high: float | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Counts in evenly spaced bins, for charts.

        Args:
            bins: How many.
            low: Left edge of the first bin; the smallest value by default.
            high: Right edge of the last bin; the largest value by default.

        Returns:
            Edges, float64 ``(bins + 1,)``, and counts, float64 ``(bins,)``. Where a bin of the
            statistics straddles an edge its count is split in proportion, so counts need not be
            whole; their sum is the number of values between ``low`` and ``high``. Without data
            all counts are 0; for a constant the bins cover one unit around it.

        Raises:
            ArgumentError: Fewer than one bin, or ``low >= high``.
        """
        if bins < 1:
            raise ArgumentError("A histogram has at least one bin", received=f"bins={bins}")
        first, last = (
            (float(self.lower[0]), float(self.upper[-1])) if self.keys.numel() else (0.0, 1.0)
        )
        if low is None and high is None and first == last:
            first, last = first - 0.5, last + 0.5
        first, last = first if low is None else low, last if high is None else high
        if not first < last:
            raise ArgumentError(
                "The range of a histogram is empty",
                expected="low < high",
                received=f"low={first}, high={last}",
            )
        edges = torch.linspace(first, last, bins + 1, dtype=torch.float64)
        return edges.numpy(), self.rebin(edges).numpy()

    def rebin(self, edges: Tensor) -> Tensor:
        """Counts in other bins; each old bin is split in proportion.

        Args:
            edges: float64 ``(B + 1,)``, ascending. Values on an edge belong to the bin above, on
                the last edge to the last bin; values outside are left out.

        Returns:
            float64 ``(B,)``.
        """
        low, high = self._density()
        ends = torch.cat([torch.zeros(1, dtype=torch.float64), self.counts.cumsum(0)])
        if not self.keys.numel():
            return torch.zeros(edges.numel() - 1, dtype=torch.float64)
        at = torch.searchsorted(high, edges)
        at[-1] = torch.searchsorted(high, edges[-1], right=True)
        inside = at.clamp(max=self.keys.numel() - 1)
        width = (high - low)[inside]
        part = ((edges - low[inside]) / width).masked_fill(width == 0, 0.0).clamp(0, 1)
        part = torch.where(at > inside, 0.0, part)
        below = ends[at] + part * self.counts[inside]
        return below.diff()
