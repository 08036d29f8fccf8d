"""TensorStats: exact, mergeable in any order and any split, flat in memory."""

import copy
import math
import multiprocessing
import pickle
import resource
from concurrent import futures
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qlab.counting import KEPT_VALUES
from qlab.dtypes import integer
from qlab.errors import (
    ArgumentError,
    DTypeError,
    FormatError,
    ShapeError,
    UncalibratedError,
    UnsupportedError,
)
from qlab.ranges import MSE, Entropy, MinMax, MovingAverage, Percentile, TensorSpec
from qlab.stats import TensorStats

finite_floats = st.floats(width=32, allow_nan=False, allow_infinity=False)
any_floats = st.floats(width=32)


def collect(batches, **settings) -> TensorStats:
    """Statistics of ``(index, tensor)`` pairs."""
    stats = TensorStats(**settings)
    for index, x in batches:
        stats.update(x, index)
    return stats


def _state_of(values):
    torch.set_num_threads(1)  # torch's own threads do not survive a fork
    monkey = pytest.MonkeyPatch()
    monkey.setattr("torch.get_num_threads", lambda: 2)
    return TensorStats.of(torch.from_numpy(values)).state_dict()


def heavy_tailed(count: int) -> Tensor:
    return torch.distributions.StudentT(torch.tensor(2.5)).sample((count,))


class TestMoments:
    def test_are_those_of_the_data(self):
        x = heavy_tailed(100_000)
        stats, wide = TensorStats.of(x), x.double()
        assert stats.count == x.numel()
        assert torch.equal(stats.min_val, x.min())
        assert torch.equal(stats.max_val, x.max())
        assert stats.mean == pytest.approx(float(wide.mean()), rel=1e-12)
        assert stats.variance == pytest.approx(float(wide.var(correction=0)), rel=1e-9)
        assert stats.sum_of_squares == pytest.approx(float(wide.square().sum()), rel=1e-12)

    def test_do_not_cancel_far_from_zero(self):
        x = torch.randn(10_000) * 0.01 + 1e4
        assert TensorStats.of(x).variance == pytest.approx(
            float(x.double().var(correction=0)), rel=1e-9
        )

    @given(st.lists(finite_floats, min_size=1, max_size=30))
    def test_are_exact_to_the_last_digits(self, values: list[float]):
        stats = TensorStats.of(torch.tensor(values))
        exact = [Fraction(v) for v in values]
        scale = float(sum(map(abs, exact)))
        assert stats.mean * len(values) == pytest.approx(float(sum(exact)), abs=1e-14 * scale)
        squares = float(sum(v * v for v in exact))
        # Below 1e-9 of a bin's offset a spread counts as none.
        assert stats.sum_of_squares == pytest.approx(squares, rel=1e-9)

    def test_of_the_largest_floats_do_not_overflow(self):
        most = torch.finfo(torch.float32).max
        stats = TensorStats.of(torch.tensor([most, -most, most]))
        assert stats.mean == pytest.approx(most / 3, rel=1e-12)
        assert stats.sum_of_squares == pytest.approx(3 * most**2, rel=1e-12)
        assert stats.inf_count == 0

    def test_of_astronomic_counts_stay_exact(self):
        # Sums of squared offsets pass 2**63 after some 2**31 elements of one bin.
        x = torch.tensor([1.0 + 65535 / 2**23, 1.0 + 60000 / 2**23, -3.3])
        stats = TensorStats.of(x)
        once = (stats.mean, stats.variance)
        for _ in range(40):
            stats = stats.merge(stats)
        assert stats.count == 3 * 2**40
        assert (stats.mean, stats.variance) == pytest.approx(once, rel=1e-12)

    def test_of_nothing(self):
        stats = TensorStats()
        assert (stats.count, stats.sum_of_squares) == (0, 0.0)
        assert math.isnan(stats.mean)
        assert math.isnan(stats.variance)
        assert float(stats.min_val) == math.inf
        assert float(stats.max_val) == -math.inf


