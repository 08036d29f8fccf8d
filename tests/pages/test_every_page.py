"""Every page with every sample model: no error, the engine's numbers, and little to send."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest, local_script_runner

import sample_models
from pages.common import format as fmt
from pages.common.collecting import loaded_key
from pages.common.engine import board
from pages.common.workspace import Choice
from qlab import Lab
from tests.pages.harness import metrics, open_page, settle, texts, workspace_of

HEAVY = sample_models.names(trained=False)
MODELS = [
    pytest.param(name, marks=pytest.mark.slow if name in HEAVY else ())
    for name in sample_models.names()
]
#: Bytes that a page may send for one change. What a whole page sends is never less than that.
MOST = 300_000


def overview(page: AppTest, lab: Lab) -> None:
    shown, report = metrics(page), lab.compare("int8")
    assert shown["Output SQNR ↑"] == fmt.number(report.output["sqnr"], "dB")
    sizes = (report.size.float_bytes, report.size.quantized_bytes)
    assert shown["Size ↓"] == " → ".join(map(fmt.size, sizes))


def model(page: AppTest, lab: Lab) -> None:
    assert list(page.dataframe[0].value.index) == [layer.name for layer in lab.layers]


def calibrate(page: AppTest, lab: Lab) -> None:
    assert lab.calibrated is not None
    assert metrics(page)["Images seen"] == fmt.count(lab.calibrated.samples)


def configure(page: AppTest, lab: Lab) -> None:
    asked, gets = (frame.value for frame in page.dataframe)
    assert list(asked.index) == [layer.name for layer in lab.layers if layer.quantizable]
    assert list(gets["weight"]) == list(lab.plan("int8").to_frame()["weight"])


def layer(page: AppTest, lab: Lab) -> None:
    name = str(page.selectbox(key="layer").value)
    sqnr = lab.what_if(name, mapping="int8").output_sqnr
    assert metrics(page)["Layer output SQNR ↑"] == fmt.number(sqnr, "dB")


def convert(page: AppTest, lab: Lab) -> None:
    steps = lab.plan("int8").steps
    assert list(page.dataframe[0].value.index) == [step.name for step in steps]


def sensitivity(page: AppTest, lab: Lab) -> None:
    assert page.button(key="measure").label


def learn(page: AppTest, _: Lab | None) -> None:
    assert texts(page)


PAGES: dict[str, Callable[[AppTest, Any], None] | None] = {
    "overview": overview,
    "model": model,
    "calibrate": calibrate,
    "configure": configure,
    "layer": layer,
    "sensitivity": sensitivity,
    "convert": convert,
    "runs": None,
    "learn": learn,
    "observers": learn,
    "formats": learn,
    "norms": learn,
    "repairs": None,
    "_coverage": None,
}


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Bytes of all messages to the browser, by run of a page's script."""
    found: list[int] = []
    run = local_script_runner.LocalScriptRunner.run

    def counted(self: Any, *args: Any, **options: Any) -> Any:
        tree = run(self, *args, **options)
        found.append(sum(message.ByteSize() for message in self.forward_msgs()))
        return tree

    monkeypatch.setattr(local_script_runner.LocalScriptRunner, "run", counted)
    yield found


def lab_of(page: AppTest, name: str, samples: int) -> Lab:
    """The lab that the page shows."""
    job = board().find(loaded_key(Choice(name, "int8", samples), workspace_of(page)))
    assert job is not None
    return job.result.lab


@pytest.mark.parametrize("page_name", PAGES)
@pytest.mark.parametrize("name", MODELS)
def test_every_page_shows_every_model_and_sends_little(name: str, page_name: str, sent: list[int]):
    samples = 2 if name in HEAVY else 64
    page = open_page(page_name, model=name, samples=samples)
    assert not page.error, [error.value for error in page.error]
    assert page.selectbox(key="model").value == name
    if check := PAGES[page_name]:
        of_model = check is not learn
        check(page, lab_of(page, name, samples) if of_model else None)
    assert 1_000 < max(sent) <= MOST


@pytest.mark.parametrize("page_name", ["learn", "observers", "formats", "norms"])
def test_no_choice_in_a_lesson_sends_much(page_name: str, sent: list[int]):
    page = open_page(page_name, model="vit", samples=64)
    for choice in list(page.segmented_control):
        for option in choice.options:
            if any(shown.key == choice.key for shown in page.segmented_control):
                settle(page.segmented_control(key=choice.key).set_value(option).run())
                assert not page.error
    assert 1_000 < max(sent) <= MOST
