"""Automatic repair on *Overview*: its numbers are the engine's, each step is a change and a run."""

import json
import time
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from pages.common import engine, saved
from pages.common.engine import board, progress_text
from pages.common.jobs import Job
from pages.common.recipes import Goal, Recipe, in_words
from pages.common.store import store
from pages.common.workspace import Choice, Workspace
from qlab import Lab, presets
from tests.pages.harness import SECONDS, has_button, metrics, open_page, settle, workspace_of
from tests.pages.test_repairs import opened, said

PRESET = "int8-per-tensor"
CHOICE = Choice("depthwise", PRESET, 256)
FIELD = f"goal_sqnr_depthwise_{PRESET}"
STEPS = ["One scale per channel", "Cross-layer equalization", "Sensitive layers in float"]


@pytest.fixture
def overview() -> AppTest:
    return open_page("overview", model="depthwise", preset=PRESET)


def sought(page: AppTest, sqnr: float = 33.0) -> AppTest:
    """The page with what was found for a goal in output SQNR."""
    page.selectbox(key="goal_metric").set_value("sqnr").run()
    page.number_input(key=FIELD).set_value(sqnr).run()
    return settle(page.button(key="seek").click().run())


@pytest.fixture
def applied(overview: AppTest) -> AppTest:
    return settle(sought(overview).button(key="apply_automatic").click().run())


def test_one_click_finds_what_a_collapsed_network_needs_and_applies_nothing(overview: AppTest):
    assert "Quantization costs **64.4 points** of accuracy." in said(overview)
    assert overview.number_input(key=f"goal_accuracy_depthwise_{PRESET}").value == 97.5
    assert "Now 33.6 %; the float network has 98.0 %." in said(overview)
    settle(overview.button(key="seek").click().run())
    shown = metrics(overview)
    assert shown["Network accuracy ↑"] == "33.6 → 98.0 %"
    assert shown["Accuracy ↑"] == "98.0 → 33.6 %"
    lines = said(overview)
    assert "1. At the start accuracy 33.6 %; wanted: accuracy 97.5 %." in lines
    assert "their ranges differ 142×. One scale per channel: accuracy 33.6 → 98 %" in lines
    assert overview.button(key="apply_automatic").label == "Apply 1 step"
    assert workspace_of(overview).changes(CHOICE) == 0
    settle(overview.button(key="discard_automatic").click().run())
    assert not has_button(overview, "apply_automatic")
    assert has_button(overview, "seek")


def test_what_is_asked_is_what_the_engine_is_asked(
    overview: AppTest, monkeypatch: pytest.MonkeyPatch
):
    asked: dict[str, Any] = {}
    repair = Lab.repair

    def noted(self: Lab, mapping: Any, target: Any, **options: Any) -> Any:
        asked.update(options, target=target)
        return repair(self, mapping, target, **options)

    monkeypatch.setattr(Lab, "repair", noted)
    overview.selectbox(key="goal_time").set_value("30 seconds").run()
    overview.checkbox(key="goal_keep_size").check().run()
    page = sought(overview)
    assert asked["target"] == {"sqnr": 33.0}
    assert (asked["max_seconds"], asked["keep_size"]) == (30, True)
    assert "Not reached" in said(page)
    assert page.button(key="apply_automatic").label == "Apply 2 steps"
    assert metrics(page)["Network output SQNR ↑"] == "−0.184 → 32.4 dB"


def test_a_goal_that_is_reached_needs_no_search(overview: AppTest):
    overview.selectbox(key="goal_metric").set_value("sqnr").run()
    overview.number_input(key=FIELD).set_value(-5.0).run()
    assert overview.button(key="seek").disabled
    assert overview.button(key="seek").label == "Output SQNR is there already"


def test_every_step_is_a_change_and_a_run(applied: AppTest):
    assert metrics(applied)["Output SQNR ↑"] == "33.8 dB"
    assert not applied.warning
    space = workspace_of(applied)
    assert space.changes(CHOICE) == 3
    assert in_words(space.chain(CHOICE)) == STEPS[1]
    runs = list(store().runs(space))
    assert [run.name for run in runs] == [PRESET, *STEPS]
    assert [run.parent for run in runs[1:]] == [run.id for run in runs[:-1]]
    sqnr = [run.metrics["sqnr"] for run in runs]
    assert sqnr == sorted(sqnr)
    assert "Repaired automatically in 3 steps." in said(applied)
    assert "3. block1.pw.conv" in said(applied)