class TestMerge:
    @settings(max_examples=40)
    @given(st.lists(st.lists(any_floats, max_size=40), min_size=1, max_size=8), st.data())
    def test_any_order_and_split_gives_identical_statistics(self, batches, data):
        tensors = [(i, torch.tensor(b, dtype=torch.float32)) for i, b in enumerate(batches)]
        whole = collect(tensors)
        pieces = []
        for index, x in tensors:
            cut = data.draw(st.integers(0, len(x)))
            pieces += [(index, x[:cut]), (index, x[cut:])]
        pieces = data.draw(st.permutations(pieces))
        at = data.draw(st.integers(0, len(pieces)))
        parts = collect(pieces[:at]), collect(pieces[at:])
        assert parts[0].merge(parts[1]) == whole
        assert parts[1].merge(parts[0]) == whole

    @settings(max_examples=15)
    @given(st.permutations(range(6)), st.integers(1, 5), st.integers(0, 2**16))
    def test_any_order_and_split_gives_identical_ranges(self, order, cut: int, seed: int):
        generator = torch.Generator().manual_seed(seed)
        batches = [torch.randn(500, generator=generator) * (i + 1) + i for i in range(6)]
        whole = collect(enumerate(batches))
        shuffled = [(i, batches[i]) for i in order]
        merged = collect(shuffled[:cut]).merge(collect(shuffled[cut:]))
        for policy in (MinMax(), MovingAverage(0.3), Percentile(99.0), MSE(), Entropy()):
            for bits, symmetric in ((8, False), (4, True)):
                spec = TensorSpec(integer(bits, signed=symmetric), symmetric, policy=policy)
                assert spec.qparams(merged).same_as(spec.qparams(whole)), policy

    def test_leaves_its_arguments_alone(self):
        a, b = TensorStats.of(torch.randn(50)), TensorStats.of(torch.randn(60))
        before = copy.deepcopy(a), copy.deepcopy(b)
        a.merge(b)
        assert (a, b) == before

    def test_joins_parts_of_one_batch(self):
        a = collect([(3, torch.tensor([1.0, 2.0])), (5, torch.tensor([7.0]))])
        b = collect([(3, torch.tensor([-4.0])), (4, torch.tensor([0.5]))])
        merged = a.merge(b)
        assert merged.batch_index.tolist() == [3, 4, 5]
        assert merged.batch_min.tolist() == [-4.0, 0.5, 7.0]
        assert merged.batch_max.tolist() == [2.0, 0.5, 7.0]

    def test_takes_the_extremes_of_channels(self):
        x = torch.randn(4, 3, 5)
        a, b = (TensorStats.of(part, channel_axis=1) for part in x.split(2))
        merged = a.merge(b)
        assert torch.equal(merged.channel_min, x.amin((0, 2)))
        assert torch.equal(merged.channel_max, x.amax((0, 2)))
        assert a.merge(TensorStats(channel_axis=1)) == a

    def test_refuses_other_settings(self):
        with pytest.raises(ArgumentError, match=r"do not merge.*channel_axis=None.*channel_axis=1"):
            TensorStats().merge(TensorStats(channel_axis=1))
        with pytest.raises(ArgumentError, match="histogram=False"):
            TensorStats().merge(TensorStats(histogram=False))

    def test_refuses_other_channel_counts(self):
        a = TensorStats.of(torch.ones(2, 3), channel_axis=1)
        b = TensorStats.of(torch.ones(2, 4), channel_axis=1)
        with pytest.raises(ShapeError, match=r"different numbers of channels.*\[3, 4\]"):
            a.merge(b)


