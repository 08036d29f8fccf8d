"""Sensitivity: its cells are the engine's numbers, a cell and a point become the configuration."""

import functools
import threading
import time

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

import qlab
import sample_models
from pages.common import engine, searches, sensitivities
from pages.common import format as fmt
from pages.common.jobs import CancelledError
from pages.common.sensitivities import ACCURACY, ALONE, ESTIMATE, KINDS, LEFT_OUT, SQNR, cells
from pages.common.store import store
from pages.common.workspace import Choice
from qlab.analysis.sensitivity import MEASURING
from tests.pages.harness import (
    ROOT,
    SECONDS,
    chart,
    has_button,
    metrics,
    open_page,
    settle,
    texts,
    workspace_of,
)

TRAINED = sample_models.names(trained=True)
CHOICE = Choice("mlp", "int8", 256)


@functools.cache
def lab_of(name: str) -> qlab.Lab:
    sample = sample_models.load(name)
    return qlab.Lab(sample.model, sample.example_inputs, sample.calibration(), sample.evaluation())


@functools.cache
def found_of(name: str, *presets: str):
    return lab_of(name).sensitivity(presets)


def shown(page: AppTest) -> np.ndarray:
    """The numbers of the heat map, layers × configurations."""
    drawn = chart(page, "heat_map")
    rows = len(drawn.layout.yaxis.ticktext)
    return np.array(drawn.data[0].z, dtype=float).reshape(rows, -1)


def show(page: AppTest, kind: str, measure: str) -> AppTest:
    page.segmented_control(key="sensitivity_kind").set_value(kind).run()
    if kind != ESTIMATE:
        page.segmented_control(key="sensitivity_measure").set_value(measure).run()
    return page


def open_measured(**state: object) -> AppTest:
    """Opens the page and has everything measured exactly."""
    page = open_page("sensitivity", **state)
    return settle(page.button(key="measure").click().run())


def click(page: AppTest, key: str, data: object) -> AppTest:
    page.session_state[key] = {"selection": {"points": [{"customdata": data}]}}
    return page.run()


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINED)
def test_every_cell_of_every_trained_model_is_the_engines_number(name: str):
    page = open_measured(model=name, sensitivity_bits=[])
    assert not page.error
    found = found_of(name, "int8")
    for kind, measure in ((ALONE, SQNR), (LEFT_OUT, ACCURACY), (LEFT_OUT, SQNR), (ESTIMATE, SQNR)):
        show(page, kind, measure)
        expected = cells(found, kind, measure).values.to_numpy(float)
        finite = np.isfinite(expected)
        assert shown(page)[finite] == pytest.approx(expected[finite], rel=1e-4, abs=1e-4)


@pytest.fixture(scope="module")
def page() -> AppTest:
    return open_measured(model="mlp")


def test_the_columns_are_what_was_chosen(page: AppTest):
    show(page, ALONE, SQNR)
    drawn = chart(page, "heat_map")
    assert [label.strip("<b>▸/ ") for label in drawn.layout.xaxis.ticktext] == ["int8", "w4"]
    lab = lab_of("mlp")
    four = sensitivities.with_weight_bits(
        engine.board().find(("loaded", "mlp", 256, "cpu")).result,
        qlab.presets.get("int8").mapping(),
        4,
    )
    assert {s.weight.dtype.bits for s in lab.plan(four).steps if s.weight} == {4}
    table = lab.sensitivity({"w4": four}, ways=("on",)).table
    assert list(shown(page)[:, 1]) == pytest.approx(list(table["sqnr_on"]), abs=1e-3)


def test_accuracy_is_told_as_points_lost_and_won(page: AppTest):
    found = found_of("mlp", "int8")
    show(page, ALONE, ACCURACY)
    lost = found.float_accuracy - found.table["accuracy_on"].to_numpy()
    assert list(shown(page)[:, 0]) == pytest.approx(list(lost), abs=1e-6)
    show(page, LEFT_OUT, ACCURACY)
    won = found.table["accuracy_off"].to_numpy() - found.whole.loc["int8", "accuracy"]
    assert list(shown(page)[:, 0]) == pytest.approx(list(won), abs=1e-6)


def test_the_estimate_stands_beside_the_measurement(page: AppTest):
    show(page, ALONE, SQNR)
    points = chart(page, "agreement").data
    assert points[0].line.dash == "dash" and list(points[0].x) == list(points[0].y)
    table = found_of("mlp", "int8").table
    int8 = next(trace for trace in points if trace.name == "int8")
    assert list(int8.y) == pytest.approx(list(table["sqnr_on"]), abs=1e-3)
    assert list(int8.x) == pytest.approx(list(table["sqnr_estimate"]), abs=1e-3)
    assert float(metrics(page)["Rank correlation ↑"]) > 0.9


def test_most_sensitive_first_sorts_the_rows(page: AppTest):
    show(page, ALONE, SQNR)
    page.segmented_control(key="sensitivity_order").set_value("most sensitive first").run()
    worst = shown(page).min(axis=1)
    assert list(worst) == sorted(worst)
    page.segmented_control(key="sensitivity_order").set_value("graph order").run()


