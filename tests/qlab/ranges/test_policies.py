"""Each policy's range, from statistics and from data."""

import itertools
import json
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qlab.dtypes import as_qdtype, integer, qint8, quint8
from qlab.errors import (
    ArgumentError,
    FormatError,
    NonFiniteError,
    ShapeError,
    UncalibratedError,
    UnknownNameError,
    UnsupportedError,
)
from qlab.granularity import PerAxis, PerGroup, PerTensor
from qlab.observers import observer_for, spec_of
from qlab.qparams import choose_qparams
from qlab.ranges import (
    MSE,
    POLICIES,
    Entropy,
    Fixed,
    MinMax,
    MovingAverage,
    Percentile,
    RangePolicy,
    TensorSpec,
    expected_error,
    measured_error,
    policy_from_dict,
)
from qlab.ranges.entropy import best_bound
from qlab.ranges.error import Bins, Grid
from qlab.stats import TensorStats
from tests.qlab.ranges.samples import DISTRIBUTIONS, distribution

ALL = [MinMax(), MovingAverage(), Percentile(), MSE(), Entropy(), Fixed(0.1, 3)]
FROM_DATA = ALL[:-1]


def spec(policy: RangePolicy, bits: int = 8, *, symmetric: bool = False, **more) -> TensorSpec:
    return TensorSpec(integer(bits, signed=symmetric), symmetric, policy=policy, **more)


def range_of(policy: RangePolicy, stats: TensorStats, **how) -> tuple[float, float]:
    low, high = policy.range(stats, spec(policy, **how))
    return float(low), float(high)


