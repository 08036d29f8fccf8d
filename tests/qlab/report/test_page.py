"""A report says what the engine says, about any network, and needs nothing but itself."""

import re
from html import unescape

import numpy as np
import pytest
import torch
from torch import nn

import qlab
from qlab.cli import load_subject
from qlab.report.figures import errors_chart, histogram_chart
from qlab.report.page import number
from qlab.report.terms import NUMBERS

LAYER = "<script>alert(1)</script>"


def without_plotly(page: str) -> str:
    """What of a page is qlab's own: everything but the first, largest script."""
    start = page.index("<script>")
    return page[:start] + page[page.index("</script>", start) :]


@pytest.fixture(scope="module")
def lab() -> qlab.Lab:
    subject = load_subject("depthwise", samples=32)
    data = (subject.calibration, subject.evaluation)
    return qlab.Lab(subject.model, subject.example_inputs, *data)


@pytest.fixture(scope="module")
def page(lab, tmp_path_factory: pytest.TempPathFactory) -> str:
    mapping = qlab.presets.get("int8-per-tensor").mapping().set_module_name("nowhere", None)
    path = tmp_path_factory.mktemp("report") / "report.html"
    return lab.export(path, mapping).read_text(encoding="utf-8")


class TestReport:
    def test_it_holds_the_metrics_with_value_and_formula(self, lab, page):
        output = lab.runs.latest().metrics
        for name, title, unit, _, formula in NUMBERS:
            shown = f"{number(output[name])} {unit}".strip()
            row = rf"<td>{re.escape(title)}</td><td class=\"number\">{re.escape(shown)}</td>"
            assert re.search(row, page)
            assert f"<code>{formula}</code>" in unescape(page)

    def test_it_holds_the_truth_table_and_the_rule_that_matched_nothing(self, lab, page):
        table = lab.plan("int8-per-tensor").to_frame()
        rows = re.findall(r'<tr><td class="name">(.*?)</td>', page)
        assert rows[-len(table) :] == list(table.index)
        assert "This rule matched nothing" in page
        assert "nowhere" in page

    def test_the_worst_layers_come_with_causes_gains_and_histograms(self, lab, page):
        worst = lab.runs.latest().layers.sort_values("sqnr_local", kind="stable").index[:5]
        headings = re.findall(r'<h3><span class="name">(.*?)</span>', page)
        assert headings == list(worst)
        cause = lab.causes(headings[0], "int8-per-tensor")[0]
        assert cause.sentence in unescape(page)
        assert f"(gain {number(cause.gain)} dB)" in page
        assert page.count("Plotly.newPlot(") == 1 + 2 * len(worst)

    def test_it_says_what_it_was_made_from(self, lab, page):
        assert lab.data in page
        assert lab.subject in page
        assert f"torch {torch.__version__}" in page

    def test_it_needs_nothing_from_outside(self, page):
        own = without_plotly(page)
        assert len(own) < 1_000_000 < len(page)
        assert not re.findall(r"""(?:src|href)\s*=\s*["']?(?!data:)\w+:?//""", own)
        assert not re.findall(r"<(?:link|iframe|img)\b|@import", own)
        assert "default-src 'none'" in own


def test_what_a_network_calls_its_layers_is_text(tmp_path):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.add_module(LAYER, nn.Linear(4, 4))

        def forward(self, x):
            return getattr(self, LAYER)(x)

    lab = qlab.Lab(Net().eval(), torch.randn(1, 4), [torch.randn(8, 4)])
    assert any("alert" in layer.name for layer in lab.layers)
    page = lab.export(tmp_path / "report.html").read_text()
    assert "alert(1)" in page
    assert "<script>alert" not in page


class TestCharts:
    def test_no_error_at_all_is_drawn_on_the_edge_and_called_infinite(self, lab):
        layers = lab.compare("int8").layers.copy()
        layers.loc[layers.index[1], "sqnr_local"] = np.inf
        chart = errors_chart(layers)
        local = chart.data[0]
        assert "local ∞ dB" in local.text[1]
        assert np.isfinite(local.y).all()
        assert local.y[1] == max(local.y)

    def test_levels_and_ends_are_those_of_the_widest_channel(self, lab):
        name = "stem.conv"
        what = lab.what_if(name, mapping="int8")
        chart = histogram_chart(lab.statistics(name, "weight"), what.weight_qparams, "weight")
        scale = float(what.weight_qparams.scale.max())
        ends = sorted(shape.x0 for shape in chart.layout.shapes)
        assert ends == pytest.approx([-128 * scale, 127 * scale])
        assert len(chart.data[1].x) == 256

    def test_a_tensor_in_float_has_no_levels(self, lab):
        chart = histogram_chart(lab.statistics("stem.conv", "weight"), None, "weight")
        assert len(chart.data) == 1
        assert not chart.layout.shapes


@pytest.mark.parametrize(
    ("value", "text"),
    [(np.inf, "∞"), (-np.inf, "−∞"), (np.nan, "n/a"), (-0.5, "−0.5"), (31.23456, "31.23")],
)
def test_numbers_as_people_read_them(value, text):
    assert number(value) == text
