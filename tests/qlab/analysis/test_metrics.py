import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qlab.analysis.metrics import METRICS, ErrorSums, LabelCounts, sqnr_db
from qlab.errors import ArgumentError, DTypeError, NonFiniteError, ShapeError


def _sums(x, y):
    sums = ErrorSums()
    sums.update(torch.as_tensor(x, dtype=torch.float32), torch.as_tensor(y, dtype=torch.float32))
    return sums


def test_metrics_follow_their_formulas():
    sums = _sums([3.0, 4.0], [3.0, 3.5])
    assert sums.sqnr == pytest.approx(10 * math.log10(25 / 0.25))
    assert sums.nmse == pytest.approx(0.01)
    assert sums.max_abs == pytest.approx(0.5)
    assert sums.cosine == pytest.approx((9 + 14) / (5 * math.sqrt(9 + 3.5**2)))


def test_equal_tensors_have_infinite_sqnr_and_no_error():
    sums = _sums([1.0, -2.0], [1.0, -2.0])
    assert (sums.sqnr, sums.nmse, sums.cosine, sums.max_abs) == (math.inf, 0.0, 1.0, 0.0)


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        ([0.0], [0.0], (math.inf, 0.0, 1.0)),
        ([0.0], [1.0], (-math.inf, math.inf, 0.0)),
        ([1.0], [0.0], (0.0, 1.0, 0.0)),
        ([], [], (math.inf, 0.0, 1.0)),
    ],
    ids=["both zero", "noise without signal", "signal lost", "empty"],
)
def test_zero_signal_and_noise_are_defined(x, y, expected):
    sums = _sums(x, y)
    assert (sums.sqnr, sums.nmse, sums.cosine) == expected


@given(st.lists(st.floats(-100, 100, width=32), min_size=2, max_size=40), st.integers(1, 39))
def test_batches_of_any_split_give_the_same_metrics(values, cut):
    x = torch.tensor(values)
    y = torch.round(x)
    whole, parts = ErrorSums(), ErrorSums()
    whole.update(x, y)
    parts.update(x[:cut], y[:cut])
    parts.update(x[cut:], y[cut:])
    for name, value in whole.as_dict().items():
        assert parts.as_dict()[name] == pytest.approx(value, rel=1e-9)


def test_different_shapes_are_refused():
    with pytest.raises(ShapeError, match=r"one shape.*\(2,\).*\(3,\)"):
        ErrorSums().update(torch.zeros(2), torch.zeros(3))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_non_finite_values_are_counted_in_the_error(bad):
    with pytest.raises(NonFiniteError, match=r"1 non-finite values in the reference, 0 in"):
        ErrorSums().update(torch.tensor([bad, 1.0]), torch.zeros(2))


def test_values_near_the_float32_limit_do_not_overflow():
    assert _sums([3e38, 3e38], [3e38, 0.0]).sqnr == pytest.approx(sqnr_db(2.0, 1.0))


def test_label_counts_are_percentages():
    logits = torch.eye(4)
    moved = logits.clone()
    moved[0] = torch.tensor([0.0, 1.0, 0.0, 0.0])
    counts = LabelCounts()
    counts.update(logits, moved, torch.tensor([0, 1, 2, 0]))
    assert counts.as_dict() == {"top1_agreement": 75.0, "float_accuracy": 75.0, "accuracy": 50.0}


def test_no_labels_give_agreement_only_and_no_samples_nothing():
    counts = LabelCounts()
    assert counts.as_dict() == {}
    counts.update(torch.eye(2), torch.eye(2), None)
    assert counts.as_dict() == {"top1_agreement": 100.0}


def test_labels_of_another_shape_are_refused():
    with pytest.raises(ShapeError, match=r"Labels do not match.*\(4,\).*\(3,\)"):
        LabelCounts().update(torch.eye(4), torch.eye(4), torch.tensor([0, 1, 2]))


def test_labels_that_are_no_class_are_refused():
    for wrong in ([0, 1, 2, 4], [-1, 1, 2, 3]):
        with pytest.raises(ArgumentError, match=r"no class.*0 to 3"):
            LabelCounts().update(torch.eye(4), torch.eye(4), torch.tensor(wrong))
    with pytest.raises(DTypeError, match="class indices"):
        LabelCounts().update(torch.eye(4), torch.eye(4), torch.zeros(4))


def _layouts(x):
    wide = torch.zeros(*x.shape[:3], 2 * x.shape[3])
    wide[..., ::2] = x
    return {
        "contiguous": x,
        "channels last": x.contiguous(memory_format=torch.channels_last),
        "with gaps": wide[..., ::2],
    }


@pytest.mark.parametrize("of_x", ["contiguous", "channels last", "with gaps"])
@pytest.mark.parametrize("of_y", ["contiguous", "channels last", "with gaps"])
def test_large_tensors_of_any_layout_are_measured_as_small_ones_are(of_x, of_y):
    x = torch.randn(3, 8, 90, 70)  # more than one block
    y = x + 0.01 * torch.randn_like(x)
    limits = (-2.0, 1.5)
    large, small = ErrorSums(), ErrorSums()
    large.update(_layouts(x)[of_x], _layouts(y)[of_y], limits)
    for row in zip(x.flatten(0, 1), y.flatten(0, 1), strict=True):
        small.update(*row, limits)
    assert (large.count, large.clipped) == (small.count, small.clipped)
    assert large.clipped == int(((x < -2) | (x > 1.5)).sum())
    for name in (*METRICS, "nmse_rounding", "nmse_clipping", "clipped_share"):
        assert getattr(large, name) == pytest.approx(getattr(small, name), rel=1e-5)


def test_errors_whose_squares_vanish_in_float32_are_not_lost():
    assert _sums([1e-25, 1e-25], [1e-25, 0.0]).sqnr == pytest.approx(sqnr_db(2.0, 1.0))


def test_clipped_values_are_told_from_rounded_ones():
    sums = ErrorSums()
    sums.update(torch.tensor([1.0, 2.0, 5.0]), torch.tensor([1.0, 2.5, 3.0]), (0.0, 3.0))
    assert sums.clipped_share == pytest.approx(100 / 3)
    assert (sums.nmse_clipping, sums.nmse_rounding) == (4 / 30, 0.25 / 30)
    assert sums.rmse_scale(0.5) == pytest.approx(math.sqrt(4.25 / 3) / 0.5)
    assert (ErrorSums().clipped_share, ErrorSums().rmse_scale(1.0)) == (0.0, 0.0)


def test_merged_sums_are_those_of_all_batches():
    x, y, labels = torch.randn(6, 4), torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 0, 1])
    whole, merged = (ErrorSums(), LabelCounts()), (ErrorSums(), LabelCounts())
    whole[0].update(x, y, (-1.0, 1.0))
    whole[1].update(x, y, labels)
    for part in (slice(0, 2), slice(2, 6)):
        sums, counts = ErrorSums(), LabelCounts()
        sums.update(x[part], y[part], (-1.0, 1.0))
        counts.update(x[part], y[part], labels[part])
        merged[0].merge(sums)
        merged[1].merge(counts)
    assert vars(merged[0]) == pytest.approx(vars(whole[0]))
    assert merged[1] == whole[1]