class TestEvery:
    def test_is_in_the_table_by_name(self):
        assert {type(p) for p in ALL} == set(POLICIES.values())
        assert all(POLICIES[name].name == name for name in POLICIES)

    @pytest.mark.parametrize("policy", ALL, ids=lambda p: p.name)
    def test_survives_its_json_form_and_is_hashable(self, policy: RangePolicy):
        again = policy_from_dict(policy.to_dict())
        assert again == policy
        assert hash(again) == hash(policy)
        assert policy.label

    @pytest.mark.parametrize("policy", FROM_DATA, ids=lambda p: p.name)
    def test_needs_data(self, policy: RangePolicy):
        with pytest.raises(UncalibratedError, match="no data was seen"):
            spec(policy).qparams(TensorStats())
        with pytest.raises(UncalibratedError, match="no data was seen"):
            spec(policy).qparams_of(torch.zeros(0))
        with pytest.raises(UncalibratedError, match=r"tensor is empty.*\(2, 0\)"):
            spec(policy, granularity=PerAxis(0)).qparams_of(torch.zeros(2, 0))

    @pytest.mark.parametrize("policy", FROM_DATA, ids=lambda p: p.name)
    def test_needs_a_finite_value(self, policy: RangePolicy):
        x = torch.tensor([torch.nan, torch.inf, torch.nan])
        with pytest.raises(NonFiniteError, match="2 NaN and 1 infinities"):
            spec(policy).qparams(TensorStats.of(x))
        rows = torch.stack([torch.ones(3), x])
        with pytest.raises(NonFiniteError, match=r"shares a scale.*scales \[1\]"):
            spec(policy, granularity=PerAxis(0)).qparams_of(rows)

    @pytest.mark.parametrize("policy", FROM_DATA, ids=lambda p: p.name)
    @pytest.mark.parametrize("symmetric", [False, True])
    @pytest.mark.parametrize("constant", [3.0, -0.37, 1e-30, 3e38])
    def test_of_a_constant_expresses_it(self, policy: RangePolicy, symmetric: bool, constant):
        x = torch.full((40,), constant)
        for granularity in (PerTensor(), PerAxis(0)):
            how = spec(policy, symmetric=symmetric, granularity=granularity)
            qparams = how.qparams_of(x.reshape(4, 10))
            error = measured_error(x.reshape(4, 10), qparams)
            assert math.sqrt(error.total / 40) <= 1.01 * float(qparams.scale.max())

    @pytest.mark.parametrize("policy", FROM_DATA, ids=lambda p: p.name)
    def test_of_zeros_gives_the_smallest_scale(self, policy: RangePolicy):
        for granularity in (PerTensor(), PerAxis(0)):
            how = spec(policy, granularity=granularity)
            qparams = how.qparams_of(torch.zeros(2, 8))
            assert bool((qparams.scale == how.eps).all())

    @pytest.mark.parametrize("policy", FROM_DATA, ids=lambda p: p.name)
    def test_ignores_non_finite_values_beside_finite_ones(self, policy: RangePolicy):
        x = torch.randn(2, 500)
        dirty = torch.cat([x, torch.full((2, 1), torch.nan), torch.full((2, 1), torch.inf)], 1)
        clean = spec(policy).qparams_of(x)
        assert spec(policy).qparams_of(dirty).same_as(clean)
        rows = spec(policy, granularity=PerAxis(0))
        zeros = torch.cat([x, torch.zeros(2, 2)], 1)
        assert rows.qparams_of(dirty).same_as(rows.qparams_of(zeros))

    @pytest.mark.parametrize("policy", ALL, ids=lambda p: p.name)
    @pytest.mark.parametrize(
        ("granularity", "shape"),
        [(PerTensor(), ()), (PerAxis(0), (4,)), (PerAxis(-1), (12,)), (PerGroup(3, 2), (4, 5, 4))],
        ids=repr,
    )
    def test_has_the_shape_of_the_scales(self, policy: RangePolicy, granularity, shape):
        x = torch.randn(4, 5, 12)
        qparams = spec(policy, granularity=granularity).qparams_of(x)
        assert qparams.scale.shape == qparams.zero_point.shape == shape
        assert qparams.granularity == granularity
        qparams.check()

    @pytest.mark.parametrize("policy", ALL, ids=lambda p: p.name)
    def test_of_no_rows_has_no_scales(self, policy: RangePolicy):
        qparams = spec(policy, granularity=PerAxis(0)).qparams_of(torch.zeros(0, 5))
        assert qparams.scale.shape == (0,)

    @pytest.mark.parametrize("policy", [MinMax(), MSE(), Percentile(), Entropy()], ids=repr)
    def test_per_channel_is_like_each_channel_alone(self, policy: RangePolicy):
        x = torch.randn(3, 4000) * torch.tensor([[1.0], [10.0], [0.1]])
        for symmetric in (False, True):
            together = spec(policy, 4, symmetric=symmetric, granularity=PerAxis(0)).qparams_of(x)
            alone = [spec(policy, 4, symmetric=symmetric).qparams_of(row) for row in x]
            single = torch.stack([q.scale for q in alone])
            # Histogram bins differ between the two, percentiles by up to one in sparse tails.
            assert together.scale.tolist() == pytest.approx(single.tolist(), rel=0.08)

    @pytest.mark.parametrize("policy", ALL, ids=lambda p: p.name)
    def test_stays_on_the_device(self, policy: RangePolicy, device: torch.device):
        x = torch.randn(3, 200).to(device)
        for granularity in (PerTensor(), PerAxis(0)):
            qparams = spec(policy, granularity=granularity).qparams_of(x)
            assert qparams.scale.device.type == device.type
            assert qparams.zero_point.device.type == device.type

    @pytest.mark.parametrize("policy", [Percentile(), MSE(), Entropy(), MovingAverage()], ids=repr)
    def test_that_needs_more_than_channel_extrema_says_so(self, policy: RangePolicy):
        stats = TensorStats.of(torch.randn(4, 9), channel_axis=0)
        with pytest.raises(UnsupportedError, match=rf"no {policy.label} range per channel.*MinMax"):
            spec(policy, granularity=PerAxis(0)).qparams(stats)

    def test_needs_statistics_of_its_granularity(self):
        stats = TensorStats.of(torch.randn(4, 9), channel_axis=1)
        for granularity in (PerAxis(0), PerGroup(3)):
            with pytest.raises(UnsupportedError, match=r"not collected for this.*channel_axis=1"):
                spec(MinMax(), granularity=granularity).qparams(stats)
        with pytest.raises(UnsupportedError, match=r"no extrema per channel"):
            spec(MinMax(), granularity=PerAxis(0)).qparams(TensorStats.of(torch.ones(2, 2)))

    def test_of_an_unknown_name_lists_the_known(self):
        with pytest.raises(UnknownNameError, match=r"range policy 'perzentile'.*'percentile'"):
            policy_from_dict({"name": "perzentile"})

    @pytest.mark.parametrize("data", [{"name": "mse", "percent": 3}, {"name": "fixed", "scale": 1}])
    def test_with_other_fields_is_refused(self, data):
        with pytest.raises(FormatError, match=r"has other fields"):
            policy_from_dict(data)