class TestUpdate:
    def test_counts_in_a_forked_process(self):
        x = torch.randn(2**18)
        whole = TensorStats.of(x)  # the parent's threads exist from here on
        with futures.ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
            state = pool.submit(_state_of, x.numpy()).result(timeout=60)
        assert TensorStats.from_state_dict(state) == whole

    def test_reads_any_layout(self):
        x = torch.randn(4, 6, 5, 3)
        expected = TensorStats.of(x)
        assert TensorStats.of(x.to(memory_format=torch.channels_last)) == expected
        assert TensorStats.of(x.transpose(0, 2)) == expected
        padded = torch.zeros(4, 6, 5, 7)
        padded[..., ::2][..., :3] = x
        assert TensorStats.of(padded[..., :6:2]) == expected
        assert TensorStats.of(torch.ones(1).expand(5)) == TensorStats.of(torch.ones(5))
        assert TensorStats.of(torch.tensor(2.0)) == TensorStats.of(torch.tensor([2.0]))

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
    def test_converts_other_floats(self, dtype: torch.dtype):
        x = torch.randn(1000).to(dtype)
        assert TensorStats.of(x) == TensorStats.of(x.float())

    @pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool, torch.complex64])
    def test_refuses_what_is_not_real(self, dtype: torch.dtype):
        with pytest.raises(DTypeError, match=f"real numbers.*Received {dtype}"):
            TensorStats().update(torch.zeros(3, dtype=dtype))

    def test_follows_no_gradient_and_works_between_modes(self):
        stats = TensorStats()
        stats.update(torch.randn(10, requires_grad=True))
        with torch.inference_mode():
            stats.update(torch.randn(10))
        stats.update(torch.randn(10))
        assert stats.count == 30
        assert not stats.min_val.requires_grad

    @pytest.mark.parametrize("shape", [(0,), (3, 0, 2)])
    def test_of_an_empty_tensor_adds_nothing(self, shape: tuple[int, ...]):
        stats = TensorStats.of(torch.randn(5))
        before = copy.deepcopy(stats)
        stats.update(torch.zeros(shape))
        assert stats == before
        stats.update(torch.ones(1))
        assert stats.batch_index.tolist() == [0, 1]

    def test_numbers_batches_on_from_the_last(self):
        stats = TensorStats()
        stats.update(torch.ones(1), batch=4)
        stats.update(torch.ones(1))
        stats.update(torch.ones(1), batch=2)
        stats.update(torch.ones(1))
        assert stats.batch_index.tolist() == [2, 4, 5, 6]
        with pytest.raises(ArgumentError, match=r"0 or above.*-1"):
            stats.update(torch.ones(1), batch=-1)

    def test_on_a_device_is_the_same(self, device: torch.device):
        x = torch.randn(30_000)
        x[7] = torch.nan
        stats = TensorStats.of(x.to(device))
        assert stats == TensorStats.of(x)
        assert stats.min_val.device.type == "cpu"


class TestNonFinite:
    def test_is_counted_and_left_out(self):
        clean = torch.randn(2, 9000)
        dirty = torch.cat([clean, torch.full((2, 3), torch.nan), torch.full((2, 2), torch.inf)], 1)
        dirty = torch.cat([dirty, torch.full((2, 1), -torch.inf)], 1)
        for axis in (None, 0):
            stats, expected = (TensorStats.of(x, channel_axis=axis) for x in (dirty, clean))
            assert (stats.nan_count, stats.inf_count) == (6, 6)
            stats.nan_count = stats.inf_count = 0
            assert stats == expected

    def test_alone_leaves_no_range(self):
        stats = TensorStats.of(torch.tensor([[torch.nan, torch.inf]]), channel_axis=0)
        assert (stats.count, stats.nan_count, stats.inf_count) == (0, 1, 1)
        assert stats.batch_index.numel() == 0
        assert stats.histogram().keys.numel() == 0
        assert stats.channel_min.tolist() == [math.inf]

    def test_every_bit_pattern_is_told_apart(self):
        patterns = [0x7F800000, 0x7F800001, 0x7FC00000, 0x7FFFFFFF]
        bits = torch.tensor(patterns + [p - 2**31 for p in patterns], dtype=torch.int32)
        stats = TensorStats.of(bits.view(torch.float32))
        assert (stats.count, stats.nan_count, stats.inf_count) == (0, 6, 2)

    def test_double_beyond_float32_is_infinite(self):
        assert TensorStats.of(torch.tensor([1e300, 1.0], dtype=torch.float64)).inf_count == 1


class TestChannels:
    @pytest.mark.parametrize("axis", [0, 1, -1])
    def test_have_extrema_of_their_own(self, axis: int):
        x = torch.randn(4, 5, 6)
        stats = TensorStats.of(x, channel_axis=axis)
        rows = x.movedim(axis, 0).flatten(1)
        assert torch.equal(stats.channel_min, rows.amin(1))
        assert torch.equal(stats.channel_max, rows.amax(1))
        assert torch.equal(stats.min_val, x.min())
        assert stats.histogram().counts.sum() == x.numel()

    def test_of_a_vector_are_its_elements(self):
        stats = TensorStats.of(torch.tensor([1.0, -2.0]), channel_axis=0)
        assert stats.channel_min.tolist() == stats.channel_max.tolist() == [1.0, -2.0]

    def test_not_asked_for_are_refused(self):
        with pytest.raises(UnsupportedError, match=r"no extrema per channel.*channel_axis"):
            _ = TensorStats().channel_min
        with pytest.raises(UnsupportedError, match="no extrema per channel"):
            _ = TensorStats().channel_max

    def test_need_the_axis(self):
        with pytest.raises(ShapeError, match=r"no axis 1.*at least 2 dimensions.*\(3,\)"):
            TensorStats(channel_axis=1).update(torch.ones(3))

    def test_keep_their_number(self):
        stats = TensorStats.of(torch.ones(2, 3), channel_axis=1)
        for x in (torch.ones(2, 4), torch.ones(0, 4)):
            with pytest.raises(ShapeError, match=r"number of channels changed.*3 channels"):
                stats.update(x)


