"""Repaired models on the pages: tried, applied, undone, and there again after a restart."""

from collections.abc import Iterator
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from pages.common import repairs, saved
from pages.common.engine import board
from pages.common.recipes import Recipe, in_words
from pages.common.store import store
from pages.common.workspace import Choice, Workspace
from qlab import QConfigMapping, presets
from qlab.algorithms import ALGORITHMS
from qlab.errors import FormatError
from qlab.observers import ObserverBase
from qlab.qconfig import QConfig
from tests.pages.harness import (
    ROOT,
    SECONDS,
    has_button,
    metrics,
    open_page,
    settle,
    workspace_of,
)

PRESET = "int8-per-tensor"
CHOICE = Choice("depthwise", PRESET, 256)
LAYER = "block2.dw.conv"
BEFORE, AFTER = "98.0 → 33.6 %", "98.0 → 98.0 %"


@pytest.fixture
def overview() -> AppTest:
    return open_page("overview", model="depthwise", preset=PRESET)


@pytest.fixture
def applied(overview: AppTest) -> AppTest:
    settle(overview.button(key="repair_0_equalize").click().run())
    return settle(overview.button(key="apply_repair").click().run())


@pytest.fixture
def forgetful() -> Iterator[None]:
    """The board as it is after a restart, as far as repaired models go."""

    def forget() -> None:
        for key in [key for key in board()._jobs if key[0] == repairs.KIND]:
            board().forget(key)

    forget()
    yield
    forget()


def said(page: AppTest) -> str:
    elements = (*page.markdown, *page.caption, *page.warning, *page.info)
    return "\n".join(element.value for element in elements).replace("\\", "")


def opened(page: AppTest, name: str, **state: Any) -> AppTest:
    """Another page of the same workspace."""
    other = AppTest.from_file(ROOT / "pages" / f"{name}.py", default_timeout=SECONDS)
    other.query_params["w"] = page.query_params["w"]
    for key, value in {"model": "depthwise", "preset": PRESET, **state}.items():
        other.session_state[key] = value
    return settle(other.run())


def test_a_trial_shows_what_it_buys_and_applies_nothing(overview: AppTest):
    assert metrics(overview)["Accuracy ↑"] == BEFORE
    label = overview.button(key="repair_0_equalize").label.replace("\\", "")
    assert label == "Try Cross-layer equalization: about 1 s"
    settle(overview.button(key="repair_0_equalize").click().run())
    shown = metrics(overview)
    assert shown["Network accuracy ↑"] == "33.6 → 98.0 %"
    assert shown["Layer, local SQNR ↑"].startswith("12.3 → 26.")
    assert "Changed 10 of 10 layers" in said(overview)
    assert shown["Accuracy ↑"] == BEFORE
    assert not workspace_of(overview).chain(CHOICE)
    assert not [e.label for e in overview.expander if "Left as" in e.label]
    settle(overview.button(key="discard_repair").click().run())
    assert not has_button(overview, "apply_repair")


def test_every_page_works_on_the_repaired_model_and_says_so(applied: AppTest):
    assert metrics(applied)["Accuracy ↑"] == AFTER
    told = "Repaired: **Cross-layer equalization**."
    assert told in said(applied)
    assert not applied.warning
    for name in ("layer", "sensitivity", "convert", "calibrate", "model"):
        page = opened(applied, name, layer=LAYER)
        assert told in said(page), name
    assert told not in said(opened(applied, "_coverage"))
    page = opened(applied, "layer", layer=LAYER)
    repaired = repairs.repaired_key(CHOICE, workspace_of(applied).chain(CHOICE), Workspace())
    job = board().find(repaired)
    assert job is not None
    lab = job.result.lab
    now = lab.what_if(LAYER, mapping=workspace_of(applied).mapping(CHOICE)).output_sqnr
    assert metrics(page)["Layer output SQNR ↑"] == f"{now:.1f} dB"
    page = opened(applied, "convert")
    settle(page.button(key="convert").click().run())
    assert "identical outputs" in page.success[0].value
    assert "The checkpoint holds the repaired model." in said(page)
    names = [button.proto.label for button in page.get("download_button")]
    assert names[0].startswith(f"Download depthwise-{PRESET}-repaired.safetensors")


