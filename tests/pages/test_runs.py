"""Runs: what was measured in this workspace, two side by side, back to any."""

import re

import pytest
from streamlit.testing.v1 import AppTest

import qlab
import sample_models
from pages.common import format as fmt
from pages.common import tried
from pages.common.engine import board
from pages.common.store import store
from pages.common.workspace import Choice
from qlab.runs import Runs
from tests.pages.harness import ROOT, SECONDS, chart, has_button, open_page, settle, workspace_of

CHOICE = Choice("mlp", "int8", 256)


def tick(page: AppTest, *rows: int) -> AppTest:
    page.session_state["runs"] = {"selection": {"rows": list(rows), "columns": []}}
    return settle(page.run())


def again(page: AppTest, name: str, **state: str) -> AppTest:
    """Another page of the same workspace."""
    other = AppTest.from_file(ROOT / "pages" / f"{name}.py", default_timeout=SECONDS)
    other.query_params["w"] = page.query_params["w"]
    for key, value in state.items():
        other.session_state[key] = value
    return settle(other.run())


@pytest.fixture
def page() -> AppTest:
    """The preset, then the same with four bits for one layer."""
    overview = open_page("overview", model="mlp")
    space = workspace_of(overview)
    lab = board().find(("loaded", "mlp", 256, "cpu")).result.lab
    asked = lab.plan("int4-weights").step("fc2").requested
    space.configure(CHOICE, space.mapping(CHOICE).copy().set_module_name("fc2", asked))
    settle(overview.run())
    settle(overview.button(key="refresh").click().run())
    return again(overview, "runs", model="mlp")


def runs_of(page: AppTest) -> Runs:
    return store().runs(workspace_of(page))


def test_without_runs_it_says_where_they_come_from():
    page = open_page("runs", model="mlp")
    assert "Open *Overview*" in page.info[0].value
    assert not page.dataframe


def test_every_run_has_its_numbers_newest_first(page: AppTest):
    table = page.dataframe[0].value
    assert list(table["Name"]) == ["run 2", "int8"]
    assert list(table["Model"]) == ["mlp", "mlp"]
    assert list(table["Made from"]) == ["int8", ""]
    (seen,) = set(table["Calibrated on"])
    sample = sample_models.load("mlp")
    data = sample.calibration(), sample.evaluation()
    assert re.fullmatch(r"256 samples in \d+ batches \([0-9a-f]{12}\)", seen)
    report = qlab.Lab(sample.model, sample.example_inputs, *data).compare()
    assert table.loc[1, "Output SQNR ↑"] == fmt.number(report.output["sqnr"], "dB")
    assert table.loc[1, "Accuracy ↑"] == fmt.number(report.output["accuracy"], "%")
    assert table.loc[1, "Size ↓"] == fmt.size(report.size.quantized_bytes)


def test_a_run_is_renamed_in_place(page: AppTest):
    tick(page, 0)
    page.text_input(key="name_2").set_value("four bits").run()
    assert runs_of(page).get(2).name == "four bits"
    assert page.dataframe[0].value.loc[2, "Name"] == "four bits"
    page.text_input(key="name_2").set_value("  ").run()
    assert runs_of(page).get(2).name == "four bits"
    assert page.text_input(key="name_2").value == "four bits"


def test_two_runs_are_compared_in_words_numbers_and_layers(page: AppTest):
    tick(page, 0, 1)
    said = [text.value for text in page.markdown if text.value.startswith("- ")]
    assert len(said) == 1 and said[0].startswith("- weight int8 symmetric per channel")
    assert "→ int4" in said[0] and said[0].endswith("fc2")
    runs = runs_of(page)
    a, b = runs.get(1), runs.get(2)
    numbers = next(d.value for d in page.dataframe if "B − A" in d.value)
    change = b.metrics["sqnr"] - a.metrics["sqnr"]
    assert numbers.loc["Output SQNR ↑", "B − A"] == fmt.number(change, "dB")
    assert numbers.loc["Size ↓", "B − A"].startswith("−")
    layers = runs.compare(1, 2)
    drawn = {trace.name: trace for trace in chart(page, "versus").data if trace.customdata}
    assert list(drawn) == ["A: int8", "B: run 2"]
    assert drawn["B: run 2"].y == pytest.approx(list(layers["sqnr_accumulated_b"]))
    page.segmented_control(key="runs_error").set_value("local").run()
    drawn = {trace.name: trace for trace in chart(page, "versus").data if trace.customdata}
    assert drawn["A: int8"].y == pytest.approx(list(layers["sqnr_local_a"]))
    page.session_state["versus"] = {"selection": {"points": [{"customdata": "fc3"}]}}
    page.run()
    assert page.session_state["layer"] == "fc3"


def test_going_back_makes_a_run_the_configuration_in_force(page: AppTest):
    space = workspace_of(page)
    tick(page, 1)
    assert not page.button(key="back_1").disabled
    page.button(key="back_1").click().run()
    assert space.mapping(CHOICE) == runs_of(page).get(1).mapping
    assert page.button(key="back_1").disabled
    assert runs_of(page).latest().id == 1
    page.button(key="undo").click().run()
    assert space.mapping(CHOICE) == runs_of(page).get(2).mapping


def test_runs_of_another_model_are_told_apart_and_going_back_goes_there_too(page: AppTest):
    again(page, "overview", model="conv_bn_relu")
    page = again(page, "runs", model="conv_bn_relu")
    assert list(page.dataframe[0].value["Model"]) == ["conv_bn_relu", "mlp", "mlp"]
    tick(page, 0, 2)
    assert "different models" in page.warning[0].value
    assert not page.get("plotly_chart")
    page.button(key="back_1").click().run()
    assert page.session_state["model"] == "mlp"
    assert workspace_of(page).choice.model == "mlp"
    page.selectbox(key="model").set_value("conv_bn_relu").run()
    tick(page, 1, 2)
    assert any("Choose their model" in caption.value for caption in page.caption)


def test_a_run_of_a_model_that_nobody_knows_cannot_be_gone_back_to(page: AppTest):
    runs_of(page).add(qlab.presets.get("int8").mapping(), {"sqnr": 1.0}, subject="?")
    page.run()
    tick(page, 0)
    assert page.dataframe[0].value.iloc[0]["Model"] == tried.OTHER
    assert page.button(key="back_3").disabled


def test_more_than_two_ticks_compare_the_first_two(page: AppTest):
    runs_of(page).add(qlab.presets.get("int8").mapping(), {"sqnr": 1.0}, subject="?")
    tick(page, 0, 1, 2)
    assert has_button(page, "back_2") and has_button(page, "back_3")
    assert not has_button(page, "back_1")
