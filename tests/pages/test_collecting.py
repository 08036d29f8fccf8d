"""Collecting ranges: data is added to what was seen, and how the ranges stand is told meanwhile."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

import sample_models
from pages.common import collecting, saved
from pages.common.collecting import Begun, loaded_key, loading
from pages.common.engine import board
from pages.common.jobs import CancelledError
from pages.common.loaded import Loaded
from pages.common.workspace import Choice, Workspace
from qlab import Lab
from qlab.analysis.calibration import Calibration
from tests.pages.harness import (
    ROOT,
    SECONDS,
    chart,
    has_button,
    metrics,
    open_page,
    settle,
    workspace_of,
)


class Run:
    """Progress of a job that is run at once, and may be stopped from a batch on."""

    def __init__(self, stop_at: int = 10**6, partial: Any = None) -> None:
        self.partial, self.timed, self.done, self._stop_at = partial, False, [], stop_at
        self.part: tuple[int, tuple[float, ...]] = (0, (1.0,))

    def report(self, done: int, total: int, label: str) -> None:
        if label == "calibrating":
            self.done.append((done, total))

    def should_stop(self) -> bool:
        return len(self.done) >= self._stop_at


@pytest.fixture(autouse=True)
def nothing_loaded() -> Iterator[None]:
    def forget() -> None:
        for key in [key for key in board()._jobs if key[0] == "loaded"]:
            board().forget(key)

    forget()
    yield
    forget()


def grown_choice(space: Workspace, *seen: int, model: str = "mlp") -> Choice:
    """The choice after data was added in steps."""
    choice = Choice(model, "int8", seen[0])
    for samples in seen[1:]:
        collecting.add(choice, samples, space)
        choice = choice._replace(samples=samples)
    return choice


def made(choice: Choice, space: Workspace, run: Run | None = None) -> Loaded:
    key, _, work = loading(choice, space)
    job = board().submit(key, "", lambda _: work(run or Run()), space.id)
    assert job.wait(60) and job.error is None
    return job.result


def seen(loaded: Loaded) -> Calibration:
    assert loaded.lab.calibrated is not None
    return loaded.lab.calibrated


def test_only_the_added_images_are_run_and_the_lab_before_stays():
    space, run = Workspace("a"), Run()
    first = made(grown_choice(space, 64), space)
    more = made(grown_choice(space, 64, 128), space, run)
    assert run.done == [(4, 4)]  # of four batches two were seen; the first new one is a pause
    assert (seen(more).samples, seen(more).seen, seen(first).samples) == (128, (2, 2), 64)
    sample = sample_models.load("mlp")
    fresh = Lab(sample.model, sample.example_inputs, sample.calibration(128)).calibrate()
    assert seen(more).statistics == fresh.statistics
    assert more.key != made(Choice("mlp", "int8", 128), Workspace("b")).key


def test_what_comes_out_is_the_same_after_a_restart():
    space = Workspace("a")
    made(grown_choice(space, 8), space)
    made(grown_choice(space, 8, 16), space)
    choice = grown_choice(space, 8, 16, 64)
    there = made(choice, space)
    again = saved.from_json(saved.to_json(space), space.id)
    for key in [key for key in board()._jobs if key[0] == "loaded"]:
        board().forget(key)
    rebuilt = made(choice, again)
    assert (
        loaded_key(choice, again)
        == loaded_key(choice, space)
        == ("loaded", "mlp", (8, 16, 64), "cpu")
    )
    assert seen(rebuilt).statistics == seen(there).statistics
    assert (seen(rebuilt).batches, seen(rebuilt).samples) == (seen(there).batches, 64)
    assert rebuilt.key == there.key
    assert rebuilt.lab.subject == there.lab.subject


def test_a_model_without_test_data_is_measured_on_what_it_was_measured_on_before():
    space = Workspace("a")
    first = made(grown_choice(space, 2, model="resnet18"), space)
    grown = made(grown_choice(space, 2, 4, model="resnet18"), space)
    assert (seen(grown).samples, grown.lab.subject) == (4, first.lab.subject)


def test_another_number_than_the_sum_is_a_pass_of_its_own():
    space = Workspace("a")
    grown_choice(space, 64, 128)
    assert collecting.parts(Choice("mlp", "int8", 128), space) == (64, 128)
    assert collecting.parts(Choice("mlp", "int8", 256), space) == (256,)
    assert collecting.parts(Choice("vit", "int8", 128), space) == (128,)
    assert collecting.parts(Choice("mlp", "int8", 128), None) == (128,)


def test_a_cancelled_pass_is_gone_on_with(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(collecting, "PACE", 0.0)
    _, _, work = loading(Choice("mlp", "int8", 256))
    run = Run(stop_at=3)
    with pytest.raises(CancelledError):
        work(run)
    assert isinstance(run.partial, Begun) and run.partial.lab.calibrated is not None
    assert run.partial.lab.calibrated.batches == 3
    rest = Run(partial=run.partial)
    loaded = work(rest)
    assert rest.done[0] == (4, 8)
    sample = sample_models.load("mlp")
    fresh = Lab(sample.model, sample.example_inputs, sample.calibration(256)).calibrate()
    assert seen(loaded).statistics == fresh.statistics


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[AppTest]:
    """The page while a pass waits before its fourth batch."""
    monkeypatch.setattr(collecting, "PACE", 0.0)
    go, calibrate = threading.Event(), Lab.calibrate

    def slowly(self: Lab, *args: Any) -> Calibration:
        if self.calibrated is not None and self.calibrated.batches == 3:
            assert go.wait(60)
        return calibrate(self, *args)

    monkeypatch.setattr(Lab, "calibrate", slowly)
    page = AppTest.from_file(ROOT / "pages" / "calibrate.py", default_timeout=SECONDS)
    page.session_state["model"] = "mlp"
    page.run()
    for _ in range(50):
        if page.get("plotly_chart"):
            break
        page.run()
    yield page
    go.set()
    monkeypatch.undo()
    settle(page.run())


def test_ranges_are_watched_while_they_settle(held: AppTest):
    sample = sample_models.load("mlp")
    lab = Lab(sample.model, sample.example_inputs, sample.calibration(256)[:3])
    lab.calibrate()
    expected = lab.stability()
    assert has_button(held, "cancel")
    held.selectbox(key="watched").set_value("fc2").run()
    assert any("After 3 batches, 96 images" in caption.value for caption in held.caption)
    lines = [t for t in chart(held, "live_curve").data if t.name.startswith("smallest")]
    assert list(lines[0].y) == pytest.approx(list(expected.curve("fc2")["high"]))
    assert list(lines[1].y) == pytest.approx(list(expected.curve("fc2")["low"]))


def test_the_button_adds_and_says_that_nothing_was_seen_twice(monkeypatch: pytest.MonkeyPatch):
    page = open_page("calibrate", model="mlp", samples=64)
    ran: list[int] = []
    with_data = Lab.with_data

    def noted(self: Lab, batches: Any, *args: Any, **options: Any) -> Lab:
        ran.extend(len(batch) for batch in batches)
        return with_data(self, batches, *args, **options)

    monkeypatch.setattr(Lab, "with_data", noted)
    settle(page.button(key="add_images").click().run())
    assert ran == [32, 32]
    assert (metrics(page)["Images seen"], metrics(page)["In batches"]) == ("128", "4")
    assert any(c.value == "Seen 64, then 64: each image once." for c in page.caption)
    kept = collecting.parts(Choice("mlp", "int8", 128), workspace_of(page))
    assert kept == (64, 128)


def test_a_pass_computes_nothing_but_statistics(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(collecting, "PACE", 0.0)
    monkeypatch.setattr(Lab, "stability", None)
    assert seen(made(Choice("mlp", "int8", 128), Workspace("a"))).batches == 4
