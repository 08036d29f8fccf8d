"""`TensorStats`: what a tensor looked like over any number of batches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Self, overload

import numpy as np
import torch
from torch import Tensor

from qlab import counting
from qlab.counting import Counted
from qlab.errors import ArgumentError, FormatError, ShapeError, UnsupportedError
from qlab.histogram import Histogram
from qlab.qparams import check_float

_FORMAT = 2
_WITHOUT_VALUES = 1  # the format before values were kept


class TensorStats:
    """A mergeable description of a tensor over all batches.

    Everything is exact and independent of the order in which data came: counts and moments rest
    on integers, extrema on minimum and maximum. Two descriptions of parts of the data merge into
    the description of the whole, on any number of machines. It lives on the CPU, whatever the
    device of the data, and its size does not grow with the data: one row of 36 bytes per histogram
    bin in use, 16 bytes per batch, 8 bytes per channel. Of few values, too few for what a bin holds
    to even out, the values themselves are kept (`values`).

    NaN and infinities are counted and otherwise left out. float64 values beyond float32's range
    count as infinities; float16 and bfloat16 are converted exactly. An empty tensor adds nothing.

    >>> one, other = TensorStats.of(torch.tensor([0.0, 1.0])), TensorStats.of(torch.tensor([5.0]))
    >>> one.merge(other)
    TensorStats(count=3, min=0, max=5, mean=2, std=2.16, batches=1)

    Args:
        channel_axis: Axis whose indices get extrema of their own; None for none.
        histogram: Whether to keep the histogram, which moments and quantiles need and minimum
            and maximum do not.

    Attributes:
        count: Number of finite values seen.
        nan_count: Number of NaN seen.
        inf_count: Number of infinities seen.
        channel_axis: As given.
        batch_index: int64 ``(B,)``: index of each batch with a finite value, ascending.
        batch_min: float32 ``(B,)``: smallest finite value of each of them.
        batch_max: float32 ``(B,)``: largest finite value of each of them.
    """

    def __init__(self, *, channel_axis: int | None = None, histogram: bool = True) -> None:
        self.channel_axis = channel_axis
        self.has_histogram = histogram
        self.count = 0
        self.nan_count = 0
        self.inf_count = 0
        self.batch_index = torch.zeros(0, dtype=torch.int64)
        self.batch_min = torch.zeros(0)
        self.batch_max = torch.zeros(0)
        self._channel_min = torch.zeros(0)
        self._channel_max = torch.zeros(0)
        self._keys, self._table = counting.empty_table()
        self._values = torch.zeros(0)

    @classmethod
    def of(cls, x: Tensor, *, channel_axis: int | None = None) -> Self:
        """Describes one tensor, such as a weight.

        Args:
            x: Any floating dtype, shape and device.
            channel_axis: As in the constructor.

        Raises:
            DTypeError: ``x`` is not floating point.
            ShapeError: ``x`` has no such axis.
        """
        stats = cls(channel_axis=channel_axis)
        stats.update(x)
        return stats

    def update(self, x: Tensor, batch: int | None = None) -> None:
        """Adds a tensor.

        Args:
            x: Any floating dtype, shape and device.
            batch: Index of the batch it belongs to, 0 or above; by default one more than the
                largest so far. Parts of one batch share its index. Give it where data is
                collected in several places that merge later, or out of order.

        Raises:
            DTypeError: ``x`` is not floating point.
            ShapeError: ``x`` has no axis ``channel_axis``, or another number of channels than
                before.
            ArgumentError: The batch index is negative.
        """
        check_float(x, "TensorStats.update")
        if batch is not None and batch < 0:
            raise ArgumentError("A batch index is 0 or above", received=batch)
        if not x.numel():
            self._check_channels(x)
            return
        x, before = x.detach().to(torch.float32), self.count
        axis = self._check_channels(x)
        counted = counting.count_compiled(x, axis) if self.has_histogram else None
        low, high = self._extrema(x, axis, counted)
        if counted is not None:
            added = counting.without_nonfinite(*counted.table)
            self._keys, self._table = counting.merge_tables((self._keys, self._table), added)
        elif self.has_histogram:
            added = counting.without_nonfinite(*counting.count_keys(x))
            self._keys, self._table = counting.add_tables((self._keys, self._table), added)
        if low <= high:
            self._add_batch(batch, low, high)
        if self.has_histogram:
            self._values = counting.keep_values((self._values, before), x, self.count)
        for computed in ("_histogram", "_sorted"):
            self.__dict__.pop(computed, None)

    def _check_channels(self, x: Tensor) -> int | None:
        """The axis of channels, counted from the front; None without one."""
        axis = self.channel_axis
        if axis is None:
            return None
        if not -x.dim() <= axis < x.dim():
            raise ShapeError(
                f"Statistics per channel: the tensor has no axis {axis}",
                expected=f"at least {axis + 1 if axis >= 0 else -axis} dimensions",
                received=f"shape {tuple(x.shape)}",
            )
        known = self._channel_min.numel()
        if known and x.shape[axis] != known:
            raise ShapeError(
                "Statistics per channel: the number of channels changed",
                expected=f"{known} channels along axis {axis}",
                received=f"shape {tuple(x.shape)}",
            )
        return axis % x.dim()

    def _extrema(self, x: Tensor, axis: int | None, counted: Counted | None) -> tuple[float, float]:
        """Smallest and largest finite value; counts elements and notes channel extrema."""
        ends = (counted.low, counted.high) if counted and counted.finite else None
        low, high = ends or counting.extrema(x, axis)
        ends = torch.stack([low.amin(), high.amax()]).tolist()
        self.count += x.numel()
        if not all(map(math.isfinite, ends)):
            nan, infinite = int(x.isnan().sum()), int(x.isinf().sum())
            self.nan_count += nan
            self.inf_count += infinite
            self.count -= nan + infinite
            finite = x.isfinite()
            low = counting.extrema(x.where(finite, torch.inf), axis)[0]
            high = counting.extrema(x.where(finite, -torch.inf), axis)[1]
            ends = torch.stack([low.amin(), high.amax()]).tolist()
        if self.channel_axis is not None:
            self._add_channels(low.cpu(), high.cpu())
        return ends[0], ends[1]

    def _add_channels(self, low: Tensor, high: Tensor) -> None:
        if self._channel_min.numel():
            low, high = (
                torch.minimum(self._channel_min, low),
                torch.maximum(self._channel_max, high),
            )
        self._channel_min, self._channel_max = low, high

    def _add_batch(self, batch: int | None, low: float, high: float) -> None:
        last = int(self.batch_index[-1]) if self.batch_index.numel() else -1
        index = last + 1 if batch is None else batch
        self._add_batches(torch.tensor([index]), torch.tensor([low]), torch.tensor([high]))

    def _add_batches(self, index: Tensor, low: Tensor, high: Tensor) -> None:
        index = torch.cat([self.batch_index, index])
        low, high = torch.cat([self.batch_min, low]), torch.cat([self.batch_max, high])
        if bool((index.diff() <= 0).any()):
            index, where = torch.unique(index, return_inverse=True)
            low = torch.full((index.numel(),), torch.inf).scatter_reduce(0, where, low, "amin")
            high = torch.full((index.numel(),), -torch.inf).scatter_reduce(0, where, high, "amax")
        self.batch_index, self.batch_min, self.batch_max = index, low, high

    def merge(self, other: TensorStats) -> TensorStats:
        """The description of both sets of data together; neither argument changes.

        Batches with the same index count as parts of one batch.

        Raises:
            ArgumentError: The two were collected in different ways (channel axis, histogram).
            ShapeError: They have different numbers of channels.
        """
        mine, theirs = self._settings(), other._settings()
        if mine != theirs:
            raise ArgumentError(
                "Statistics that were collected in different ways do not merge",
                expected=", ".join(f"{k}={v}" for k, v in mine.items()),
                received=", ".join(f"{k}={v}" for k, v in theirs.items()),
            )
        merged = TensorStats(channel_axis=self.channel_axis, histogram=self.has_histogram)
        channels = {s._channel_min.numel() for s in (self, other)} - {0}
        if len(channels) > 1:
            raise ShapeError(
                "Statistics with different numbers of channels do not merge",
                received=f"{sorted(channels)} channels",
            )
        merged.count = self.count + other.count
        merged.nan_count = self.nan_count + other.nan_count
        merged.inf_count = self.inf_count + other.inf_count
        merged._keys, merged._table = counting.merge_tables(
            (self._keys, self._table), (other._keys, other._table)
        )
        if merged.has_histogram:
            mine = self._values, self.count
            if other._values.numel() == other.count:
                merged._values = counting.keep_values(mine, other._values, merged.count)
        for part in (self, other):
            merged._add_batches(part.batch_index, part.batch_min, part.batch_max)
            if part._channel_min.numel():
                merged._add_channels(part._channel_min, part._channel_max)
        return merged

    def renumbered(self, by: int) -> TensorStats:
        """A copy whose batch indices are higher by ``by``: data that comes after other data.

        Raises:
            ArgumentError: A batch index would be negative.
        """
        copied = TensorStats.from_state_dict(self.state_dict())
        copied.batch_index = copied.batch_index + by
        if bool((copied.batch_index < 0).any()):
            raise ArgumentError("A batch index is 0 or above", received=f"a shift by {by}")
        return copied

    @property
    def channels(self) -> int:
        """How many channels were seen; 0 where they are not told apart."""
        return self._channel_min.numel()

    def _settings(self) -> dict[str, object]:
        return {"channel_axis": self.channel_axis, "histogram": self.has_histogram}

    @property
    def min_val(self) -> Tensor:
        """Smallest finite value, 0-d float32; +inf if none was seen."""
        return self.batch_min.min() if self.batch_min.numel() else torch.tensor(torch.inf)

    @property
    def max_val(self) -> Tensor:
        """Largest finite value, 0-d float32; -inf if none was seen."""
        return self.batch_max.max() if self.batch_max.numel() else torch.tensor(-torch.inf)

    @property
    def channel_min(self) -> Tensor:
        """Smallest finite value of each channel, float32 ``(C,)``; +inf where none was seen.

        Raises:
            UnsupportedError: No ``channel_axis`` was given.
        """
        self._require_channels()
        return self._channel_min

    @property
    def channel_max(self) -> Tensor:
        """Largest finite value of each channel, float32 ``(C,)``; -inf where none was seen.

        Raises:
            UnsupportedError: No ``channel_axis`` was given.
        """
        self._require_channels()
        return self._channel_max

    def _require_channels(self) -> None:
        if self.channel_axis is None:
            raise UnsupportedError(
                "These statistics hold no extrema per channel",
                fix="Collect them with TensorStats(channel_axis=...).",
            )

    def histogram(self) -> Histogram:
        """Counts, edges and moments of every bin in use.

        Raises:
            UnsupportedError: The statistics were collected with ``histogram=False``.
        """
        if not self.has_histogram:
            raise UnsupportedError(
                "These statistics hold no histogram",
                fix="Collect them with TensorStats(histogram=True).",
            )
        return self._histogram

    @cached_property
    def _histogram(self) -> Histogram:
        low, high = float(self.min_val), float(self.max_val)
        return Histogram.from_table(self._keys, self._table, low, high)

    @property
    def values(self) -> Tensor | None:
        """All finite values, float32 ``(count,)`` in ascending order, where they are few.

        None of more than 65,536 values, without a histogram, and where statistics of an older
        format, which held no values, are part of them.
        """
        if not self.has_histogram or self._values.numel() != self.count:
            return None
        return self._sorted

    @cached_property
    def _sorted(self) -> Tensor:
        return self._values.sort().values

    @property
    def sum_of_squares(self) -> float:
        """Σx² over finite values; 0 if there are none."""
        h = self.histogram()
        return math.fsum((h.counts * (h.mean.square() + h.variance)).tolist())

    @property
    def mean(self) -> float:
        """Mean of the finite values; NaN if there are none."""
        h = self.histogram()
        return math.fsum((h.counts * h.mean).tolist()) / self.count if self.count else math.nan

    @property
    def variance(self) -> float:
        """Population variance of the finite values, ``Σ(x - mean)² / count``; NaN without any."""
        h = self.histogram()
        squares = h.counts * ((h.mean - self.mean).square() + h.variance)
        return math.fsum(squares.tolist()) / self.count if self.count else math.nan

    @property
    def zeros(self) -> int:
        """Number of values that are 0, or so small (below 1e-40) that they share its bin."""
        h = self.histogram()
        return int(h.counts[(h.keys & 0x7FFF) == 0].sum())

    @property
    def tail_ratio(self) -> float:
        """Largest magnitude over the one within which 99.8 % of the values lie; 1 is no outlier.

        1 too where those values are all 0; NaN without any finite value.
        """
        if not self.count:
            return math.nan
        low, high = self.quantile([0.001, 0.999])
        bulk = max(-low, high)
        return max(-float(self.min_val), float(self.max_val)) / bulk if bulk > 0 else 1.0

    @overload
    def quantile(self, q: float) -> float: ...

    @overload
    def quantile(self, q: Sequence[float]) -> list[float]: ...

    def quantile(self, q: float | Sequence[float]) -> float | list[float]:
        """Values below which a share ``q`` of the finite data lies; see `Histogram.quantile`."""
        return self.histogram().quantile(q)

    def display_histogram(
        self, bins: int = 256, low: float | None = None, high: float | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Counts in evenly spaced bins, for charts; see `Histogram.display`."""
        return self.histogram().display(bins, low, high)

    def state_dict(self) -> dict[str, Tensor]:
        """Plain tensors that `from_state_dict` reads back."""
        axis = [] if self.channel_axis is None else [self.channel_axis]
        return {
            "format": torch.tensor(_FORMAT),
            "counts": torch.tensor([self.count, self.nan_count, self.inf_count]),
            "channel_axis": torch.tensor(axis, dtype=torch.int64),
            "has_histogram": torch.tensor(self.has_histogram),
            "keys": self._keys.clone(),
            "table": self._table.clone(),
            "batch_index": self.batch_index.clone(),
            "batch_min": self.batch_min.clone(),
            "batch_max": self.batch_max.clone(),
            "channel_min": self._channel_min.clone(),
            "channel_max": self._channel_max.clone(),
            "values": self._sorted.clone(),
        }

    @classmethod
    def from_state_dict(cls, state: dict[str, Tensor]) -> TensorStats:
        """Inverse of `state_dict`.

        Raises:
            FormatError: An entry is missing, or the format is not known to this version.
        """
        expected = set(TensorStats().state_dict())
        if not isinstance(state, dict):
            raise FormatError(
                "These are no statistics of a tensor",
                expected="a dict, as state_dict returned",
                received=type(state).__name__,
            )
        if "format" in state and int(state["format"]) == _WITHOUT_VALUES:
            expected.discard("values")
        if state.keys() != expected:
            raise FormatError(
                "Not the state of a TensorStats",
                expected="entries " + ", ".join(sorted(expected)),
                received=", ".join(map(str, state)) or "nothing",
            )
        if int(state["format"]) not in (_FORMAT, _WITHOUT_VALUES):
            raise FormatError(
                "Statistics were saved in another format",
                expected=f"format {_FORMAT}",
                received=f"format {int(state['format'])}",
                fix="Read them with the version of qlab that wrote them.",
            )
        axis = state["channel_axis"].tolist()
        stats = cls(channel_axis=axis[0] if axis else None, histogram=bool(state["has_histogram"]))
        stats.count, stats.nan_count, stats.inf_count = state["counts"].tolist()
        stats._keys, stats._table = state["keys"].clone(), state["table"].clone()
        stats._values = state.get("values", stats._values).clone()
        for name in ("batch_index", "batch_min", "batch_max"):
            setattr(stats, name, state[name].clone())
        stats._channel_min = state["channel_min"].clone()
        stats._channel_max = state["channel_max"].clone()
        return stats

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TensorStats):
            return NotImplemented
        mine, theirs = self.state_dict(), other.state_dict()
        return all(torch.equal(mine[name], theirs[name]) for name in mine)

    def __repr__(self) -> str:
        parts = [f"count={self.count}"]
        if self.count:
            parts += [f"min={float(self.min_val):.4g}", f"max={float(self.max_val):.4g}"]
        if self.has_histogram and self.count:
            parts += [f"mean={self.mean:.4g}", f"std={math.sqrt(self.variance):.4g}"]
        parts.append(f"batches={self.batch_index.numel()}")
        if self.nan_count or self.inf_count:
            parts.append(f"nan={self.nan_count}, inf={self.inf_count}")
        return f"TensorStats({', '.join(parts)})"
