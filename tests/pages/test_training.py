"""Fine-tuning in the app: offered with its time, tried, applied, undone, made again, cancelled."""

import time
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from pages.common import repairs, saved, training
from pages.common.collecting import loaded_key
from pages.common.engine import board
from pages.common.format import duration, number
from pages.common.store import store
from pages.common.workspace import Choice
from qlab import Lab
from tests.pages.harness import has_button, metrics, open_page, settle, workspace_of
from tests.pages.test_repairs import opened, said

PRESET = "int4-weights"
CHOICE = Choice("conv_bn_relu", PRESET, 64)


def overview(**state: Any) -> AppTest:
    given = {"model": "conv_bn_relu", "preset": PRESET, "samples": 64, **state}
    return open_page("overview", training=True, training_steps=100, **given)


@pytest.fixture
def tried() -> AppTest:
    return settle(overview().button(key="try_training").click().run())


def test_training_is_offered_with_its_time_when_it_is_opened():
    page = open_page("overview", model="conv_bn_relu", preset=PRESET, samples=64)
    assert not has_button(page, "try_training")
    page = overview()
    space = workspace_of(page)
    job = board().find(loaded_key(CHOICE, space))
    assert job is not None
    each = job.result.steps[space.mapping(CHOICE)]
    label = page.button(key="try_training").label.replace("\\", "")
    assert label == f"Try Fine-tuning: about {duration(100 * each)}"
    page.segmented_control(key="training_steps").set_value(2000).run()
    assert duration(2000 * each) in page.button(key="try_training").label
    assert workspace_of(page).settings["training_steps"] == 2000


def test_what_training_buys_is_shown_and_applied_and_undone(tried: AppTest):
    before = metrics(tried)["Output SQNR ↑"]
    space = workspace_of(tried)
    recipe = space.trial(CHOICE)
    assert recipe is not None
    assert dict(recipe.settings) == {"seed": 0, "steps": 100}
    assert not space.chain(CHOICE)
    (key,) = (key for key in list(board()._jobs) if key[0] == repairs.KIND and recipe in key[-1])
    job = board().find(key)
    assert job is not None
    report = job.result.made.report
    assert report.gain("sqnr") > 2
    shown = metrics(tried)["Network output SQNR ↑"]
    assert shown == f"{number(report.before['sqnr'])} → {number(report.after['sqnr'], 'dB')}"
    settle(tried.button(key="apply_repair").click().run())
    assert "Repaired: **Fine-tuning**." in said(tried)
    assert metrics(tried)["Output SQNR ↑"] == number(report.after["sqnr"], "dB")
    runs = list(store().runs(space))
    assert runs[-1].name == "Fine-tuning" and runs[-1].parent == runs[-2].id
    settle(tried.button(key="undo_repair").click().run())
    assert metrics(tried)["Output SQNR ↑"] == before


def test_a_trained_model_comes_back_the_very_same_after_a_restart(tried: AppTest):
    settle(tried.button(key="apply_repair").click().run())
    now = metrics(tried)["Output SQNR ↑"]
    space = workspace_of(tried)
    store()._spaces[space.id] = saved.from_json(saved.to_json(space), space.id)
    for key in [key for key in board()._jobs if key[0] == repairs.KIND]:
        board().forget(key)
    page = opened(tried, "overview", model="conv_bn_relu", preset=PRESET, samples=64)
    assert "the very same model" in said(page)
    assert metrics(page)["Output SQNR ↑"] == now


def test_a_trained_model_converts_and_downloads(tried: AppTest):
    settle(tried.button(key="apply_repair").click().run())
    page = opened(tried, "convert", model="conv_bn_relu", preset=PRESET, samples=64)
    settle(page.button(key="convert").click().run())
    assert "identical outputs" in page.success[0].value


def test_training_that_is_cancelled_leaves_the_model(monkeypatch: pytest.MonkeyPatch):
    page = overview(samples=32)

    def slowly(self: Lab, *args: Any, should_stop: Any, on_progress: Any, **options: Any) -> Any:
        while not should_stop():
            on_progress(40, 100, "training, held-out loss 0.5")
            time.sleep(0.01)
        raise repairs.CancelledError

    with monkeypatch.context() as patched:
        patched.setattr(Lab, "finetune", slowly)
        page.button(key="try_training").click().run()
        while "training" not in page.get("progress")[0].proto.text:
            page.run()
        (progress,) = page.get("progress")
        assert "part 2 of 3, 40 of 100" in progress.proto.text
        assert progress.proto.value == 44  # a fifth before, three fifths for training
        page.button(key="cancel_trial").click().run()
    assert "Fine-tuning was cancelled" in said(page)
    settle(page.button(key="discard_repair").click().run())
    assert not has_button(page, "apply_repair")
    assert not workspace_of(page).changes(Choice("conv_bn_relu", PRESET, 32))


def test_a_layer_offers_training_below_its_causes():
    page = open_page(
        "layer", model="conv_bn_relu", preset=PRESET, samples=64, training=True, training_steps=100
    )
    settle(page.button(key="try_training").click().run())
    assert any(label.startswith("Layer, local SQNR") for label in metrics(page))
    assert has_button(page, "apply_repair")


def test_there_are_batches_to_hold_out_however_few_the_samples():
    class Sample:
        def calibration(self, samples: int, size: int) -> list[int]:
            return [size] * -(-samples // size)

    class Loaded:
        sample = Sample()

        def __init__(self, samples: int) -> None:
            self.samples = samples

    found = {n: training.batches(Loaded(n)) for n in (2, 8, 64, 256)}  # pyright: ignore[reportArgumentType]
    assert found == {2: [1, 1], 8: [1] * 8, 64: [8] * 8, 256: [32] * 8}