class TestMinMax:
    @given(st.lists(st.floats(-(2.0**99), 2.0**99, width=32), min_size=1, max_size=20))
    def test_covers_the_extrema(self, values: list[float]):
        x = torch.tensor(values)
        expected = choose_qparams(x.min(), x.max(), quint8)
        assert spec(MinMax()).qparams(TensorStats.of(x)).same_as(expected)
        assert spec(MinMax()).qparams_of(x).same_as(expected)

    def test_per_channel_covers_each(self):
        x = torch.randn(3, 5, 4)
        how = TensorSpec(qint8, True, PerAxis(1))
        expected = choose_qparams(
            x.amin((0, 2)), x.amax((0, 2)), qint8, symmetric=True, granularity=PerAxis(1)
        )
        assert how.qparams(TensorStats.of(x, channel_axis=1)).same_as(expected)
        assert how.qparams_of(x).same_as(expected)

    def test_per_channel_needs_a_value_in_each(self):
        x = torch.tensor([[1.0, 2.0], [torch.nan, torch.nan]])
        with pytest.raises(NonFiniteError, match=r"channels \[1\]"):
            spec(MinMax(), granularity=PerAxis(0)).qparams(TensorStats.of(x, channel_axis=0))


class TestMovingAverage:
    def test_follows_the_recurrence_in_batch_order(self):
        batches = [torch.randn(20) * (i + 1) for i in range(9)]
        policy, low, high = MovingAverage(0.1), None, None
        for batch in batches:
            if low is None:
                low, high = batch.min(), batch.max()
            else:
                low = policy.step(low, batch.min())
                high = policy.step(high, batch.max())
        stats = TensorStats()
        for index in (4, 0, 8, 2, 1, 7, 3, 5, 6):
            stats.update(batches[index], index)
        assert range_of(policy, stats) == (float(low), float(high))

    def test_of_one_batch_is_min_max(self):
        stats = TensorStats.of(torch.randn(100))
        assert range_of(MovingAverage(), stats) == range_of(MinMax(), stats)

    @pytest.mark.parametrize("constant", [0.0, 1.1, math.nan])
    def test_needs_a_weight(self, constant: float):
        with pytest.raises(ArgumentError, match="0 < constant <= 1"):
            MovingAverage(constant)


