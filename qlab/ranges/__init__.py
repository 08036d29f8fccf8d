"""From what a tensor looked like to how it is quantized: ranges, errors, specs."""

from qlab.ranges.choices import FROM_DATA, RangeChoice, clipped_at, range_choices
from qlab.ranges.error import (
    QuantizationError,
    expected_error,
    histogram_error,
    measured_error,
)
from qlab.ranges.policies import (
    MSE,
    POLICIES,
    Entropy,
    Fixed,
    MinMax,
    MovingAverage,
    Percentile,
    policy_from_dict,
)
from qlab.ranges.policy import RangePolicy
from qlab.ranges.spec import TensorSpec

__all__ = [
    "FROM_DATA",
    "MSE",
    "POLICIES",
    "Entropy",
    "Fixed",
    "MinMax",
    "MovingAverage",
    "Percentile",
    "QuantizationError",
    "RangeChoice",
    "RangePolicy",
    "TensorSpec",
    "clipped_at",
    "expected_error",
    "histogram_error",
    "measured_error",
    "policy_from_dict",
    "range_choices",
]
