"""Charts draw the numbers they are given, and every one of the things UI.md asks to see."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from pages.common.theme import ACCUMULATED, CLIPPED, LOCAL, STALE
from pages.figures.channels import channel_errors, channel_ranges
from pages.figures.errors import by_layer
from pages.figures.histogram import MOST_TICKS, Grid, histogram
from pages.figures.layout import upright
from pages.figures.number_line import error_curve, number_line
from pages.figures.settling import range_curve

LAYERS = pd.DataFrame(
    {
        "sqnr_local": [40.0, np.inf, 12.0],
        "sqnr_accumulated": [38.0, 20.0, 9.0],
        "sqnr_ideal": [45.0, 50.0, 41.0],
    },
    index=["conv1", "features.<b>2</b>", "fc"],
)
EDGES = np.linspace(-4.0, 4.0, 9)
COUNTS = np.array([1, 0, 10, 100, 120, 9, 0, 2])


def named(chart: go.Figure, name: str) -> list:
    """The traces of a chart whose name starts with `name`."""
    return [trace for trace in chart.data if (trace.name or "").startswith(name)]


def texts(chart: go.Figure) -> list[str]:
    """What the annotations of a chart say."""
    return [annotation.text for annotation in chart.layout.annotations]


class TestByLayer:
    def test_bars_carry_value_and_layer_in_graph_order(self):
        chart = by_layer(LAYERS)
        (local,), (accumulated,) = named(chart, "local"), named(chart, "accumulated")
        assert list(accumulated.y) == [38.0, 20.0, 9.0]
        assert list(local.customdata) == list(LAYERS.index)
        assert (local.marker.color, accumulated.marker.color) == (LOCAL, ACCUMULATED)
        assert chart.layout.yaxis.title.text == "SQNR [dB] →"  # turned by a quarter

    def test_no_error_at_all_is_drawn_at_the_top_and_says_infinite(self):
        (local,) = named(by_layer(LAYERS), "local")
        assert local.y[1] == pytest.approx(55.0)
        assert "∞ dB" in local.hovertext[1]

    def test_worst_first(self):
        (local,) = named(by_layer(LAYERS, worst_first=True), "local")
        assert list(local.customdata) == ["fc", "conv1", "features.<b>2</b>"]

    def test_the_selection_is_outlined_and_named(self):
        chart = by_layer(LAYERS, selected="fc")
        assert list(chart.data[0].marker.line.width) == [0, 0, 3]
        assert chart.layout.xaxis.ticktext[2] == "<b>▸ fc</b>"

    def test_names_are_not_interpreted(self):
        chart = by_layer(LAYERS)
        assert chart.layout.xaxis.ticktext[1] == "features.&lt;b&gt;2&lt;/b&gt;"
        assert chart.data[0].hovertext[1].startswith("features.&lt;b&gt;2")

    def test_the_ideal_bound_is_dashed_and_one_step_per_layer(self):
        (ideal,) = named(by_layer(LAYERS), "ideal")
        assert ideal.line.dash == "dot"
        assert list(ideal.y[0::3]) == [45.0, 50.0, 41.0]

    def test_stale_numbers_are_grey(self):
        chart = by_layer(LAYERS, stale=True)
        assert chart.data[1].marker.color == STALE

    def test_many_layers_keep_their_names_on_hover_only(self):
        many = pd.concat([LAYERS] * 20)
        many.index = [f"layer{i}" for i in range(60)]
        chart = by_layer(many)
        assert len(chart.layout.xaxis.ticktext) == 0
        assert chart.data[0].hovertext[59].startswith("layer59")


class TestHistogram:
    def test_without_a_grid_only_the_float_distribution_is_drawn(self):
        chart = histogram(EDGES, COUNTS, grid=None)
        assert [trace.name for trace in chart.data] == ["float values"]
        assert chart.layout.yaxis.type == "log"

    def test_counts_are_drawn_bin_by_bin(self):
        (area,) = named(histogram(EDGES, COUNTS, grid=None, log=False), "float")
        assert list(area.x[1:-1]) == list(EDGES)
        assert list(area.y[1:-2]) == list(COUNTS)

    def test_few_levels_are_lines_and_many_are_ticks(self):
        few = histogram(EDGES, COUNTS, grid=Grid(np.linspace(-4, 4, 64), 0))
        many = histogram(EDGES, COUNTS, grid=Grid(np.linspace(-4, 4, 65), 0))
        assert len(named(few, "grid lines")) == 1
        assert len(named(many, "grid lines")) == 0
        assert [len(named(chart, "levels")[0].x) for chart in (few, many)] == [64, 65]

    def test_sixteen_bits_are_thinned(self):
        chart = histogram(EDGES, COUNTS, grid=Grid(np.linspace(-4, 4, 65536), 0))
        assert len(named(chart, "levels")[0].x) <= MOST_TICKS

    def test_clip_bounds_carry_their_values(self):
        chart = histogram(EDGES, COUNTS, grid=Grid(np.linspace(-2.5, 3, 256), 0.012))
        assert [shape.x0 for shape in chart.layout.shapes] == [-2.5, 3.0]
        assert texts(chart) == ["−2.50", "3.00", "clipped 1.20 %"]

    def test_clipped_mass_is_shaded_up_to_the_bound(self):
        chart = histogram(EDGES, COUNTS, grid=Grid(np.linspace(-2.5, 3, 256), 0.012))
        left, right = named(chart, "clipped")
        assert (min(left.x), max(left.x)) == (-4.0, -2.5)
        assert (min(right.x), max(right.x)) == (3.0, 4.0)
        assert left.line.color == CLIPPED

    def test_nothing_is_shaded_where_nothing_is_clipped(self):
        chart = histogram(EDGES, COUNTS, grid=Grid(np.linspace(-4.1, 4.1, 256), 0))
        assert named(chart, "clipped") == []
        assert texts(chart) == ["−4.10", "4.10"]

    def test_a_constant_tensor_has_a_chart_too(self):
        chart = histogram(np.array([2.0, 2.0]), np.array([7]), grid=None)
        low, high = chart.layout.xaxis.range
        assert low < 2 < high


class TestChannels:
    def test_widest_channel_comes_first(self):
        chart = channel_ranges(np.array([-1.0, -5.0]), np.array([1.0, 2.0]))
        (bars,) = named(chart, "values")
        assert list(bars.y) == [7.0, 2.0]
        assert list(bars.base) == [-5.0, -1.0]
        assert bars.hovertext[0] == "channel 1: −5.00 to 2.00"

    def test_what_the_codes_express_lies_behind(self):
        low, high = np.array([-1.0, -5.0]), np.array([1.0, 2.0])
        shared = channel_ranges(low, high, clip=(np.array(-5.0), np.array(5.0)))
        (band,) = named(shared, "what the codes")
        assert shared.data[0] is band
        assert (list(band.base), list(band.y)) == ([-5.0, -5.0], [10.0, 10.0])
        own = channel_ranges(low, high, clip=(np.array([-1.0, -5.0]), np.array([1.0, 5.0])))
        (band,) = named(own, "what the codes")
        assert (list(band.base), list(band.y)) == ([-5.0, -1.0], [10.0, 2.0])

    def test_thousands_of_channels_are_thinned_and_counted(self):
        wide = np.linspace(1, 9, 5000)
        chart = channel_ranges(-wide, wide, clip=(np.array(-9.0), np.array(9.0)))
        assert len(named(chart, "values")[0].y) == 400
        assert chart.layout.xaxis.title.text == "400 of 5,000 channels, widest first"


class TestNumberLine:
    levels, codes = np.arange(-8, 8) * 0.5, np.arange(16)

    def line(self, value: float = 1.3, code: int = 11, back: float = 1.5) -> go.Figure:
        return number_line(
            self.levels,
            self.codes,
            value=value,
            code=code,
            reconstruction=back,
            span=(-6, 6),
        )

    def test_the_arrow_goes_from_the_value_to_its_reconstruction(self):
        arrow = self.line().layout.annotations[-1]
        assert (arrow.ax, arrow.x) == (1.3, 1.5)
        assert named(self.line(), "value")[0].text == ("x = 1.30",)
        assert named(self.line(), "reconstruction")[0].text == ("q = 11",)

    def test_what_no_code_reaches_is_shaded(self):
        shaded = [
            (shape.x0, shape.x1) for shape in self.line().layout.shapes if shape.type == "rect"
        ]
        assert shaded == [(-6, -4.0), (3.5, 6)]

    @pytest.mark.parametrize(("spacing", "stride"), [(1.0, 1), (0.5, 2), (0.125, 8)])
    def test_as_many_codes_are_written_as_do_not_touch(self, spacing: float, stride: int):
        codes = np.arange(-8, 8)
        chart = number_line(
            codes * spacing,
            codes,
            value=0.0,
            code=0,
            reconstruction=0.0,
            span=(-8.0, 8.0),
        )
        written = named(chart, "codes")[0]
        assert written.text == tuple(str(c) for c in codes[::stride])
        # Two characters and a gap on a line of 340 pixels, 7 pixels each.
        assert np.diff(written.x).min() / 16 * 340 > 2 * 7

    def test_the_error_curve_tells_rounding_from_clipping(self):
        values = np.array([-5.0, 0.0, 0.2, 4.0])
        errors = np.array([1.0, 0.0, -0.2, -0.5])
        chart = error_curve(values, errors, bounds=(-4.0, 3.5), marked=(0.2, -0.2))
        (rounding,), (clipping,) = named(chart, "rounding"), named(chart, "clipping")
        assert list(rounding.y[1:3]) == [0.0, -0.2]
        assert [clipping.y[0], clipping.y[3]] == [1.0, -0.5]
        assert named(chart, "value")[0].y == (-0.2,)


class TestChannelErrors:
    def test_the_worst_comes_first_and_infinities_stay_on_the_chart(self):
        table = pd.DataFrame({"sqnr": [20.0, np.inf, -np.inf, 10.0, -3.0]})
        chart = channel_errors(table)
        assert list(chart.data[0].y) == pytest.approx([-3.0, -3.0, 10.0, 20.0, 22.0])
        assert chart.data[0].hovertext[0] == "channel 2: −∞ dB"
        assert chart.data[0].hovertext[-1] == "channel 1: ∞ dB"
        assert chart.layout.shapes[0].y0 == 10

    def test_many_channels_are_thinned_and_say_so(self):
        chart = channel_errors(pd.DataFrame({"sqnr": np.arange(1000.0)}))
        assert len(chart.data[0].y) == 400
        assert chart.layout.xaxis.title.text == "400 of 1,000 channels, worst first"


def test_the_range_curve_has_a_band_around_its_mean():
    columns = ("low", "high", "low_mean", "high_mean", "low_std", "high_std")
    rows = [(-1.0, 1.0, -1.5, 1.5, 0.5, 0.25), (-2.0, 2.0, -2.0, 2.0, 0.0, 0.0)]
    index = pd.Index([1, 2], name="batches")
    chart = range_curve(pd.DataFrame(rows, columns=list(columns), index=index))
    band, mean, seen = chart.data[:3]
    assert list(band.x) == [1, 2, 2, 1]
    assert list(band.y) == [1.75, 2.0, 2.0, 1.25]
    assert list(mean.y) == [1.5, 2.0]
    assert list(seen.y) == [1.0, 2.0]
    assert list(chart.data[5].y) == [-1.0, -2.0]


def test_arrows_of_turned_titles_point_where_they_should():
    assert upright("SQNR [dB] ↑") == "SQNR [dB] →"
    assert upright("error ↓") == "error ←"