class TestHistogram:
    def test_bins_hold_what_their_edges_say(self):
        x = torch.cat([heavy_tailed(20_000), torch.zeros(10), torch.tensor([-0.0, 1e-44, -3e-42])])
        h = TensorStats.of(x).histogram()
        assert bool((h.lower <= h.upper).all())
        assert bool((h.upper[:-1] <= h.lower[1:]).all())
        assert bool(((h.mean >= h.lower) & (h.mean <= h.upper)).all())
        assert float(h.lower[0]) == float(x.min())
        assert float(h.upper[-1]) == float(x.max())
        keys = (x.view(torch.int32) >> 16) & 0xFFFF
        assert torch.equal(torch.bincount(keys, minlength=2**16)[h.keys.long()], h.counts)

    def test_bins_are_at_most_0_8_percent_wide(self):
        h = TensorStats.of(torch.randn(50_000)).histogram()
        wide = h.keys[(h.upper - h.lower) > 0.0079 * torch.maximum(h.lower.abs(), h.upper.abs())]
        assert wide.numel() == 0

    def test_sees_discrete_values_as_points(self):
        x = torch.randint(0, 17, (5000,)) / 16 - 0.3
        h = TensorStats.of(x).histogram()
        assert h.mean.tolist() == pytest.approx(x.unique().double().tolist(), rel=1e-12)
        assert not h.variance.any()

    def test_of_the_largest_float_is_finite(self):
        h = TensorStats.of(torch.tensor([torch.finfo(torch.float32).max])).histogram()
        assert bool(torch.isfinite(torch.stack([h.lower, h.upper, h.mean, h.variance])).all())

    def test_not_kept_is_refused(self):
        stats = TensorStats(histogram=False)
        stats.update(torch.tensor([1.0, torch.nan]))
        assert (stats.count, stats.nan_count) == (1, 1)
        for ask in (stats.histogram, lambda: stats.mean, lambda: stats.quantile(0.5)):
            with pytest.raises(UnsupportedError, match=r"no histogram.*histogram=True"):
                ask()


class TestQuantile:
    def test_is_within_one_bin(self):
        x = heavy_tailed(50_000)
        shares = [0.0001, 0.01, 0.3, 0.7, 0.99, 0.9999]
        ranks = [math.ceil(share * x.numel()) - 1 for share in shares]
        exact = x.sort().values[ranks].tolist()
        assert TensorStats.of(x).quantile(shares) == pytest.approx(exact, rel=0.008)

    def test_is_exact_at_the_ends_and_on_points(self):
        x = torch.randn(1000)
        assert TensorStats.of(x).quantile([0, 1]) == [float(x.min()), float(x.max())]
        assert TensorStats.of(torch.tensor([1.0, 2.0, 3.0, 4.0])).quantile(0.6) == 3.0

    @given(st.lists(finite_floats, min_size=1, max_size=50), st.lists(st.floats(0, 1), min_size=2))
    def test_grows_with_the_share_and_stays_inside(self, values, shares):
        got = TensorStats.of(torch.tensor(values)).quantile(sorted(shares))
        assert got == sorted(got)
        assert min(values) <= got[0]
        assert got[-1] <= max(values)

    def test_one_outlier_moves_the_99_99th_percentile_by_at_most_one_bin(self):
        x = torch.randn(200_000)
        before = TensorStats.of(x)
        after = TensorStats.of(torch.cat([x, torch.tensor([1e4])]))
        keys = before.histogram().keys.tolist()
        here, there = (
            int(torch.tensor(s.quantile(0.9999)).view(torch.int32)) >> 16 for s in (before, after)
        )
        assert here in keys
        assert abs(keys.index(there) - keys.index(here)) <= 1

    @pytest.mark.parametrize("share", [-0.1, 1.1, math.nan])
    def test_needs_a_share(self, share: float):
        with pytest.raises(ArgumentError, match="from 0 to 1"):
            TensorStats.of(torch.ones(1)).quantile(share)

    def test_of_nothing_is_refused(self):
        with pytest.raises(UncalibratedError, match="the histogram is empty"):
            TensorStats().quantile(0.5)


