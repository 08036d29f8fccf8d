"""The picture of the network shows every layer, its error and how it runs."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from pages.common.theme import SEQUENTIAL, STALE
from pages.figures.network import FLOAT, network

LAYERS = pd.DataFrame(
    {
        "type": ["Conv2d", "add", "Flatten", "Linear"],
        "execution": ["integer", "integer", "shared", "simulated"],
        "inputs": [("input",), ("block.<b>", "input"), ("add",), ("flatten",)],
        "sqnr": [40.0, np.inf, np.nan, 12.0],
    },
    index=["block.<b>", "add", "flatten", "fc"],
)


def marks(chart: go.Figure) -> dict[str, tuple]:
    """Where each layer's mark stands: trace and position in it."""
    return {
        name: (trace, i)
        for trace in chart.data
        for i, name in enumerate(trace.customdata if trace.customdata is not None else ())
    }


def test_every_layer_is_a_mark_that_carries_its_name_below_what_feeds_it():
    found = marks(network(LAYERS))
    assert set(found) == set(LAYERS.index)
    heights = {name: trace.y[i] for name, (trace, i) in found.items()}
    assert heights["block.<b>"] < heights["add"] < heights["flatten"] < heights["fc"]
    assert heights["block.<b>"] > 0  # the input stands above


def test_symbols_tell_how_a_layer_runs_and_the_legend_names_them():
    found = marks(network(LAYERS))
    symbols = {name: found[name][0].marker.symbol for name in found}
    assert symbols == {
        "block.<b>": "square",
        "add": "square",
        "flatten": "circle-open",
        "fc": "diamond",
    }
    assert found["flatten"][0].name == FLOAT


def test_the_lowest_sqnr_stands_out_most_and_infinity_counts_as_the_best():
    chart = network(LAYERS)
    axis = chart.layout.coloraxis
    assert (axis.cmin, axis.cmax) == (12.0, 40.0)
    assert axis.colorscale[0][1] == SEQUENTIAL[-1]
    trace, i = marks(chart)["add"]
    assert trace.marker.color[i] == 40.0
    assert "∞ dB" in trace.text[i]


def test_labels_hover_and_selection_say_what_colour_says():
    trace, i = marks(network(LAYERS, selected="fc"))["fc"]
    assert trace.text[i] == " ▸ <b>fc</b>  12.0 dB"
    assert trace.marker.line.width[i] == 4
    trace, i = marks(network(LAYERS))["block.<b>"]
    assert "block.<b>&lt;b&gt;</b>" in trace.text[i]
    assert trace.hovertext[i].startswith("<b>block.&lt;b&gt;</b>")


def test_stale_marks_are_grey_without_a_scale():
    chart = network(LAYERS, stale=True)
    assert {trace.marker.color for trace, _ in marks(chart).values()} == {STALE}
    assert not chart.layout.coloraxis.showscale


@pytest.mark.parametrize("values", [np.nan, np.inf, 3.0])
def test_it_draws_whatever_the_errors_are(values):
    assert len(marks(network(LAYERS.assign(sqnr=values)))) == len(LAYERS)


def test_names_of_the_first_of_several_columns_stand_where_nothing_covers_them():
    inputs = [("input",), ("stem",), ("stem", "branch"), ("add",)]
    chart = network(
        LAYERS.assign(inputs=inputs).set_axis(["stem", "branch", "add", "fc"], axis="index")
    )
    found = marks(chart)
    columns = {name: trace.x[i] for name, (trace, i) in found.items()}
    sides = {name: trace.textposition[i] for name, (trace, i) in found.items()}
    assert len(set(columns.values())) > 1
    assert sides == {
        name: "middle left" if x == 0 else "middle right" for name, x in columns.items()
    }
    left, right = chart.layout.xaxis.range
    assert left <= -1 and right >= max(columns.values()) + 1  # room for the names on both sides
