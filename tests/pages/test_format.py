"""Numbers carry three significant digits and a unit; names are shown, never interpreted."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pages.common import format as fmt


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (31.2345, "31.2"),
        (-0.0049951, "−0.00500"),
        (9.999, "10.0"),
        (12345.6, "12,300"),
        (1.2e-7, "1.20 × 10⁻⁷"),
        (3.4e38, "3.40 × 10³⁸"),
        (math.inf, "∞"),
        (-math.inf, "−∞"),
        (math.nan, "n/a"),
    ],
)
def test_numbers(value: float, text: str):
    assert fmt.number(value) == text
    assert fmt.number(value, "dB") == f"{text} dB"


@given(st.floats(min_value=1e-4, max_value=9e5))
def test_a_number_lies_within_half_a_digit_of_the_value(value: float):
    shown = float(fmt.number(value).replace(",", ""))
    assert shown == pytest.approx(value, rel=5.01e-3)


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0, "0 %"),
        (1, "100 %"),
        (0.18, "18.0 %"),
        (0.99999, "> 99.9 %"),
        (0.000001, "< 0.001 %"),
        (0.012, "1.20 %"),
    ],
)
def test_percentages(share: float, text: str):
    assert fmt.percent(share) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (41234, "41.2 kB"), (999_999, "1.00 MB"), (2.5e12, "2,500 GB")],
)
def test_sizes(count: float, text: str):
    assert fmt.size(count) == text


def test_shapes_and_counts():
    assert fmt.shape((8, 3, 5, 5)) == "8 × 3 × 5 × 5"
    assert fmt.shape(()) == "scalar"
    assert fmt.shape(None) == "n/a"
    assert fmt.count(11689512) == "11,689,512"
    assert fmt.count(-8) == "−8"


@pytest.mark.parametrize(
    ("value", "text"), [(1.365, "1.365"), (0.021, "0.021"), (-0.5, "−0.5"), (128.0, "128")]
)
def test_numbers_of_a_worked_formula(value: float, text: str):
    assert fmt.short(value) == text


def test_names_are_shown_as_they_are():
    assert fmt.escape("a__b.*[x](https://e) $y$ :red[z]") == (
        r"a\_\_b\.\*\[x\]\(https\://e\) \$y\$ \:red\[z\]"
    )
    assert fmt.plain("<b>x</b>") == "&lt;b&gt;x&lt;/b&gt;"
    shown = fmt.layer_name("features.3.<script>")
    assert "features.3.</span><b>&lt;script&gt;</b>" in shown
    assert "nowrap" in shown


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "1 s"), (40, "40 s"), (89, "89 s"), (90, "2 min"), (3000, "50 min"), (5400, "1.5 h")],
)
def test_a_duration_is_told_as_people_plan_with_it(seconds: float, words: str):
    assert fmt.duration(seconds) == words
