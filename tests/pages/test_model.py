"""Model: the picture and the tables show what the engine says of every layer."""

import re

import pytest
from streamlit.testing.v1 import AppTest

import qlab
import sample_models
from pages.common.format import count, size
from pages.common.workspace import Choice, Draft
from pages.figures.network import STALE
from sample_models.catalog import MODELS
from tests.pages.harness import chart, has_button, metrics, open_page, texts, workspace_of

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


def selected(page: AppTest) -> tuple[str, ...]:
    """The layer that the picture outlines, the box below it names and the workspace holds."""
    outlined = [name for name, text in drawn(page).items() if text.strip().startswith("▸")]
    (said,) = re.findall(r"selected\s+(\S+)", texts(page))
    return (*outlined, said, workspace_of(page).selected["residual"])


def click(page: AppTest, key: str, **clicked: list) -> AppTest:
    """Another click in the picture or the table; each goes on telling of its last one."""
    for widget, event in {**page.session_state["events"], key: {"selection": clicked}}.items():
        page.session_state[widget] = event
        page.session_state["events"] = {**page.session_state["events"], widget: event}
    return page.run()


def test_the_last_click_counts_in_the_picture_as_in_the_table():
    page = open_page("model", model="residual", samples=64, events={})
    names = list(page.dataframe[0].value.index)
    click(page, "network", points=[{"customdata": "block2.add"}])
    assert selected(page) == ("block2.add",) * 3
    click(page, "layers", rows=[names.index("fc")])
    assert selected(page) == ("fc",) * 3
    click(page, "network", points=[{"customdata": "block1.conv1"}])
    assert selected(page) == ("block1.conv1",) * 3
    click(page, "layers", rows=[])
    assert selected(page) == ("block1.conv1",) * 3


def test_numbers_of_another_configuration_are_greyed():
    page = open_page("model", model="residual", samples=64)
    marks = [trace for trace in chart(page, "network").data if trace.customdata is not None]
    assert all(trace.marker.color != STALE for trace in marks)
    space = workspace_of(page)
    space.apply(Choice("residual", "int8", 64), "fc", Draft(None, None, in_float=True))
    page.run()
    assert has_button(page, "refresh")
    marks = [trace for trace in chart(page, "network").data if trace.customdata is not None]
    assert all(trace.marker.color == STALE for trace in marks)


def test_it_says_what_stays_in_float_and_why():
    page = open_page("model", model="residual", samples=64)
    assert any("only move" in caption.value for caption in page.caption)
    assert "Nowhere: the whole model became one graph." in [c.value for c in page.caption]
    assert any("Nothing: every layer" in caption.value for caption in page.caption)
