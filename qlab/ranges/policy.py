"""What every range policy has in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict
from typing import Any, ClassVar

from torch import Tensor

from qlab.errors import NonFiniteError, UncalibratedError, UnsupportedError
from qlab.granularity import PerAxis, PerTensor
from qlab.qparams import QParams
from qlab.ranges.scheme import Scheme
from qlab.stats import TensorStats

Range = tuple[Tensor, Tensor]


class RangePolicy(ABC):
    """How to choose a range; frozen and hashable, with its parameters as fields."""

    name: ClassVar[str]
    needs_histogram: ClassVar[bool] = True

    @property
    @abstractmethod
    def label(self) -> str:
        """The policy in words, for people."""

    @abstractmethod
    def tensor_range(self, stats: TensorStats, scheme: Scheme) -> Range:
        """Range of a whole tensor with at least one finite value, two 0-d tensors."""

    def channel_range(self, stats: TensorStats, scheme: Scheme) -> Range:
        """Range of each channel, two tensors ``(C,)``, where statistics hold enough for it."""
        raise UnsupportedError(
            f"Statistics hold no {self.label} range per channel",
            received=f"{scheme.granularity}",
            fix="Use MinMax(), or PerTensor(), or qparams_of(tensor) where the data is at hand.",
        )

    @abstractmethod
    def row_range(self, rows: Tensor, scheme: Scheme) -> Range:
        """Range of each row of finite float32 data ``(R, E)``, E > 0: two tensors ``(R,)``."""

    # Not abstract, since most policies fit all codes.
    def check(self, scheme: Scheme) -> None:  # noqa: B027
        """Raises where the policy does not fit the codes."""

    def range(self, stats: TensorStats, scheme: Scheme) -> Range:
        """Smallest and largest value that codes shall cover.

        Args:
            stats: What the tensor looked like.
            scheme: The codes, such as a `TensorSpec`.

        Returns:
            Two float tensors shaped as the scales: ``()`` or ``(C,)``.

        Raises:
            UncalibratedError: No data was seen.
            NonFiniteError: Only NaN and infinities were seen.
            UnsupportedError: The statistics do not hold what the policy needs.
        """
        require_data(stats)
        match scheme.granularity:
            case PerTensor():
                return self.tensor_range(stats, scheme)
            case PerAxis(axis) if stats.channel_axis in (axis, None):
                return self.channel_range(stats, scheme)
        raise UnsupportedError(
            "The statistics were not collected for this granularity",
            expected=f"statistics for {scheme.granularity}",
            received=f"statistics with channel_axis={stats.channel_axis}",
            fix="Use qparams_of(tensor) where the data is at hand.",
        )

    def qparams(self, stats: TensorStats, scheme: Scheme) -> QParams:
        """Scale and zero point; errors as in `range`."""
        return scheme.choose(*self.range(stats, scheme))

    def row_qparams(self, rows: Tensor, scheme: Scheme, shape: tuple[int, ...]) -> QParams:
        """Scales of the given shape, one for each row of finite data."""
        low, high = self.row_range(rows, scheme)
        return scheme.choose(low.reshape(shape), high.reshape(shape))

    def to_dict(self) -> dict[str, Any]:
        """JSON form, read back by `policy_from_dict`."""
        return {"name": self.name, **asdict(self)}  # pyright: ignore[reportArgumentType]


def require_data(stats: TensorStats) -> None:
    """Raises unless at least one finite value was seen."""
    if stats.count:
        return
    if stats.nan_count or stats.inf_count:
        raise NonFiniteError(
            "No range to choose from: every value seen was NaN or infinite",
            received=f"{stats.nan_count} NaN and {stats.inf_count} infinities",
            fix="Look for the first layer whose output is not finite.",
        )
    raise UncalibratedError(
        "No range to choose from: no data was seen",
        fix="Run calibration data through the model (or the observer) first.",
    )


def require_zero_in_range(policy: RangePolicy, scheme: Scheme) -> None:
    """Raises where ranges need not contain 0, which policies that shrink a range towards it ask."""
    if scheme.float_zero_point:
        raise UnsupportedError(
            f"{policy.label} searches among ranges that contain 0",
            received="float_zero_point=True",
            fix="Choose MinMax() or Percentile().",
        )
