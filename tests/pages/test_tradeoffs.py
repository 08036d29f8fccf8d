"""Figures of sensitivity, mixed precision and runs: what they draw of what they are given."""

import numpy as np
import pandas as pd
import pytest

from pages.common.theme import STALE
from pages.figures.pareto import Anchor, pareto
from pages.figures.sensitivity import agreement, heat_map
from pages.figures.versus import versus

VALUES = pd.DataFrame(
    {"int8": [40.0, np.inf], "w<4>": [20.0, np.nan]}, index=pd.Index(["a.b", "<c>"], name="layer")
)
SAID = {"title": "output SQNR [dB] ↑", "unit": "dB"}


def test_each_cell_has_an_invisible_mark_that_carries_layer_and_configuration():
    chart = heat_map(VALUES, low_is_sensitive=True, **SAID)
    cells, targets = chart.data
    assert cells.hoverinfo == "skip"
    assert targets.marker.opacity == 0 and targets.marker.symbol == "square"
    assert list(map(list, targets.customdata)) == [
        ["a.b", "int8"], ["a.b", "w<4>"], ["<c>", "int8"], ["<c>", "w<4>"],
    ]  # fmt: skip
    assert list(zip(targets.x, targets.y, strict=True)) == [(0, 0), (1, 0), (0, 1), (1, 1)]
    assert targets.hovertext[1] == "<b>a.b</b><br>w&lt;4&gt;: 20.0 dB"
    assert targets.hovertext[3].endswith("not known")


def test_infinity_is_coloured_as_the_nearest_and_the_unknown_not_at_all():
    cells = heat_map(VALUES, low_is_sensitive=True, **SAID).data[0]
    assert (cells.zmin, cells.zmax, cells.z[1][0]) == (20.0, 40.0, 40.0)
    assert np.isnan(cells.z[1][1])
    assert [list(row) for row in cells.text] == [["40.0", "20.0"], ["∞", ""]]


@pytest.mark.parametrize(("low", "limits"), [(True, (-10.0, 40.0)), (False, (20.0, 70.0))])
def test_a_small_difference_has_no_strong_colour(low, limits):
    cells = heat_map(VALUES, low_is_sensitive=low, least_span=50.0, **SAID).data[0]
    assert (cells.zmin, cells.zmax) == limits


def test_what_is_sensitive_stands_out_whichever_way_the_numbers_run():
    assert heat_map(VALUES, low_is_sensitive=True, **SAID).data[0].reversescale
    assert not heat_map(VALUES, low_is_sensitive=False, **SAID).data[0].reversescale


def test_the_selected_cell_is_outlined_and_named_and_a_stale_map_is_grey():
    chart = heat_map(VALUES, low_is_sensitive=True, selected=("<c>", "int8"), stale=True, **SAID)
    (box,) = chart.layout.shapes
    assert (box.x0, box.x1, box.y0, box.y1) == (-0.5, 0.5, 0.5, 1.5)
    assert chart.layout.yaxis.ticktext[1] == "<b>▸ &lt;c&gt;</b>"
    assert {colour for _, colour in chart.data[0].colorscale} == {STALE}
    assert not heat_map(VALUES, low_is_sensitive=True, selected=("x", "y"), **SAID).layout.shapes


POINTS = pd.DataFrame(
    {
        "x": [10.0, 20.0, np.inf],
        "y": [12.0, 18.0, np.inf],
        "name": ["a", "b", "c"],
        "group": ["int8", "w4", "w4"],
    }
)


def test_agreement_draws_the_diagonal_and_one_symbol_per_group():
    diagonal, first, second = agreement(POINTS, x="estimated", y="measured", selected="b").data
    assert list(diagonal.x) == list(diagonal.y) and diagonal.x[0] < 10 and diagonal.x[1] > 20
    assert diagonal.line.dash == "dash"
    assert first.marker.symbol != second.marker.symbol
    assert list(second.customdata) == ["b"] and list(second.x) == [20.0]  # infinity has no place
    assert list(second.marker.line.width) == [4] and list(first.marker.line.width) == [0]


def test_agreement_of_nothing_is_an_empty_figure():
    assert len(agreement(POINTS.iloc[2:], x="a", y="b").data) == 1


FRONT = pd.DataFrame({"cost": [1000, 2000], "predicted": [10.0, 20.0]})
VERIFIED = pd.DataFrame({"cost": [2000], "measured": [19.0]}, index=[1])
ANCHORS = (Anchor("before", 2500, 30.0), Anchor("float", 8000, np.inf))


def traces(chart):
    return {trace.name: trace for trace in chart.data if trace.name}


def test_predicted_points_are_hollow_measured_ones_filled_and_carry_their_number():
    chart = pareto(FRONT, VERIFIED, by="size", budget=2100, anchors=ANCHORS, current=1)
    drawn = traces(chart)
    assert drawn["predicted"].marker.symbol == "circle-open"
    assert list(drawn["predicted"].customdata) == [0, 1]
    assert drawn["predicted"].marker.size[1] > drawn["predicted"].marker.size[0]
    assert drawn["measured"].marker.symbol == "circle"
    assert list(drawn["measured"].customdata) == [1] and list(drawn["measured"].y) == [19.0]
    assert "(in force)" in drawn["predicted"].hovertext[1]
    (line,) = chart.layout.shapes
    assert line.x0 == line.x1 == 2100
    assert chart.layout.annotations[0].text == "budget 2.10 kB"


def test_float_stands_at_the_top_since_it_loses_nothing():
    chart = pareto(FRONT, VERIFIED, by="size", budget=2100, anchors=ANCHORS)
    drawn = traces(chart)
    beyond = drawn["float, 8.00 kB →"]  # drawn at the right edge, so that the front has room
    assert beyond.y[0] > 30 and "8.00 kB, ∞ dB" in beyond.hovertext
    assert np.log10(beyond.x[0]) == pytest.approx(chart.layout.xaxis.range[1])
    assert list(drawn["before, 2.50 kB"].y) == [30.0]


@pytest.mark.parametrize("by", ["size", "bit_ops"])
def test_a_front_whose_metric_nothing_predicts_shows_what_was_measured(by):
    front = FRONT.assign(predicted=np.nan)
    chart = pareto(front, VERIFIED, by=by, budget=2100, unit="%")
    drawn = traces(chart)
    assert not len(drawn["predicted"].x) and len(drawn["measured"].x) == 1
    assert chart.layout.yaxis.title.text == "accuracy [%] ↑"


PAIR = pd.DataFrame(
    {"sqnr_local_a": [30.0, np.inf], "sqnr_local_b": [20.0, np.nan]}, index=["a", "<b>"]
)


def test_two_runs_are_a_hollow_and_a_filled_mark_for_each_layer():
    line, a, b = versus(PAIR, "sqnr_local", ("first", "<two>"), selected="a").data
    assert (a.marker.symbol, b.marker.symbol) == ("circle-open", "circle")
    assert (a.name, b.name) == ("A: first", "B: &lt;two&gt;")
    assert list(a.customdata) == ["a", "<b>"]
    assert a.y[0] == 30.0 and a.y[1] > 30.0 and np.isnan(b.y[1])
    assert list(line.y[:2]) == [30.0, 20.0]
    assert "∞ dB" in a.hovertext[1] and a.marker.line.width[0] == 4