class TestDisplay:
    def test_counts_every_value_once(self):
        x = torch.cat([torch.randn(5000), torch.zeros(500)])
        edges, counts = TensorStats.of(x).display_histogram(64)
        assert (len(edges), len(counts)) == (65, 64)
        assert (edges[0], edges[-1]) == (float(x.min()), float(x.max()))
        assert counts.sum() == pytest.approx(5500)
        exact = torch.histc(x.double(), 64).numpy()
        # A bin of the statistics that straddles an edge is split in proportion.
        assert abs(counts - exact).sum() < 0.04 * 5500

    def test_is_exact_for_points(self):
        x = torch.tensor([0.0, 0.0, 1.0, 2.5, 4.0])
        assert TensorStats.of(x).display_histogram(4)[1].tolist() == [2, 1, 1, 1]

    def test_shows_the_range_asked_for(self):
        x = torch.arange(10.0)
        edges, counts = TensorStats.of(x).display_histogram(2, low=2.0, high=6.0)
        assert edges.tolist() == [2.0, 4.0, 6.0]
        assert counts.tolist() == [2, 3]

    def test_of_a_constant_and_of_nothing(self):
        edges, counts = TensorStats.of(torch.full((7,), 3.0)).display_histogram(3)
        assert (edges[0], edges[-1], counts.tolist()) == (2.5, 3.5, [0, 7, 0])
        assert TensorStats().display_histogram(3)[1].tolist() == [0, 0, 0]

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"bins": 0}, "at least one bin"),
            ({"low": 2.0, "high": 2.0}, "low < high"),
            ({"low": 5.0}, "low < high"),
        ],
    )
    def test_refuses_an_empty_range(self, arguments, message: str):
        with pytest.raises(ArgumentError, match=message):
            TensorStats.of(torch.ones(3)).display_histogram(**arguments)


class TestState:
    @pytest.mark.parametrize("axis", [None, 1])
    def test_survives_every_copy(self, axis: int | None):
        stats = TensorStats.of(torch.randn(4, 3), channel_axis=axis)
        assert TensorStats.from_state_dict(stats.state_dict()) == stats
        assert copy.deepcopy(stats) == stats
        assert pickle.loads(pickle.dumps(stats)) == stats

    def test_is_not_shared(self):
        stats = TensorStats.of(torch.randn(10))
        state = stats.state_dict()
        before = copy.deepcopy(stats)
        for tensor in state.values():
            tensor.zero_()
        assert stats == before

    def test_goes_on_where_it_was_left(self):
        a, b = torch.randn(100), torch.randn(100)
        resumed = TensorStats.from_state_dict(TensorStats.of(a).state_dict())
        resumed.update(b)
        assert resumed == collect([(0, a), (1, b)])

    def test_tells_apart(self):
        x = torch.randn(10)
        assert TensorStats.of(x) != TensorStats.of(x * 2)
        assert TensorStats.of(x) != TensorStats.of(x[:9])
        assert TensorStats.of(x) != "statistics"

    def test_of_something_else_is_refused(self):
        with pytest.raises(FormatError, match=r"Not the state.*keys.*Received nothing"):
            TensorStats.from_state_dict({})
        state = TensorStats().state_dict() | {"format": torch.tensor(99)}
        with pytest.raises(FormatError, match=r"format 2.*format 99"):
            TensorStats.from_state_dict(state)

    def test_of_the_format_before_values_were_kept_is_read(self):
        x = torch.randn(100)
        state = TensorStats.of(x).state_dict() | {"format": torch.tensor(1)}
        with pytest.raises(FormatError, match=r"Not the state.*values"):
            TensorStats.from_state_dict(state)
        state.pop("values")
        old = TensorStats.from_state_dict(state)
        assert old.values is None and old.count == 100
        assert old.histogram().counts.equal(TensorStats.of(x).histogram().counts)
        for both in (old.merge(TensorStats.of(x)), TensorStats.of(x).merge(old)):
            assert both.values is None and both.count == 200


