"""What codes mean and cost, against the formats' own definitions."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qlab.analysis.formats import (
    DB_PER_BIT,
    FLOAT8,
    all_codes,
    cost_of,
    format_costs,
    spacing,
    stored_bytes,
)
from qlab.dtypes import QDType, float8_e4m3fn, float8_e5m2, integer
from qlab.granularity import PerAxis, PerGroup, PerTensor
from qlab.qparams import QParams
from qlab.ranges import TensorSpec
from qlab.stats import TensorStats


def meaning(bits: str, bias: int) -> float:
    """A float8's value by IEEE 754's rules, without the special codes."""
    sign, exponent, mantissa = bits.split()
    power, fraction = int(exponent, 2), int(mantissa, 2) / 2 ** len(mantissa)
    value = (1 + fraction) * 2.0 ** (power - bias) if power else fraction * 2.0 ** (1 - bias)
    return -value if sign == "1" else value


@pytest.mark.parametrize(("dtype", "bias"), [(float8_e4m3fn, 7), (float8_e5m2, 15)])
def test_float8_patterns_are_taken_apart_at_the_right_bits(dtype: QDType, bias: int):
    table = all_codes(QParams.per_tensor(1.0, 0, dtype))
    assert len(table) == 256
    for bits, value in zip(table["bits"], table["value"], strict=True):
        if math.isfinite(value):
            assert meaning(bits, bias) == value
    assert int((~table["value"].map(math.isfinite)).sum()) == (2 if dtype is float8_e4m3fn else 8)


@given(st.integers(2, 8), st.booleans())
def test_integer_patterns_are_twos_complement(bits: int, signed: bool):
    table = all_codes(QParams.per_tensor(0.5, 1, integer(bits, signed=signed)))
    assert len(table) == len(set(table["bits"])) == 2**bits
    for pattern, code, value in table.itertuples(index=False):
        raw = int(pattern, 2)
        assert code == (raw - 2**bits if signed and raw >= 2 ** (bits - 1) else raw)
        assert value == (code - 1) * 0.5


def test_integers_keep_the_step_and_floats_the_ratio():
    even = spacing(QParams.per_tensor(0.25, 0, integer(4, signed=True)))
    assert even["step"].tolist() == [0.25] * 6
    floats = spacing(QParams.per_tensor(1.0, 0, float8_e4m3fn))
    normal = floats[floats["value"] >= 2**-6]
    assert normal["relative"].max() == 1 / 8
    assert normal["relative"].min() > 1 / 16


def test_bytes_count_scales_and_the_zero_points_that_are_not_zero():
    symmetric = TensorSpec(integer(4, signed=True), True, PerAxis(0)).qparams_of(torch.ones(3, 5))
    assert stored_bytes(15, symmetric) == (8, 12)
    affine = QParams.per_tensor(1.0, 3, integer(2, signed=False))
    assert stored_bytes(15, affine) == (4, 8)


def test_every_format_on_a_weight_and_on_statistics():
    x = torch.randn(32, 64, generator=torch.Generator().manual_seed(0))
    costs = format_costs(x, (PerTensor(), PerGroup(16)))
    assert len(costs) == 2 * 9
    whole, groups = costs[:9], costs[9:]
    for few, many in zip(whole, groups, strict=True):
        assert many.error.sqnr_db > few.error.sqnr_db - 0.5
        assert many.bits_per_value == pytest.approx(few.dtype.bits + 8 * 4 / 16)
    sqnr = [cost.error.sqnr_db for cost in whole[:7]]
    steps = [b - a for a, b in pairwise(sqnr)]
    assert all(4 < step < DB_PER_BIT + 0.3 for step in steps)
    known = format_costs(TensorStats.of(x), (PerTensor(),))
    assert [cost.dtype.signed for cost in known[:7]] == [False] * 7
    assert known[6].error.sqnr_db == pytest.approx(sqnr[6], abs=2)
    assert {cost.dtype for cost in whole if cost.dtype.is_float} == set(FLOAT8)


def test_statistics_and_tensor_cost_the_same():
    x = torch.randn(5000, generator=torch.Generator().manual_seed(0))
    spec = TensorSpec(integer(4, signed=False))
    measured, expected = cost_of(x, spec), cost_of(TensorStats.of(x), spec)
    assert measured.bytes == expected.bytes
    assert measured.error.sqnr_db == pytest.approx(expected.error.sqnr_db, abs=0.1)
