"""Stability: exact means over all choices and orders of batches, and a verdict that fits."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import qlab
from qlab.analysis import stability
from qlab.errors import UnknownNameError

values = st.lists(st.floats(-100, 100, width=32), min_size=2, max_size=6)


def _lab(batches: list[torch.Tensor]) -> qlab.Lab:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 4)).eval()
    return qlab.Lab(model, torch.zeros(1, 8), batches)


def _uniform(count: int, size: int = 64) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(size, 8, generator=generator) * 2 - 1 for _ in range(count)]


@given(values, st.data())
def test_the_mean_of_maxima_is_that_over_all_choices(numbers, data):
    size = data.draw(st.integers(1, len(numbers)))
    largest = [max(chosen) for chosen in itertools.combinations(numbers, size)]
    mean, std = stability._of_subsets(np.array(numbers), np.array([size]))
    assert mean[0] == pytest.approx(np.mean(largest), abs=1e-9)
    assert std[0] == pytest.approx(np.std(largest), abs=1e-5)


@given(values)
def test_the_spread_of_the_moving_average_is_that_over_all_orders(numbers):
    high = np.array(numbers)
    orders = [stability._averages(np.array(o))[-1] for o in itertools.permutations(numbers)]
    (_, centre), spread = stability._average_over_orders(np.zeros_like(high), high)
    assert centre == pytest.approx(np.mean(orders), abs=1e-9)
    assert spread == pytest.approx(np.std(orders), abs=1e-6)


def test_bounded_data_has_settled_and_needs_no_pass():
    lab = _lab(_uniform(24, size=2048))
    lab.calibrate()
    calls = []
    handles = [m.register_forward_hook(lambda *_: calls.append(1)) for m in lab.graph.modules()]
    found = lab.stability()
    for handle in handles:
        handle.remove()
    assert not calls
    assert found.settled is True
    assert (found.moving, found.trending) == ((), ())
    assert (found.table["more_samples"] == 0).all()
    assert found.verdict.startswith("Enough data: half of the 49152 samples in 24 batches")
    assert list(found.table.index)[1:] == [layer.name for layer in lab.layers]


def test_heavy_tails_move_and_are_named():
    torch.manual_seed(3)
    tail = torch.distributions.StudentT(torch.tensor(1.2))
    found = _lab([tail.sample((16, 8)) for _ in range(32)]).stability()
    assert found.settled is False
    assert set(found.moving) <= set(found.table.index)
    worst = found.table.loc[found.moving[0]]
    assert worst["change"] == found.table["change"].max() > stability.THRESHOLD_DB
    assert worst["growth"] > 5
    assert f"{found.moving[0]!r} most" in found.verdict


def test_the_order_of_batches_changes_the_moving_average_only():
    torch.manual_seed(0)
    batches = [torch.randn(8, 8) * scale for scale in (1.0, 4.0, 2.0, 3.0, 1.5, 2.5)]
    one, other = (_lab(b).stability() for b in (batches, batches[::-1]))
    same = ["low", "high", "growth", "change", "order", "order_change", "moving"]
    assert np.allclose(one.table[same].astype(float), other.table[same].astype(float))
    first, second = (found.curve("0") for found in (one, other))
    columns = ["low_mean", "high_mean", "low_std", "high_std"]
    assert np.allclose(first[columns], second[columns])
    assert not np.allclose(first["high_average"], second["high_average"])


@pytest.mark.parametrize("reverse", [False, True], ids=["rising", "falling"])
def test_batches_that_grow_with_their_place_are_named(reverse):
    torch.manual_seed(0)
    batches = [torch.randn(16, 8) * (1 + i / 4) for i in range(20)]
    found = _lab(batches[::-1] if reverse else batches).stability()
    assert set(found.trending) >= {"input", "0"}
    assert found.table.loc["0", "trend"] == ("falling" if reverse else "rising")
    assert "shuffle the calibration data" in found.verdict
    order = torch.randperm(20, generator=torch.Generator().manual_seed(1)).tolist()
    assert not _lab([batches[i] for i in order]).stability().trending


def test_the_trend_test_is_kendall_s():
    # Three ties of two among eight; worked by hand: S = 20, variance 56.33 + ties.
    width = np.array([1.0, 1.0, 2.0, 2.0, 3.0, 3.0, 2.5, 4.0])
    sign, p = stability._trend(np.zeros(8), width)
    later_above = sum(np.sign(b - a) for a, b in itertools.combinations(width, 2))
    z = (later_above - 1) / math.sqrt((8 * 7 * 21 - 3 * 2 * 9) / 18)
    assert sign == "rising"
    assert p == pytest.approx(math.erfc(z / math.sqrt(2)))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_too_few_batches_cannot_tell(count):
    found = _lab(_uniform(count)).stability()
    assert found.settled is None
    assert not found.moving
    assert found.table["more_samples"].isna().all()
    assert found.verdict.startswith(f"Cannot tell from {64 * count} samples in {count} batches")


def test_constant_and_dead_tensors_have_settled():
    found = _lab([torch.zeros(4, 8)] * 10).stability()
    assert found.settled is True
    assert found.table.loc["input", ["growth", "change", "order"]].tolist() == [0, 0, 0]


def test_more_data_is_seen():
    lab = _lab(_uniform(2, size=2048))
    assert lab.stability().settled is None
    lab.add_data(_uniform(20, size=2048))
    found = lab.stability()
    assert (found.settled, found.batches) == (True, 22)


def test_a_curve_is_what_the_batches_were():
    lab = _lab(_uniform(300, size=4))
    found = lab.stability()
    curve, stats = found.curve("0"), lab.calibrated.statistics["_0"]
    assert len(curve) <= 200
    assert curve.index[-1] == 300
    last = curve.iloc[-1]
    assert last["high"] == last["high_mean"] == float(stats.max_val)
    assert last["low"] == last["low_mean"] == float(stats.min_val)
    assert last["high_std"] == 0.0
    assert curve["high"].is_monotonic_increasing
    assert curve["high_mean"].is_monotonic_increasing
    assert curve.loc[1, "high_mean"] == pytest.approx(float(stats.batch_max.double().mean()))
    with pytest.raises(UnknownNameError, match="Unknown layer 'nope'"):
        found.curve("nope")


def test_how_many_more_samples_follows_the_last_two_doublings():
    assert stability._more(100, 0.4, 3.0, 8) == 0.0
    assert stability._more(100, 1.0, 2.0, 8) == 100.0
    assert stability._more(100, 1.5, 2.0, 8) == 1500.0
    assert math.isnan(stability._more(100, 2.0, 1.0, 8))
    assert stability._more(100, 2.0, 1.0, 16) == math.inf
    assert stability._more(100, 2.0, 2.01, 16) == math.inf
    assert math.isnan(stability._more(100, 2.0, 3.0, 3))
