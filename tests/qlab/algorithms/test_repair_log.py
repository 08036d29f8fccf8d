"""Targets, and what was tried in words."""

import math

import pytest

from qlab.algorithms import Attempt, Target
from qlab.errors import ArgumentError, DTypeError

LABELLED = {"accuracy": 80.0, "sqnr": 10.0, "float_accuracy": 98.0, "nmse": 0.1}


def test_a_number_is_the_accuracy_where_there_are_labels_and_the_sqnr_elsewhere():
    assert Target.of(97, LABELLED).least == {"accuracy": 97.0}
    assert Target.of(20, {"sqnr": 10.0}).least == {"sqnr": 20.0}
    assert Target.of({"sqnr": 20, "accuracy": 90}, LABELLED).missing == {
        "sqnr": 10.0,
        "accuracy": 10.0,
    }


def test_a_target_is_reached_when_all_of_it_is():
    target = Target.of({"sqnr": 20, "accuracy": 90}, LABELLED)
    assert not target.reached({"sqnr": 25.0, "accuracy": 89.8})
    assert target.reached({"sqnr": 20.0, "accuracy": 90.0})
    assert not target.reached({"sqnr": math.nan, "accuracy": 99.0})


def test_better_is_what_lacks_less_and_then_what_is_closer_to_float():
    target = Target.of({"sqnr": 20, "accuracy": 90}, LABELLED)
    start = {"sqnr": 10.0, "accuracy": 80.0}
    assert target.better({"sqnr": 15.0, "accuracy": 79.0}, start)  # half of it less a tenth
    assert not target.better({"sqnr": 15.0, "accuracy": 74.0}, start)
    assert not target.better({"sqnr": math.nan, "accuracy": 99.0}, start)
    accuracy = Target.of(90, LABELLED)
    assert accuracy.better({"sqnr": 11.0, "accuracy": 80.0}, start)
    assert not accuracy.better({"sqnr": 10.05, "accuracy": 80.0}, start)
    assert not accuracy.better({"sqnr": 40.0, "accuracy": 79.8}, start)


@pytest.mark.parametrize(
    ("target", "match"),
    [
        ({"nmse": 0.1}, r"measured here.*accuracy or sqnr.*nmse=0.1"),
        ({"accuracy": "97"}, r"measured here.*'97'"),
        ({"top1_agreement": 90}, "top1_agreement"),
        ({}, "needs a number"),
        (math.nan, "needs a number"),
        (math.inf, r"accuracy from 0 to 100 % or sqnr from 0 on.*inf"),
        (100.5, r"accuracy from 0 to 100 %.*100\.5"),
        ({"accuracy": 100, "sqnr": -1}, "sqnr from 0 on.*-1"),
        ({"sqnr": math.inf}, "sqnr from 0 on.*inf"),
    ],
)
def test_a_target_that_cannot_be_measured_is_refused(target, match):
    with pytest.raises(ArgumentError, match=match):
        Target.of(target, LABELLED)


@pytest.mark.parametrize("target", [None, True, "97"])
def test_a_target_is_a_number_or_numbers_by_metric(target):
    with pytest.raises(DTypeError, match="needs a target"):
        Target.of(target, LABELLED)


def test_words():
    target = Target.of({"sqnr": 20, "accuracy": 90}, LABELLED)
    assert target.describe() == "SQNR 20 dB and accuracy 90 %"
    after = {"sqnr": 25.25, "accuracy": 90.2}
    assert Target.of(90, LABELLED).change(LABELLED, after) == (
        "accuracy 80 → 90.2 %, SQNR 10 → 25.25 dB"
    )
    attempt = Attempt("equalize", "Equalization", "fc: ranges differ 9×.", "90 → 95 %, kept")
    assert attempt.describe() == "fc: ranges differ 9×. Equalization: 90 → 95 %, kept."