def test_undo_gives_the_original_model_and_its_numbers_back(applied: AppTest):
    settle(applied.button(key="undo_repair").click().run())
    assert metrics(applied)["Accuracy ↑"] == BEFORE
    assert "Repaired:" not in said(applied)
    assert not workspace_of(applied).chain(CHOICE)


def test_the_sidebar_undoes_a_repair_too(applied: AppTest):
    settle(applied.button(key="undo").click().run())
    assert metrics(applied)["Accuracy ↑"] == BEFORE
    assert not workspace_of(applied).chain(CHOICE)


def test_a_repair_is_a_run_whose_parent_is_the_run_before(applied: AppTest):
    runs = list(store().runs(workspace_of(applied)))
    assert [run.name for run in runs] == [PRESET, "Cross-layer equalization"]
    assert runs[1].parent == runs[0].id
    assert runs[1].metrics["accuracy"] > runs[0].metrics["accuracy"] + 60
    settle(applied.button(key="undo_repair").click().run())
    latest = store().runs(workspace_of(applied)).latest(runs[0].subject)
    assert latest is not None and latest.id == runs[0].id


def test_runs_compare_with_the_original_and_go_back_to_a_repaired_model(applied: AppTest):
    settle(applied.button(key="undo_repair").click().run())
    page = opened(applied, "runs", runs={"selection": {"rows": [0, 1], "columns": []}})
    assert "the model of B: repaired by Cross-layer equalization" in said(page)
    assert not page.warning
    id = max(run.id for run in store().runs(workspace_of(applied)))
    assert page.button(key=f"back_{id - 1}").disabled
    settle(page.button(key=f"back_{id}").click().run())
    assert in_words(workspace_of(applied).chain(CHOICE)) == "Cross-layer equalization"
    assert page.button(key=f"back_{id}").disabled
    assert not page.button(key=f"back_{id - 1}").disabled


def test_after_a_restart_it_is_made_again_the_very_same_and_says_so(
    applied: AppTest, forgetful: None
):
    space = workspace_of(applied)
    again = saved.from_json(saved.to_json(space), space.id)
    assert again.chain(CHOICE) == space.chain(CHOICE)
    assert again.origins == space.origins
    store()._spaces[space.id] = again
    page = opened(applied, "overview")
    assert metrics(page)["Accuracy ↑"] == AFTER
    assert "Made again from its recipe" in said(page)
    assert "the very same model" in said(page)


def test_a_model_that_comes_out_another_one_says_so(applied: AppTest, forgetful: None):
    space = workspace_of(applied)
    known = space.chains["depthwise", PRESET]
    ((place, (recipe,)),) = known.items()
    known[place] = (Recipe(recipe.algorithm, recipe.mapping, subject="another"),)
    page = opened(applied, "overview")
    assert "another model than before" in said(page)


def test_what_changes_the_float_function_is_asked_first(overview: AppTest):
    settle(overview.button(key="repair_0_equalize").click().run())
    assert overview.button(key="agree").disabled
    (box,) = (box for box in overview.checkbox if str(box.key).startswith("agreed_"))
    assert not box.value
    settle(box.check().run())
    settle(overview.button(key="agree").click().run())
    assert not has_button(overview, "agree")
    assert "ReLU6 became ReLU, which is another function" in said(overview)
    trial = workspace_of(overview).trial(CHOICE)
    assert trial is not None and dict(trial.settings) == {"relu6": "replace"}


def test_cause_cards_offer_what_fits(applied: AppTest):
    settle(applied.button(key="undo_repair").click().run())
    page = opened(applied, "layer", layer=LAYER)
    settle(page.button(key="try_0_equalize").click().run())
    assert metrics(page)["Layer, local SQNR ↑"].startswith("12.3 → 26.")
    settle(page.button(key="apply_repair").click().run())
    assert "Repaired: **Cross-layer equalization**." in said(page)


def test_a_cancelled_repair_leaves_the_model_and_can_be_discarded(
    overview: AppTest, monkeypatch: pytest.MonkeyPatch, forgetful: None
):
    import time

    from qlab import Lab

    repair_with = Lab.repair_with

    def slowly(self: Lab, *args: Any, should_stop: Any, **options: Any) -> Any:
        while not should_stop():
            time.sleep(0.01)
        return repair_with(self, *args, should_stop=should_stop, **options)

    monkeypatch.setattr(Lab, "repair_with", slowly)
    overview.button(key="repair_0_equalize").click().run()
    assert has_button(overview, "cancel_trial")
    overview.button(key="cancel_trial").click().run()
    assert "Cross-layer equalization was cancelled" in said(overview)
    assert has_button(overview, "resume_trial")
    overview.button(key="discard_repair").click().run()
    assert not has_button(overview, "resume_trial")
    assert not workspace_of(overview).declined
    assert metrics(overview)["Accuracy ↑"] == BEFORE