def test_a_cell_selects_layer_and_configuration_and_can_be_used_and_undone():
    page = open_measured(model="mlp")
    click(page, "heat_map", ["fc2", "w4"])
    assert page.session_state["layer"] == "fc2"
    assert "selected\xa0 fc2" in texts(page)
    assert any("as **w4**" in text.value for text in page.markdown)
    row = lab_of("mlp").sensitivity("int4-weights").table.loc[("fc2", "int4-weights")]
    assert metrics(page)["on alone ↑"] == fmt.number(row["sqnr_on"], "dB")
    page.button(key="use").click().run()
    step = lab_of("mlp").plan(workspace_of(page).mapping(CHOICE)).step("fc2")
    assert step.weight.dtype.bits == 4
    assert page.button(key="use").disabled
    page.button(key="undo").click().run()
    assert workspace_of(page).changes(CHOICE) == 0
    assert not page.button(key="use").disabled
    click(page, "agreement", "fc3")
    assert page.session_state["layer"] == "fc3"  # the older click on the heat map has had its turn


def test_the_keyboard_reaches_every_cell(page: AppTest):
    page.selectbox(key="layer").set_value("fc3").run()
    page.segmented_control(key="sensitivity_config").set_value("int8").run()
    assert "selected\xa0 fc3" in texts(page)
    assert any("as **int8**" in text.value for text in page.markdown)


def test_your_own_configuration_is_a_candidate_and_goes_stale():
    page = open_measured(model="mlp", sensitivity_bits=["4"])
    click(page, "heat_map", ["fc1", "w4"])
    page.button(key="use").click().run()
    settle(page.multiselect(key="sensitivity_presets").set_value(["yours", "int8"]).run())
    assert not page.warning
    click(page, "heat_map", ["fc2", "w4"])
    page.button(key="use").click().run()
    assert page.warning[0].value.startswith("Stale")
    assert not chart(page, "heat_map").data[0].showscale
    settle(page.button(key="refresh_sensitivity").click().run())
    assert not page.warning


def test_without_candidates_it_says_what_to_do():
    page = open_page("sensitivity", model="mlp")
    page.pills(key="sensitivity_bits").set_value([]).run()
    settle(page.multiselect(key="sensitivity_presets").set_value([]).run())
    assert "Choose at least one" in page.info[0].value


def test_a_measurement_is_offered_after_the_estimate():
    page = open_page("sensitivity", model="mlp", samples=64)
    assert "takes at most about" in page.info[0].value
    assert not any(c.key == "sensitivity_kind" for c in page.segmented_control)
    lab = engine.board().find(("loaded", "mlp", 64, "cpu")).result.lab
    estimate = lab.sensitivity("int8", ways=("estimate",)).table["sqnr_estimate"]
    assert list(shown(page)[:, 0]) == pytest.approx(list(estimate), abs=1e-3)
    assert "Estimated on 500 images." in [caption.value for caption in page.caption]
    settle(page.button(key="measure").click().run())
    assert page.segmented_control(key="sensitivity_kind").options == list(KINDS)
    assert not has_button(page, "measure")
    assert "Measured on 500 images." in [caption.value for caption in page.caption]


def test_a_cancelled_measurement_shows_what_it_has_and_goes_on(monkeypatch: pytest.MonkeyPatch):
    measured, released, seen = qlab.Lab.sensitivity, threading.Event(), []

    def slow(self, mappings, *, ways=("on", "off", "estimate"), since=None, **hooks):
        stop, report = hooks["should_stop"], hooks["on_progress"]
        if getattr(stop, "__name__", "") == "should_stop" and "on" in ways:
            seen.append([])

            def stopped():
                while seen[-1] and not released.is_set() and not stop():
                    time.sleep(0.01)
                return stop()

            hooks["should_stop"] = stopped

            def told(done, total, label):
                if label == MEASURING:
                    seen[-1].append(done)
                report(done, total, label)

            hooks["on_progress"] = told
        return measured(self, mappings, ways=ways, since=since, **hooks)

    monkeypatch.setattr(qlab.Lab, "sensitivity", slow)
    page = AppTest.from_file(ROOT / "pages" / "sensitivity.py", default_timeout=SECONDS)
    page.session_state["model"], page.session_state["samples"] = "mlp", 32
    settle(page.run())
    page.button(key="measure").click().run()
    while not seen or not seen[0] or not page.get("plotly_chart"):
        page.run()
    assert "Estimate of *on alone*" in [text.value for text in page.markdown]
    page.button(key="cancel").click().run()
    assert "goes on from where it was" in page.info[0].value
    assert np.isnan(shown(page)).any()
    assert "Stopped early" in " ".join(caption.value for caption in page.caption)
    released.set()
    settle(page.button(key="resume").click().run())
    assert not np.isnan(shown(page)).any()
    assert seen[1][0] == seen[0][-1] + 1  # nothing was measured twice


