"""Long work on a page: progress, cancel, start again, and errors that can be retried."""

import time
from collections.abc import Iterator

import pytest
from streamlit.testing.v1 import AppTest

from pages.common.engine import board
from qlab import Lab
from qlab.errors import NonFiniteError
from qlab.graph import Plan
from tests.pages.harness import ROOT, SECONDS, has_button, metrics, open_page, settle

SAMPLES = 16  # of its own, so that no other test has done this work already


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Nothing of this module's work is left from or for another test."""
    yield
    for key in list(board()._jobs):
        if SAMPLES in key:
            board().forget(key)


def first_run(name: str = "overview") -> AppTest:
    page = AppTest.from_file(ROOT / "pages" / f"{name}.py", default_timeout=SECONDS)
    page.session_state["model"], page.session_state["samples"] = "mlp", SAMPLES
    return page.run()


def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes calibration wait until it is asked to stop."""

    def calibrate(self, on_progress, should_stop):
        while not should_stop():
            on_progress(3, 8, "calibrating")
            time.sleep(0.01)

    monkeypatch.setattr(Lab, "calibrate", calibrate)


def test_progress_is_shown_and_cancelling_keeps_what_was_entered(monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as patched:
        slow(patched)
        page = first_run()
        while "calibrating" not in page.get("progress")[0].proto.text:
            page.run()
        assert "calibrating · 3 of 8" in page.get("progress")[0].proto.text
        assert page.get("progress")[0].proto.value == 37
        page.button(key="cancel").click().run()
        assert "Collecting the model's ranges was cancelled" in page.info[0].value
        assert page.selectbox(key="samples").value == SAMPLES
        page.run()
        assert has_button(page, "resume")
    settle(page.button(key="resume").click().run())
    assert not page.info
    assert metrics(page)["Accuracy ↑"].endswith("%")


def test_moving_a_widget_does_not_end_the_work(monkeypatch: pytest.MonkeyPatch):
    slow(monkeypatch)
    page = first_run()
    job = board().find(("loaded", "mlp", SAMPLES, "cpu"))
    assert job is not None and job.state == "running"
    page.selectbox(key="preset").set_value("int8-minmax").run()
    assert board().find(("loaded", "mlp", SAMPLES, "cpu")) is job
    assert job.state == "running" and not job.should_stop()
    page.selectbox(key="model").set_value("residual").run()
    assert job.state == "running" and not job.should_stop()
    page.button(key="cancel_other_0").click().run()
    assert job.wait(5)
    assert job.state == "cancelled"


def test_an_error_of_the_engine_can_be_retried(monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object, **__: object) -> None:
        raise NonFiniteError("NaN in the float model", fix="Check the weights.")

    with monkeypatch.context() as patched:
        patched.setattr(Lab, "calibrate", fail)
        page = settle(first_run())
        assert "NaN in the float model" in page.error[0].value
        assert "Check the weights" in page.error[0].value
    page.run()
    assert page.error
    settle(page.button(key="again-job").click().run())
    assert not page.error
    assert metrics(page)["Accuracy ↑"].endswith("%")


def test_an_unforeseen_error_on_a_page_is_a_message(monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object, **__: object) -> None:
        raise KeyError("<b>surprise</b>")

    with monkeypatch.context() as patched:
        patched.setattr(Plan, "to_frame", fail)
        page = open_page("convert", model="mlp")
        assert "did not foresee" in page.error[0].value
        assert r"\<b\>surprise" in page.error[0].value
        assert page.selectbox(key="model").value == "mlp"
    page.button(key="again-body").click().run()
    assert not page.error