def space_with(*algorithms: str) -> tuple[Workspace, Choice]:
    space, choice = Workspace("id"), Choice("mlp", "int8", 8)
    for name in algorithms:
        space.repair(choice, repairs.recipe_for(name, space.mapping(choice)), space.mapping(choice))
    return space, choice


def test_a_repair_that_changes_no_configuration_is_a_change():
    space, choice = space_with("bias_correction")
    assert space.changes(choice) == 1
    space.repair(choice, repairs.recipe_for("equalize", space.mapping(choice)), changed())
    space.configure(choice, presets.get("int4-weights").mapping())
    assert in_words(space.chain(choice)) == "Bias correction, then Cross-layer equalization"
    space.undo_repair(choice)
    assert in_words(space.chain(choice)) == "Bias correction"
    assert space.changes(choice) == 1
    space.undo(choice)
    assert space.chain(choice) == ()
    space.undo_repair(choice)
    assert space.changes(choice) == 0


def changed() -> QConfigMapping:
    return presets.get("int8-per-tensor").mapping()


def test_reset_and_forgetting_a_model_take_repairs_along():
    space, choice = space_with("equalize", "bias_correction")
    space.reset(choice)
    assert (space.chain(choice), space.changes(choice)) == ((), 0)
    space, choice = space_with("equalize")
    space.try_repair(choice, repairs.recipe_for("equalize", space.mapping(choice)))
    space.forget_model("mlp")
    assert not space.chains and not space.trials


def test_numbers_of_the_other_model_are_not_left_on_screen():
    space, choice = Workspace("id"), Choice("mlp", "int8", 8)
    space.refresh(choice)
    space.refresh(choice, "conversion")
    space.repair(choice, repairs.recipe_for("equalize", space.mapping(choice)), changed())
    assert space.shown == {("outcome", choice): changed()}
    space.undo(choice)
    assert space.shown == {("outcome", choice): presets.get("int8").mapping()}


def test_another_configuration_ends_a_trial():
    space, choice = Workspace("id"), Choice("mlp", "int8", 8)
    recipe = repairs.recipe_for("equalize", space.mapping(choice))
    space.try_repair(choice, recipe)
    assert space.trial(choice) == recipe
    space.configure(choice, changed())
    assert space.trial(choice) is None


def test_recipes_come_back_from_json():
    recipe = repairs.recipe_for("adaround", changed(), ("fc1",), steps=5, seed=3)
    assert recipe.title == ALGORITHMS["adaround"].title
    again = Recipe.from_dict(recipe.to_dict())
    assert again == recipe
    assert (again.title, dict(again.settings)) == (recipe.title, {"seed": 3, "steps": 5})
    space, choice = space_with("equalize")
    space.try_repair(choice, recipe)
    found = saved.from_json(saved.to_json(space), "id")
    assert (found.chains, found.trials) == (space.chains, space.trials)


def test_a_repair_without_json_form_is_not_saved(caplog: pytest.LogCaptureFixture):
    class Own(ObserverBase):
        pass

    space, choice = Workspace("id"), Choice("mlp", "int8", 8)
    own = QConfigMapping().set_global(QConfig(Own, Own))
    space.repair(choice, repairs.recipe_for("equalize", space.mapping(choice)), own)
    assert not saved.from_json(saved.to_json(space), "id").chain(choice)
    space.repair(choice, Recipe("equalize", own), changed())
    assert not saved.from_json(saved.to_json(space), "id").chain(choice)
    assert "a repair is not saved" in caplog.text


def test_a_saved_repair_that_is_none_is_refused():
    space, _ = space_with("equalize")
    text = saved.to_json(space).replace('"algorithm"', '"algorism"')
    with pytest.raises(FormatError, match="Not a saved workspace"):
        saved.from_json(text, "id")


def test_workspaces_of_before_have_no_repairs():
    import json

    data = json.loads(saved.to_json(Workspace("id")))
    del data["repairs"]
    assert saved.from_json(json.dumps(data), "id").chains == {}