class TestValues:
    """The values themselves, of tensors that have few."""

    @given(st.lists(st.integers(0, 6), max_size=6), st.randoms())
    def test_are_kept_in_any_order_of_parts(self, sizes, random):
        odd = torch.tensor([0.0, -0.0, torch.nan, torch.inf, 1.5, -2.0])
        parts = [odd[:size] for size in sizes]
        whole = torch.cat([torch.zeros(0), *parts])
        expected = whole[whole.isfinite()].sort().values
        shuffled = random.sample(parts, len(parts))
        merged = TensorStats()
        for part in shuffled:
            merged = merged.merge(TensorStats.of(part))
        once = collect(list(enumerate(parts)))
        for stats in (merged, once):
            assert stats.values.equal(expected)
        assert merged.state_dict()["values"].numpy().tobytes() == (
            once.state_dict()["values"].numpy().tobytes()
        )

    def test_of_many_are_not(self):
        x = torch.randn(KEPT_VALUES)
        stats = TensorStats.of(x)
        assert stats.values.equal(x.sort().values)
        stats.update(torch.full((1,), torch.nan))
        assert stats.values is not None
        more = stats.merge(TensorStats.of(torch.ones(1)))
        stats.update(torch.ones(1), batch=0)
        assert stats == more and stats.values is None
        assert not stats.state_dict()["values"].numel()
        stats.update(torch.ones(1))
        assert stats.values is None
        assert TensorStats(histogram=False).values is None

    def test_repr_says_what_was_seen(self):
        stats = TensorStats.of(torch.tensor([1.0, 3.0, torch.nan]))
        assert repr(stats) == (
            "TensorStats(count=2, min=1, max=3, mean=2, std=1, batches=1, nan=1, inf=0)"
        )
        assert repr(TensorStats()) == "TensorStats(count=0, batches=0)"


def test_ten_thousand_batches_leave_memory_flat():
    stats = TensorStats(channel_axis=1)
    pool = torch.randn(50, 4, 8).split(1)

    def state_bytes() -> int:
        assert stats.state_dict()["values"].nbytes <= 4 * KEPT_VALUES
        return sum(t.nbytes for name, t in stats.state_dict().items() if name != "values")

    for i in range(500):
        stats.update(pool[i % 50])
    state, resident = state_bytes(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for i in range(9_500):
        stats.update(pool[i % 50])
    assert stats.count == 10_000 * 32
    assert state_bytes() - state == 9_500 * 16  # index and two extrema
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - resident < 16 * 1024  # KiB


def test_zeros_are_counted_whatever_their_sign():
    stats = TensorStats.of(torch.tensor([0.0, -0.0, 1e-30, -1e-30, 2.0, math.nan, math.inf]))
    assert stats.zeros == 2
    assert TensorStats().zeros == 0


@given(st.lists(st.sampled_from([0.0, -0.0, 1.5, -2.0, 1e-20]), max_size=50), st.integers(0, 50))
def test_zeros_add_up_when_parts_merge(values: list[float], cut: int):
    parts = [TensorStats.of(torch.tensor(part)) for part in (values[:cut], values[cut:])]
    assert parts[0].merge(parts[1]).zeros == values.count(0.0)


def test_the_tail_ratio_tells_how_far_the_largest_value_lies_out():
    bulk = torch.linspace(-1, 1, 10_001)
    assert TensorStats.of(bulk).tail_ratio == pytest.approx(1, abs=0.01)
    for outlier in (50.0, -50.0):
        stats = TensorStats.of(torch.cat([bulk, torch.tensor([outlier])]))
        assert stats.tail_ratio == pytest.approx(50, rel=0.01)
    assert TensorStats.of(torch.zeros(3)).tail_ratio == 1
    assert math.isnan(TensorStats().tail_ratio)


def test_order_in_memory_makes_no_difference():
    x = torch.randn(3, 5, 7, 6)
    other = x.to(memory_format=torch.channels_last)
    assert TensorStats.of(other, channel_axis=1) == TensorStats.of(x, channel_axis=1)
