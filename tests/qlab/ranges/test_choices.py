"""What policies choose for one tensor, and what thresholds cost, against the data itself."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qlab.dtypes import integer
from qlab.errors import ArgumentError, UncalibratedError
from qlab.ranges import MSE, MinMax, TensorSpec, clipped_at, measured_error, range_choices
from qlab.stats import TensorStats

UINT4 = TensorSpec(integer(4, signed=False))


def tensor(outlier: float = 0.0) -> torch.Tensor:
    x = torch.randn(20_000, generator=torch.Generator().manual_seed(0))
    x[0] = outlier or x[0]
    return x


def test_each_policy_chooses_and_its_price_is_the_one_measured_on_the_data():
    x = tensor(outlier=40.0)
    choices = {choice.label: choice for choice in range_choices(TensorStats.of(x), UINT4)}
    assert set(choices) == {
        "min-max", "moving average", "percentile 99.99", "least squared error", "entropy",
    }  # fmt: skip
    for choice in choices.values():
        assert choice.error.total == pytest.approx(
            measured_error(x, choice.qparams).total, rel=0.01
        )
    best = max(choices.values(), key=lambda choice: choice.error.sqnr_db)
    assert best.label == "least squared error"


def test_a_policy_that_does_not_fit_the_data_type_is_left_out():
    float8 = TensorSpec.from_dict({**UINT4.to_dict(), "dtype": "float8_e4m3fn", "symmetric": True})
    labels = [choice.label for choice in range_choices(TensorStats.of(tensor()), float8)]
    assert "min-max" in labels
    assert "entropy" not in labels


def test_without_data_there_is_nothing_to_choose_from():
    with pytest.raises(UncalibratedError):
        range_choices(TensorStats(), UINT4, (MinMax(),))
    with pytest.raises(UncalibratedError):
        clipped_at(TensorStats(), UINT4, 1.0)


@given(st.floats(0.05, 10), st.integers(2, 8), st.booleans())
def test_a_threshold_costs_what_the_data_says(threshold: float, bits: int, symmetric: bool):
    x = tensor()
    spec = TensorSpec(integer(bits, signed=symmetric), symmetric=symmetric)
    found = clipped_at(TensorStats.of(x), spec, threshold)
    measured = measured_error(x, found.qparams)
    assert found.error.total == pytest.approx(measured.total, rel=0.01)
    scale = found.qparams.scale_value
    reach = min(threshold, float(x.abs().max()))
    assert (found.qparams.dtype.levels - 1) * scale <= 2 * reach * 1.2 + 1e-6


def test_no_threshold_beats_the_least_squared_error_by_more_than_its_search_step():
    stats = TensorStats.of(tensor().abs())
    (best,) = range_choices(stats, UINT4, (MSE(),))
    tried = [clipped_at(stats, UINT4, t / 50).error.total for t in range(1, 250)]
    assert best.error.total <= 1.005 * min(tried)


@pytest.mark.parametrize("threshold", [0.0, -1.0, math.inf, math.nan])
def test_a_threshold_that_is_no_magnitude_is_refused(threshold: float):
    with pytest.raises(ArgumentError, match="clip threshold is a positive number"):
        clipped_at(TensorStats.of(tensor()), UINT4, threshold)