@pytest.fixture
def mixed() -> AppTest:
    page = open_page("sensitivity", model="mlp", sensitivity_section="mixed precision")
    assert "Name a budget" in page.info[0].value
    return settle(page.button(key="search").click().run())


def searched(page: AppTest, percent: int = 60) -> searches.Searched:
    base = qlab.presets.get("int8").mapping()
    asked = searches.Question("mlp", 256, base, "size", percent)
    return engine.board().find(asked.key("search")).result


def test_the_front_is_the_engines_and_a_point_becomes_the_configuration(mixed: AppTest):
    expected = lab_of("mlp").search(0.6).front
    hollow = next(t for t in chart(mixed, "pareto").data if t.name == "predicted")
    assert list(hollow.x) == list(expected["size"])
    assert list(hollow.y) == pytest.approx(list(expected["sqnr"]), abs=1e-3)
    assert hollow.marker.symbol == "circle-open"
    click(mixed, "pareto", 3)
    space = workspace_of(mixed)
    assert space.mapping(CHOICE) == searched(mixed).mappings[3]
    assert space.changes(CHOICE) == 1
    hollow = next(t for t in chart(mixed, "pareto").data if t.name == "predicted")
    assert list(hollow.marker.size).index(18) == 3
    assert mixed.button(key="take").label == "In force"
    mixed.button(key="undo").click().run()
    assert space.changes(CHOICE) == 0  # the click does not count again
    mixed.selectbox(key="search_point").set_value(5).run()
    mixed.button(key="take").click().run()
    assert space.mapping(CHOICE) == searched(mixed).mappings[5]
    gets = next(d.value for d in mixed.dataframe if "gets" in d.value)
    chosen = searched(mixed).search.choices(5)
    assert dict(gets["gets"]) == {name: c.name for name, c in chosen.items()}


def test_verified_points_are_measured_and_become_runs(mixed: AppTest):
    settle(mixed.button(key="verify").click().run())
    drawn = {trace.name: trace for trace in chart(mixed, "pareto").data}
    search, filled = searched(mixed).search, drawn["measured"]
    points = list(range(len(search)))[-searches.NEAREST :][::-1]
    assert list(filled.customdata) == points
    report = lab_of("mlp").compare(searched(mixed).mappings[points[0]])
    assert filled.y[0] == pytest.approx(report.output["sqnr"], abs=1e-3)
    runs = list(store().runs(workspace_of(mixed)))
    assert len(runs) == 1 + searches.NEAREST
    assert runs[1].parent == runs[0].id and runs[1].name.startswith("mixed precision, ")
    assert runs[1].metrics["sqnr"] == pytest.approx(report.output["sqnr"], abs=1e-3)
    mixed.segmented_control(key="pareto_measure").set_value(ACCURACY).run()
    drawn = {trace.name: trace for trace in chart(mixed, "pareto").data}
    assert filled.customdata == drawn["measured"].customdata
    assert drawn["measured"].y[0] == pytest.approx(report.output["accuracy"])
    assert not drawn["predicted"].x


def test_an_impossible_budget_is_a_message_that_states_the_smallest(mixed: AppTest):
    mixed.select_slider(key="budget").set_value(25).run()
    settle(mixed.button(key="search").click().run())
    assert "No mapping of these candidates fits the budget" in mixed.error[0].value
    assert "the smallest possible" in mixed.error[0].value


def test_another_budget_takes_the_measurements_of_the_first(
    mixed: AppTest, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(qlab.Lab, "sensitivity", None)
    mixed.select_slider(key="budget").set_value(80).run()
    settle(mixed.button(key="search").click().run())
    assert not mixed.error
    assert searched(mixed, 80).search.budget > searched(mixed).search.budget


def test_a_budget_of_bit_operations_is_another_question(mixed: AppTest):
    mixed.segmented_control(key="search_by").set_value("bit_ops").run()
    settle(mixed.button(key="search").click().run())
    assert not mixed.error
    base = qlab.presets.get("int8").mapping()
    by_work = searches.Question("mlp", 256, base, "bit_ops", 60)
    found = engine.board().find(by_work.key("search")).result.search
    assert found.budget != searched(mixed).search.budget


def test_a_stopped_search_leaves_its_measurement():
    loaded = engine.board().find(("loaded", "mlp", 256, "cpu")).result
    base = qlab.presets.get("int8-minmax").mapping()

    class Hooks:
        partial, calls = None, 0
        timed, part = False, (0, (1.0,))

        def report(self, done, total, label):
            self.calls += 1
            self.first = self.__dict__.get("first", done)

        def should_stop(self):
            return self.calls >= 4 and not self.__dict__.get("resumed")

    hooks = Hooks()
    _, _, work = searches.search_job(loaded, searches.Question("mlp", 256, base, "size", 60))
    with pytest.raises(CancelledError):
        work(hooks)
    assert hooks.partial is not None and not hooks.partial.complete
    hooks.resumed, before = True, time.monotonic()
    assert len(work(hooks).search) and time.monotonic() > before
