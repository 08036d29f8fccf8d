"""*Repairs* under Learn: every algorithm of the engine has its text, its numbers and its figure."""

import pytest
import torch
from streamlit.testing.v1 import AppTest

import sample_models
from pages.common.engine import board
from pages.common.format import escape, number
from pages.lessons import automatic, repairs
from pages.lessons.repairs_texts import TEXTS
from qlab import Lab
from qlab.algorithms import ALGORITHMS
from tests.pages.harness import chart, metrics, open_page, texts


def lesson(name: str) -> AppTest:
    return open_page("repairs", repairs_lesson=repairs.rows()[name].title)


def test_every_algorithm_has_its_text():
    missing = [name for name in repairs.rows() if name not in TEXTS]
    assert not missing, f"pages/lessons/repairs_texts.py needs a row for each of {missing}"


@pytest.mark.parametrize("name", [*ALGORITHMS, "finetune"])
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
    assert escape(report.paper) in captions
    (code,) = page.code
    called = "lab.finetune(" if name == "finetune" else f'lab.repair_with("{name}", '
    assert code.value.startswith(called)
    assert all(f"{key}={value!r}" in code.value for key, value in report.settings.items())
    assert text.seen in captions
    assert all(f"{escape(note)}." in captions for note in report.notes)
    shown = chart(page, f"versus_{name}").data
    assert len(shown[1].x) == len(report.layers)


def test_a_repair_is_shown_on_the_samples_that_need_it():
    assert {text.model for text in TEXTS.values()} == {"depthwise", "vit"}


def test_equalization_is_seen_in_the_channels():
    page = lesson("equalize")
    job = board().find((repairs.KIND, "equalize"))
    assert job is not None and job.result.report.notes  # how far the function is the same
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


def test_training_wins_accuracy_and_gives_some_weights_another_code():
    page = lesson("finetune")
    job = board().find((repairs.KIND, "finetune"))
    assert job is not None
    report, beyond = job.result.report, job.result.beyond
    before, after = report.before["accuracy"], report.after["accuracy"]
    assert after > before + 1
    assert metrics(page)["Network accuracy ↑"] == f"{number(before)} → {number(after, '%')}"
    assert 0.001 < beyond < 0.5
    told = f"{number(100 * beyond, '%')} {TEXTS['finetune'].beyond}."
    assert any(told in c.value for c in page.caption)
    assert "half a step" in chart(page, "moves").layout.xaxis.title.text


def test_the_automatic_repair_tells_each_step_with_its_numbers():
    page = open_page("repairs", repairs_lesson=automatic.TITLE)
    job = board().find(automatic.KEY)
    assert job is not None and job.error is None
    result = job.result
    assert result.reached and len(result.steps) == 2
    shown = metrics(page)
    for label, name, unit in (("accuracy", "accuracy", "%"), ("output SQNR", "sqnr", "dB")):
        numbers = f"{number(result.before[name])} → {number(result.after[name], unit)}"
        assert shown[f"Network {label} ↑"] == numbers
    log = "\n".join(m.value for m in page.markdown)
    assert all(f"{place}. {escape(line)}" in log for place, line in enumerate(result.log, 1))
    (table,) = (d.value for d in page.dataframe)
    assert list(table["Remedy"]) == [a.title for a in result.attempts]
    assert list(table["Kept"]) == ["yes", "no", "yes"]
    assert table["Output SQNR [dB] ↑"][1] == "27.7 → 27.7"
    first = result.steps[0].measured[0].output["accuracy"]
    assert table["Accuracy [%] ↑"][0].startswith(f"{number(first)} → ")
    drawn = chart(page, "versus_automatic").data
    before, after = (result.steps[i].measured[i].layers["sqnr_local"] for i in (0, 1))
    assert list(drawn[1].y) == pytest.approx(before.tolist())
    assert list(drawn[2].y) == pytest.approx(after.tolist())


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
