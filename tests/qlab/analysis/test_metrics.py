import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qlab.analysis.metrics import ErrorSums, LabelCounts, sqnr_db
from qlab.errors import NonFiniteError, ShapeError


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
