"""Model: the picture and the tables show what the engine says of every layer."""

import pytest
from streamlit.testing.v1 import AppTest

import qlab
import sample_models
from pages.common.format import count, size
from sample_models.catalog import MODELS
from tests.pages.harness import chart, metrics, open_page, texts

TRAINED = [name for name, entry in MODELS.items() if entry.recipe is not None]


@pytest.fixture(scope="module")
def lab() -> qlab.Lab:
    sample = sample_models.load("residual")
    return qlab.Lab(sample.model, sample.example_inputs, sample.calibration(64))


def drawn(page: AppTest) -> dict[str, str]:
    """The label of every layer's mark."""
    return {
        name: text
        for trace in chart(page, "network").data
        if trace.customdata is not None
        for name, text in zip(trace.customdata, trace.text, strict=True)
    }


@pytest.mark.parametrize("name", TRAINED)
def test_every_sample_is_drawn_whole(name):
    page = open_page("model", model=name, samples=16)
    sample = sample_models.load(name)
    lab = qlab.Lab(sample.model, sample.example_inputs, sample.calibration(2))
    layers, report = lab.layers, lab.compare()
    assert set(drawn(page)) == {layer.name for layer in layers}
    assert metrics(page)["Layers"] == str(len(layers))
    assert list(page.dataframe[0].value.index) == [layer.name for layer in layers]
    assert metrics(page)["As float32"] == size(report.size.float_bytes)  # what Overview tells
    parameters = sum(parameter.numel() for parameter in lab.graph.parameters())
    assert metrics(page)["Parameters"] == count(parameters)


def test_numbers_are_those_of_the_comparison(lab):
    page = open_page("model", model="residual", samples=64)
    table = page.dataframe[0].value
    sample = sample_models.load("residual")
    report = qlab.Lab(
        sample.model, sample.example_inputs, sample.calibration(64), sample.evaluation()
    ).compare()
    # What is compared stands before what is only described: a narrow screen shows no more.
    assert list(table.columns)[2:5] == ["sqnr_local", "sqnr_accumulated", "parameters"]
    for name in ("block1.conv1", "fc"):
        expected = report.layers.loc[name, "sqnr_local"]
        assert table.loc[name, "sqnr_local"] == pytest.approx(expected)
        assert f"{expected:.1f} dB" in drawn(page)[name]
    page.segmented_control(key="model_error").set_value("accumulated").run()
    assert f"{report.layers.loc['fc', 'sqnr_accumulated']:.1f} dB" in drawn(page)["fc"]


def test_a_click_on_a_mark_selects_the_layer():
    page = open_page("model", model="residual", samples=64)
    page.session_state["network"] = {"selection": {"points": [{"customdata": "block2.add"}]}}
    page.run()
    assert "block2.add" in texts(page)
    assert drawn(page)["block2.add"].startswith(" ▸")


def test_it_says_what_stays_in_float_and_why():
    page = open_page("model", model="residual", samples=64)
    assert any("only move" in caption.value for caption in page.caption)
    assert any("Nothing: every layer" in caption.value for caption in page.caption)