class TestPercentile:
    def test_leaves_out_both_tails(self):
        x = torch.arange(1.0, 1001.0) - 400
        low, high = range_of(Percentile(99.0), TensorStats.of(x))
        assert low == pytest.approx(-389.5, abs=2)
        assert high == pytest.approx(590.5, abs=5)

    def test_of_data_is_a_value_of_the_data(self):
        x = torch.arange(1.0, 1001.0)[torch.randperm(1000)][None]
        low, high = Percentile(99.0).row_range(x, spec(Percentile(99.0)))
        assert (low.item(), high.item()) == (11.0, 990.0)

    def test_of_everything_is_min_max(self):
        x = distribution("student-t")
        stats = TensorStats.of(x)
        assert range_of(Percentile(100.0), stats) == range_of(MinMax(), stats)
        rows = x.reshape(10, -1)
        for got, expected in zip(
            Percentile(100.0).row_range(rows, spec(MinMax())), rows.aminmax(dim=1), strict=True
        ):
            assert torch.equal(got, expected)

    def test_symmetric_takes_the_larger_tail(self):
        x = torch.cat([torch.rand(1000), -4 * torch.rand(1000)])
        qparams = spec(Percentile(99.0), symmetric=True).qparams_of(x)
        assert qparams.scale_value * 127.5 == pytest.approx(3.92, abs=0.05)

    @pytest.mark.parametrize("percent", [50.0, 100.5, math.nan])
    def test_needs_a_percentage(self, percent: float):
        with pytest.raises(ArgumentError, match="50 < percent <= 100"):
            Percentile(percent)


def brute_force(bins: Bins, low: float, high: float, how: TensorSpec) -> float:
    """Least expected error over a dense grid of ranges."""
    if how.symmetric:
        bound = max(-low, high) * torch.linspace(0.005, 1, 400, dtype=torch.float64)
        pairs = torch.stack([-bound, bound], 1)
    else:
        lows = min(low, 0.0) * torch.linspace(0.05, 1, 39, dtype=torch.float64)
        highs = max(high, 0.0) * torch.linspace(0.05, 1, 39, dtype=torch.float64)
        pairs = torch.cartesian_prod(lows.unique(), highs.unique())
    return min(
        float(Grid(how.choose(*part.unbind(1))).total(bins).min()) for part in pairs.split(32)
    )


class TestMSE:
    @pytest.mark.parametrize("name", DISTRIBUTIONS)
    @pytest.mark.parametrize("symmetric", [False, True], ids=["affine", "symmetric"])
    @pytest.mark.parametrize("bits", [3, 8])
    def test_finds_what_brute_force_finds(self, name: str, symmetric: bool, bits: int):
        x = distribution(name)[:5000]
        stats, how = TensorStats.of(x), spec(MSE(), bits, symmetric=symmetric)
        bins = Bins.of(stats)
        best = brute_force(bins, float(x.min()), float(x.max()), how)
        found = expected_error(stats, how.qparams(stats)).total
        assert found <= 1.02 * best

    @settings(max_examples=60)
    @given(
        st.lists(st.floats(-(2.0**66), 2.0**66, width=32), min_size=1, max_size=30),
        st.integers(2, 8),
        st.booleans(),
    )
    def test_is_never_worse_than_min_max(self, values, bits: int, symmetric: bool):
        x = torch.tensor(values)
        stats = TensorStats.of(x)
        found, full = (
            expected_error(stats, spec(policy, bits, symmetric=symmetric).qparams(stats)).total
            for policy in (MSE(), MinMax())
        )
        assert found <= full * (1 + 1e-6)
        rows = x[None]
        found, full = (
            measured_error(
                rows,
                spec(policy, bits, symmetric=symmetric, granularity=PerAxis(0)).qparams_of(rows),
            ).total
            for policy in (MSE(), MinMax())
        )
        assert found <= full * (1 + 1e-5)

    @pytest.mark.parametrize("shape", [(5, 9), (4, 600)], ids=str)
    @pytest.mark.parametrize("symmetric", [False, True], ids=["affine", "symmetric"])
    @pytest.mark.parametrize("bits", [3, 4, 8])
    def test_of_rows_finds_what_statistics_find(self, shape, symmetric: bool, bits: int):
        x = torch.distributions.StudentT(torch.tensor(4.0)).sample(shape)
        rows = spec(MSE(), bits, symmetric=symmetric, granularity=PerAxis(0))
        together = measured_error(x, rows.qparams_of(x)).total
        one = spec(MSE(), bits, symmetric=symmetric)
        apart = sum(measured_error(row, one.qparams_of(row)).total for row in x)
        # Few values have sharp minima, which statistics search more densely.
        assert together <= (1.5 if shape[1] < 100 else 1.03) * apart

    def test_searches_a_millionfold_outlier_away(self):
        x = torch.cat([torch.randn(1_000_000), torch.tensor([100.0])])
        bound = spec(MSE(), 4, symmetric=True).qparams_of(x).scale_value * 7.5
        assert bound < 5

    @pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2"])
    def test_serves_float8(self, dtype: str):
        x = distribution("student-t")
        for granularity in (PerTensor(), PerAxis(0)):
            found, full = (
                measured_error(
                    x[None],
                    TensorSpec(as_qdtype(dtype), False, granularity, policy).qparams_of(x[None]),
                ).total
                for policy in (MSE(), MinMax())
            )
            assert found <= full * 1.001

    @pytest.mark.parametrize("bits", [16, 32])
    def test_serves_wide_types(self, bits: int):
        x = torch.randn(4, 300)
        for granularity in (PerTensor(), PerAxis(0)):
            how = spec(MSE(), bits, symmetric=True, granularity=granularity)
            assert measured_error(x, how.qparams_of(x)).sqnr_db > 85