def test_steps_are_undone_one_by_one_or_all_at_once(applied: AppTest):
    space = workspace_of(applied)
    settle(applied.button(key="undo").click().run())
    settle(applied.button(key="refresh").click().run())
    assert metrics(applied)["Output SQNR ↑"] == "32.4 dB"
    assert not has_button(applied, "undo_automatic")
    settle(applied.button(key="undo").click().run())
    assert metrics(applied)["Output SQNR ↑"] == "27.7 dB"
    assert not space.chain(CHOICE)
    again = settle(sought(applied).button(key="apply_automatic").click().run())
    assert space.changes(CHOICE) == 3
    settle(again.button(key="undo_automatic").click().run())
    assert space.changes(CHOICE) == 1


def test_undoing_all_brings_the_first_numbers_back(applied: AppTest):
    settle(applied.button(key="undo_automatic").click().run())
    assert metrics(applied)["Output SQNR ↑"] == "−0.184 dB"
    assert workspace_of(applied).changes(CHOICE) == 0
    assert "Repaired" not in said(applied)


def test_undoing_a_change_of_the_configuration_alone_measures_it_at_once(overview: AppTest):
    settle(overview.button(key="seek").click().run())
    settle(overview.button(key="apply_automatic").click().run())
    assert metrics(overview)["Accuracy ↑"] == "98.0 → 98.0 %"
    settle(overview.button(key="undo_automatic").click().run())
    assert metrics(overview)["Accuracy ↑"] == "98.0 → 33.6 %"
    assert not overview.warning


def test_after_a_restart_the_repaired_model_is_the_very_same(applied: AppTest):
    space = workspace_of(applied)
    again = saved.from_json(saved.to_json(space), space.id)
    assert again.automatic == space.automatic
    store()._spaces[space.id] = again
    for key in [key for key in board()._jobs if key[0] == "repaired"]:
        board().forget(key)
    page = opened(applied, "overview")
    assert "the very same model" in said(page)
    assert metrics(page)["Output SQNR ↑"] == "33.8 dB"


def test_a_stopped_search_offers_the_best_until_then(
    overview: AppTest, monkeypatch: pytest.MonkeyPatch
):
    repair = Lab.repair

    def stopped_late(self: Lab, *args: Any, should_stop: Any, **options: Any) -> Any:
        calls = iter(range(10_000))

        def stop() -> bool:
            if next(calls) < 60:
                return False
            while not should_stop():
                time.sleep(0.01)
            return True

        return repair(self, *args, should_stop=stop, **options)

    monkeypatch.setattr(Lab, "repair", stopped_late)
    monkeypatch.setattr(engine, "STOPPING", SECONDS)  # the step that it is in takes a while
    overview.selectbox(key="goal_metric").set_value("sqnr").run()
    overview.number_input(key=FIELD).set_value(33.5).run()
    overview.button(key="seek").click().run()
    assert has_button(overview, "discard_automatic")
    overview.button(key="cancel_automatic").click().run()
    assert "Stopped. This is the best until then." in said(overview)
    assert "Stopped after" in said(overview)
    assert overview.button(key="apply_automatic").label.startswith("Apply")
    monkeypatch.undo()
    settle(overview.button(key="resume_automatic").click().run())
    assert "Reached in" in said(overview)


def test_a_model_without_labels_is_asked_for_other_metrics():
    page = open_page("overview", model="mobilenet_v2", samples=2)
    assert page.selectbox(key="goal_metric").options == [
        "Same class as the float network",
        "Output SQNR",
    ]


def test_time_that_is_limited_is_told_as_a_limit():
    job = Job("Looking", lambda progress: None)
    job.timed, job._started = True, job._started - 10
    job.report(10, 60, "comparing, 3 of 4")
    assert progress_text(job) == "Looking: comparing, 3 of 4 · at most 50 s left"


def test_goals_come_back_from_json_and_broken_ones_are_refused():
    space, choice = Workspace("id"), Choice("mlp", "int8", 8)
    goal = Goal(space.mapping(choice), (("accuracy", 97.5), ("sqnr", 30.0)), 60.0, True)
    space.try_repair(choice, goal)
    text = saved.to_json(space)
    assert saved.from_json(text, "id").trials == {("mlp", "int8"): goal}
    data = json.loads(text)
    del data["repairs"]["goals"], data["repairs"]["automatic"]
    assert saved.from_json(json.dumps(data), "id").trials == {}
    from qlab.errors import FormatError

    with pytest.raises(FormatError, match="Not a saved workspace"):
        saved.from_json(text.replace('"keep_size"', '"keep"'), "id")


def test_a_goal_takes_the_place_of_a_trial_and_ends_with_the_configuration():
    space, choice = Workspace("id"), Choice("mlp", "int8", 8)
    goal = Goal(space.mapping(choice), (("sqnr", 30.0),), 60.0)
    space.try_repair(choice, Recipe("equalize", space.mapping(choice)))
    space.try_repair(choice, goal)
    assert space.trial(choice) == goal
    space.configure(choice, presets.get("int4-weights").mapping())
    assert space.trial(choice) is None
