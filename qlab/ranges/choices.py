"""What every range policy makes of one tensor, and what any clip threshold would cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from qlab.errors import ArgumentError, DTypeError, UnsupportedError
from qlab.qparams import QParams
from qlab.ranges.error import QuantizationError, expected_error
from qlab.ranges.policies import MSE, Entropy, MinMax, MovingAverage, Percentile
from qlab.ranges.policy import RangePolicy, require_data
from qlab.ranges.spec import TensorSpec
from qlab.stats import TensorStats

#: The policies that choose from data, with their usual settings.
FROM_DATA: tuple[RangePolicy, ...] = (MinMax(), MovingAverage(), Percentile(), MSE(), Entropy())


@dataclass(frozen=True)
class RangeChoice:
    """A range for a tensor and its price.

    Attributes:
        label: The policy's label, or the threshold in words.
        qparams: One scale and zero point.
        error: What they are expected to cost on the tensor.
    """

    label: str
    qparams: QParams
    error: QuantizationError


def range_choices(
    stats: TensorStats, spec: TensorSpec, policies: Sequence[RangePolicy] = FROM_DATA
) -> tuple[RangeChoice, ...]:
    """What each policy chooses for a tensor; those that the spec's data type rules out are left
    out.

    Args:
        stats: With a histogram.
        spec: How to quantize, with one scale for the whole tensor; its own policy plays no part.
        policies: What to try.

    Raises:
        UncalibratedError: No data was seen.
        NonFiniteError: Only NaN and infinities were seen.

    Example:
        >>> import torch
        >>> stats = TensorStats.of(torch.tensor([0.0, 1.0, 2.0, 100.0]))
        >>> [choice.label for choice in range_choices(stats, TensorSpec.uint8_activation())][:2]
        ['min-max', 'moving average']
    """
    require_data(stats)
    found = []
    for policy in policies:
        try:
            qparams = replace(spec, policy=policy).qparams(stats)
        except (ArgumentError, DTypeError, UnsupportedError):
            continue
        found.append(RangeChoice(policy.label, qparams, expected_error(stats, qparams)))
    return tuple(found)


def clipped_at(stats: TensorStats, spec: TensorSpec, threshold: float) -> RangeChoice:
    """What it costs to clip a tensor's magnitudes at a threshold.

    The range is ``[max(min, -t), min(max, t)]``; it always holds 0, as quantizers need.

    Args:
        stats: With a histogram.
        spec: How to quantize, with one scale for the whole tensor; its own policy plays no part.
        threshold: t > 0, in the tensor's own unit.

    Raises:
        ArgumentError: The threshold is not a positive number.
        UncalibratedError: No data was seen.
    """
    if not 0 < threshold < float("inf"):
        raise ArgumentError(
            "A clip threshold is a positive number", expected="t > 0", received=threshold
        )
    require_data(stats)
    low, high = (end.clamp(-threshold, threshold) for end in (stats.min_val, stats.max_val))
    qparams = spec.choose(low, high)
    return RangeChoice(f"clip at {threshold:g}", qparams, expected_error(stats, qparams))
