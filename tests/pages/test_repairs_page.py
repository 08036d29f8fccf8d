"""*Repairs* under Learn: every algorithm of the engine has its text, its numbers and its figure."""

import pytest
import torch
from streamlit.testing.v1 import AppTest

import sample_models
from pages.common.engine import board
from pages.common.format import escape, number
from pages.lessons import repairs
from pages.lessons.repairs_texts import TEXTS
from qlab import Lab
from qlab.algorithms import ALGORITHMS
from tests.pages.harness import chart, metrics, open_page, texts


def lesson(name: str) -> AppTest:
    return open_page("repairs", repairs_lesson=ALGORITHMS[name].title)


def test_every_algorithm_has_its_text():
    missing = [name for name in ALGORITHMS if name not in TEXTS]
    assert not missing, f"pages/lessons/repairs_texts.py needs a row for each of {missing}"


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_lesson_tells_the_rule_and_the_engines_own_numbers(name: str):
    page, text = lesson(name), TEXTS[name]
    job = board().find((repairs.KIND, name))
    assert job is not None and job.error is None
    report = job.result.report
    assert metrics(page)["Network output SQNR ↑"] == (
        f"{number(report.before['sqnr'])} → {number(report.after['sqnr'], 'dB')}"
    )
    assert report.gain("sqnr") > 0.3
    assert text.formulas[0].replace("&nbsp;", "\xa0") in texts(page)
    captions = [c.value for c in page.caption]
    assert escape(ALGORITHMS[name].paper) in captions
    assert text.seen in captions
    shown = chart(page, f"versus_{name}").data
    assert len(shown[1].x) == len(report.layers)


def test_equalization_is_seen_in_the_channels():
    page = lesson("equalize")
    spread = []
    for when in ("before", "after"):
        (bars,) = chart(page, f"ranges_{when}").data
        widths = sorted(bars.y)
        spread.append(widths[-1] / widths[len(widths) // 2])
    assert spread[0] > 2 * spread[1]


def test_learned_rounding_goes_beyond_the_nearest_level():
    page = lesson("adaround")
    shown = board().find((repairs.KIND, "adaround"))
    assert shown is not None
    result = shown.result
    assert result.moves.sum() == sample_weight("depthwise", TEXTS["adaround"].layer).numel()
    inside = result.moves[(repairs.EDGES[:-1] >= -0.5) & (repairs.EDGES[1:] <= 0.5)].sum()
    assert 0 < result.beyond < 0.2
    assert inside == pytest.approx((1 - result.beyond) * result.moves.sum(), rel=0.02)
    told = f"{number(100 * result.beyond, '%')} not rounded to nearest."
    assert any(told in c.value for c in page.caption)


def sample_weight(model: str, layer: str) -> torch.Tensor:
    sample = sample_models.load(model)
    return Lab(sample.model, sample.example_inputs, sample.calibration(8)).weight(layer)


def test_outliers_change_no_output():
    sample = sample_models.load("vit")
    (x,) = sample.example_inputs
    with torch.no_grad():
        before = sample.model(x)
        repairs.add_outliers(sample.model)
        after = sample.model(x)
    assert torch.allclose(after, before, rtol=1e-4, atol=1e-4 * float(before.abs().max()))
    assert sample.model.get_parameter("blocks.0.norm1.weight").abs().max() > 20