def divergence_by_definition(counts: list[float], cut: int, levels: int) -> float:
    """Kullback-Leibler divergence of one cut, bin by bin."""
    p = counts[:cut]
    filled = [c > 0 for c in p]
    p[-1] += sum(counts[cut:])
    q = [0.0] * cut
    for step in range(levels):
        inside = [b for b in range(cut) if b * levels // cut == step]
        mass = sum(counts[b] for b in inside)
        holding = [b for b in inside if filled[b] or (b == cut - 1 and p[b] > 0)]
        for b in holding:
            q[b] = mass / len(holding)
    all_p, all_q = sum(p), sum(q)
    return sum(a / all_p * math.log(a / all_p * all_q / b) for a, b in zip(p, q, strict=True) if a)


class TestEntropy:
    @pytest.mark.parametrize("levels", [2, 8, 16])
    @pytest.mark.parametrize("name", ["normal", "laplace", "relu", "uniform"])
    def test_cuts_where_divergence_is_least(self, name: str, levels: int):
        x = distribution(name).abs()
        counts = torch.histc(x[x > 0], 80, 0, float(x.max())).double()
        counts[counts == 0] = 1e-3
        every = {
            cut: divergence_by_definition(counts.tolist(), cut, levels) for cut in range(levels, 81)
        }
        assert every[best_bound(counts, levels)] == pytest.approx(min(every.values()), abs=1e-12)

    def test_clips_what_min_max_stretches_to(self):
        x = torch.cat([torch.randn(100_000), torch.tensor([60.0])])
        for granularity in (PerTensor(), PerAxis(0)):
            how = spec(Entropy(), symmetric=True, granularity=granularity)
            assert float(how.qparams_of(x[None]).scale) * 127.5 < 30

    def test_is_not_moved_by_zeros(self):
        x = torch.randn(20_000).relu()
        x = x[x > 0]
        stats = TensorStats.of(x), TensorStats.of(torch.cat([x, torch.zeros(10**6)]))
        assert range_of(Entropy(), stats[0]) == pytest.approx(range_of(Entropy(), stats[1]))

    def test_of_fewer_bins_than_codes_is_min_max(self):
        stats = TensorStats.of(torch.randn(1000).abs())
        policy = Entropy(bins=200)
        assert range_of(policy, stats)[1] == pytest.approx(float(stats.max_val))

    def test_stays_inside_the_data(self):
        for name, symmetric in itertools.product(["shifted", "relu6", "uniform"], [False, True]):
            x = distribution(name)
            low, high = range_of(Entropy(), TensorStats.of(x), symmetric=symmetric)
            bound = float(x.abs().max())
            assert -bound * 1.0001 <= low <= 0 <= high <= bound * 1.0001

    def test_is_for_even_codes(self):
        with pytest.raises(UnsupportedError, match=r"evenly spaced.*float8_e4m3fn.*MSE"):
            TensorSpec(as_qdtype("float8_e4m3fn"), policy=Entropy())

    def test_needs_bins(self):
        with pytest.raises(ArgumentError, match="at least two bins"):
            Entropy(bins=1)


class TestFixed:
    def test_needs_no_data(self):
        qparams = spec(Fixed(0.25, 128)).qparams(TensorStats())
        assert (qparams.scale_value, qparams.zero_point_value) == (0.25, 128)

    def test_covers_what_its_codes_express(self):
        assert range_of(Fixed(0.25, 128), TensorStats()) == (-32.0, 31.75)

    def test_repeats_for_every_channel(self):
        how = spec(Fixed(0.25, 128), granularity=PerAxis(0))
        qparams = how.qparams(TensorStats.of(torch.randn(3, 4), channel_axis=0))
        assert qparams.scale.tolist() == [0.25] * 3
        assert qparams.zero_point.tolist() == [128] * 3
        with pytest.raises(UncalibratedError, match="no data was seen"):
            how.qparams(TensorStats(channel_axis=0))

    @pytest.mark.parametrize("scale", [0.0, -1.0, math.inf, math.nan])
    def test_needs_a_positive_scale(self, scale: float):
        with pytest.raises(ArgumentError, match="positive and finite"):
            Fixed(scale, 0)

    @pytest.mark.parametrize(
        ("dtype", "zero_point", "valid"),
        [("quint8", 256, "0 to 255"), ("qint8", 200, "-128 to 127"), ("float8_e5m2", 1, "0 to 0")],
    )
    def test_needs_a_zero_point_that_is_a_code(self, dtype: str, zero_point: int, valid: str):
        with pytest.raises(ArgumentError, match=rf"no code of {dtype}.*{valid}"):
            TensorSpec(as_qdtype(dtype), policy=Fixed(0.1, zero_point))

    @pytest.mark.parametrize("granularity", [PerTensor(), PerAxis(0), PerAxis(1), PerGroup(2)])
    @pytest.mark.parametrize("symmetric", [True, False])
    def test_repeats_the_scales_that_were_chosen(self, granularity, symmetric):
        weight = torch.randn(3, 4)
        how = TensorSpec(integer(4, signed=True), symmetric, granularity)
        chosen = how.qparams_of(weight)
        fixed = replace(how, policy=Fixed.of(chosen))
        again = fixed.qparams_of(torch.zeros(3, 4))
        assert torch.equal(again.scale, chosen.scale)
        assert torch.equal(again.zero_point, chosen.zero_point)
        read = TensorSpec.from_dict(json.loads(json.dumps(fixed.to_dict())))
        assert read == fixed and hash(read) == hash(fixed)
        assert spec_of(observer_for(fixed)).qparams_of(weight).scale.equal(chosen.scale)

    def test_many_scales_must_fit(self):
        how = TensorSpec(qint8, True, PerAxis(0), Fixed((0.1, 0.2), 0))
        assert how.policy.label == "fixed at 2 scales from 0.1 to 0.2"
        with pytest.raises(ShapeError, match=r"Fixed.*3 scales.*2"):
            how.qparams_of(torch.zeros(3, 4))
        with pytest.raises(ArgumentError, match=r"Fixed: one scale per tensor.*2 scales"):
            TensorSpec(qint8, True, PerTensor(), Fixed((0.1, 0.2), 0))
        with pytest.raises(ArgumentError, match=r"one zero point.*2 zero points.*Received 3"):
            Fixed((0.1, 0.2), (0, 1, 2))
