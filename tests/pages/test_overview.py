"""Overview: its numbers are the engine's, a click selects, changes make them stale."""

import pytest
from streamlit.testing.v1 import AppTest

import sample_models
from pages.common import format as fmt
from pages.common.workspace import Choice
from qlab import Lab
from qlab.qconfig import QConfigMapping
from tests.pages.harness import chart, has_button, metrics, open_page, settle, texts, workspace_of

TRAINED = sample_models.names(trained=True)


def report_of(name: str, mapping: str = "int8"):
    """The same comparison, asked of the engine."""
    sample = sample_models.load(name)
    lab = Lab(sample.model, sample.example_inputs, sample.calibration(), sample.evaluation())
    return lab.compare(mapping)


@pytest.mark.parametrize("name", TRAINED)
def test_the_numbers_of_every_trained_model(name: str):
    page, report = open_page("overview", model=name), report_of(name)
    assert not page.error
    output, shown = report.output, metrics(page)
    before, after = fmt.number(output["float_accuracy"]), fmt.number(output["accuracy"], "%")
    assert shown["Accuracy ↑"] == f"{before} → {after}"
    assert shown["Output SQNR ↑"] == fmt.number(output["sqnr"], "dB")
    assert shown["Integer operators ↑"] == f"{report.coverage.integer} of {report.coverage.total}"
    sizes = (report.size.float_bytes, report.size.quantized_bytes)
    assert shown["Size ↓"] == " → ".join(fmt.size(size) for size in sizes)
    bars = {trace.name.split(":")[0]: trace for trace in chart(page, "by_layer").data}
    assert list(bars["local"].customdata) == list(report.layers.index)
    assert list(bars["accumulated"].y) == pytest.approx(list(report.layers["sqnr_accumulated"]))


@pytest.mark.slow
@pytest.mark.parametrize("name", sample_models.names(trained=False))
def test_untrained_models_are_called_untrained(name: str):
    page = open_page("overview", model=name, samples=2)
    assert not page.error
    assert page.warning[0].value.startswith("Untrained")
    assert f"{name} (untrained)" in page.selectbox(key="model").options
    assert any(f"{name} \\(untrained\\)".replace("_", "\\_") in m.value for m in page.markdown)
    assert "Accuracy ↑" not in metrics(page)
    assert metrics(page)["Same class ↑"].endswith("%")


@pytest.fixture
def collapsed() -> AppTest:
    return open_page("overview", model="depthwise", preset="int8-per-tensor")


def test_the_worst_layers_come_with_reason_remedy_and_gain(collapsed: AppTest):
    report = report_of("depthwise", "int8-per-tensor")
    worst = report.worst(5)
    rows = [f"**{fmt.number(value, 'dB')}**" for value in worst["sqnr_local"]]
    shown = [m.value for m in collapsed.markdown if m.value in rows]
    assert shown == rows
    assert any("share one scale" in m.value for m in collapsed.markdown)
    remedy = collapsed.button(key="remedy_0")
    assert remedy.label.startswith("Use one scale per channel: +")


def test_a_remedy_makes_the_numbers_stale_and_refreshing_shows_the_gain(collapsed: AppTest):
    before = metrics(collapsed)["Output SQNR ↑"]
    collapsed.button(key="remedy_0").click().run()
    assert collapsed.warning[0].value.startswith("Stale")
    assert metrics(collapsed)["Output SQNR ↑ · stale"] == before
    assert collapsed.button(key="remedy_0").label == "Applied"
    grey = chart(collapsed, "by_layer").data[1].marker.color
    settle(collapsed.button(key="refresh").click().run())
    assert not collapsed.warning
    after = metrics(collapsed)["Output SQNR ↑"]
    assert float(after.split()[0].replace("−", "-")) > float(before.split()[0].replace("−", "-"))
    assert chart(collapsed, "by_layer").data[1].marker.color != grey


def test_undo_and_reset_take_changes_back(collapsed: AppTest):
    for position in (0, 1):
        collapsed.button(key=f"remedy_{position}").click().run()
    assert any("2 changes of yours" in caption.value for caption in collapsed.caption)
    collapsed.button(key="undo").click().run()
    assert any("1 change of yours" in caption.value for caption in collapsed.caption)
    assert collapsed.button(key="remedy_0").label == "Applied"
    collapsed.button(key="reset").click().run()
    assert not has_button(collapsed, "undo")
    assert not collapsed.warning


def test_a_click_on_a_bar_selects_the_layer_and_an_empty_one_keeps_it():
    page = open_page("overview", model="mlp")
    bars = chart(page, "by_layer").data[0]
    name = bars.customdata[-1]
    page.session_state["by_layer"] = {"selection": {"points": [{"customdata": name}]}}
    page.run()
    assert page.session_state["layer"] == name
    assert f"selected\xa0 {name}" in texts(page)
    assert chart(page, "by_layer").data[0].marker.line.width[-1] > 0
    page.session_state["by_layer"] = {"selection": {"points": []}}
    page.run()
    assert page.session_state["layer"] == name


def test_a_network_that_is_all_float_says_what_to_do_next():
    page = open_page("overview", model="mlp")
    workspace_of(page).configure(Choice("mlp", "int8", 256), QConfigMapping())
    page.run()
    settle(page.button(key="refresh").click().run())
    assert not page.error
    assert page.info[0].value.startswith("Nothing is quantized")
    assert metrics(page)["Output SQNR ↑"] == "∞ dB"


def test_worst_first_sorts_the_bars():
    page = open_page("overview", model="residual")
    page.segmented_control(key="order").set_value("worst first").run()
    local = list(chart(page, "by_layer").data[0].y)
    assert local == sorted(local)


def test_each_choice_in_the_sidebar_changes_the_numbers():
    page = open_page("overview", model="depthwise")
    seen = {metrics(page)["Output SQNR ↑"]}
    settle(page.selectbox(key="samples").set_value(8).run())
    seen.add(metrics(page)["Output SQNR ↑"])
    settle(page.selectbox(key="preset").set_value("int8-per-tensor").run())
    seen.add(metrics(page)["Output SQNR ↑"])
    settle(page.selectbox(key="model").set_value("mlp").run())
    seen.add(metrics(page)["Output SQNR ↑"])
    assert len(seen) == 4


def test_an_untrained_model_offers_fewer_images_and_the_trained_ones_all():
    page = open_page("overview", model="mlp", samples=256)
    assert page.selectbox(key="samples").value == 256
    page.selectbox(key="model").set_value("resnet18").run()
    assert page.selectbox(key="samples").value == 4
    assert [button.key for button in page.button if button.key == "cancel"]
    page.button(key="cancel").click().run()
    assert "was cancelled" in page.info[0].value
    assert has_button(page, "resume")
