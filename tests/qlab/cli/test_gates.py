"""Thresholds mean what they say, and what makes no sense is refused before anything runs."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qlab.cli.gates import Gate, check_gates, named_metrics, parse_gate
from qlab.errors import ArgumentError, UnknownNameError


@pytest.mark.parametrize(
    ("text", "bound"),
    [("sqnr=20", 20), ("accuracy=0.95", 0.95), ("accuracy=95%", 0.95), (" nmse = 1e-3 ", 1e-3)],
)
def test_a_threshold_is_read(text, bound):
    gate = parse_gate(text, "under")
    assert (gate.metric, gate.side) == (text.split("=")[0].strip(), "under")
    assert gate.bound == pytest.approx(bound)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("accuracy=95", ArgumentError, "is a share.*0.95 or 95%"),
        ("accuracy=-0.1", ArgumentError, "is a share"),
        ("sqnr", ArgumentError, "Not a threshold"),
        ("sqnr=good", ArgumentError, "Not a threshold"),
        ("sqnr=nan", ArgumentError, "Not a threshold"),
        ("sqrn=20", UnknownNameError, "Did you mean 'sqnr'"),
    ],
)
def test_what_is_none_is_refused(text, error, message):
    with pytest.raises(error, match=message):
        parse_gate(text, "under")


def test_a_change_of_a_share_may_be_negative():
    assert parse_gate("accuracy=-1%", "under", change=True).bound == pytest.approx(-0.01)


@given(st.floats(allow_nan=False), st.floats(allow_nan=False))
def test_the_bound_itself_passes_and_one_side_fails(value, bound):
    under, over = (Gate("sqnr", side, bound).passes(value) for side in ("under", "over"))
    assert under or over
    assert (under and over) == (value == bound)


def test_nan_passes_nothing():
    assert not Gate("sqnr", "under", -math.inf).passes(math.nan)
    assert not Gate("sqnr", "over", math.inf).passes(math.nan)


def test_what_was_not_measured_is_named():
    with pytest.raises(ArgumentError, match=r"accuracy was not measured \(it needs labels\)"):
        check_gates([Gate("accuracy", "under", 0.5)], {"sqnr": 3.0})


def test_percent_become_shares():
    named = named_metrics({"accuracy": 97.0, "float_accuracy": 98.0, "sqnr": 30.0})
    assert named["accuracy"] == pytest.approx(0.97)
    assert named["accuracy_drop"] == pytest.approx(0.01)
    assert named["sqnr"] == 30.0
