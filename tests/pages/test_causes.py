"""Cause cards on Layer: the engine's causes, one click to apply, the gain, and the way back."""

import time
from types import SimpleNamespace
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

import sample_models
from pages.common import causes
from pages.common import format as fmt
from pages.common.engine import board
from pages.common.workspace import Choice, Draft, Workspace
from qlab import Lab, presets
from qlab.analysis.causes import Cause, SpecChange, SpecChanges
from qlab.qconfig import Address
from qlab.ranges import TensorSpec
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

NAME = "block2.dw.conv"
PRESET = "int8-per-tensor"


@pytest.fixture(scope="module")
def lab() -> Lab:
    sample = sample_models.load("depthwise")
    return Lab(sample.model, sample.example_inputs, sample.calibration(), sample.evaluation())


@pytest.fixture
def page() -> AppTest:
    return open_page("layer", model="depthwise", preset=PRESET, layer=NAME)


def texts_of(page: AppTest) -> list[str]:
    return [m.value for m in page.markdown]


def captions(page: AppTest) -> list[str]:
    return [c.value for c in page.caption]


def test_every_cause_has_its_sentence_number_and_threshold(page: AppTest, lab: Lab):
    found = lab.causes(NAME, PRESET)
    assert [cause.kind for cause in found][2:] == ["mean shift"]
    for cause in found:
        assert fmt.escape(cause.sentence) in texts_of(page)
        share = cause.kind == "mean shift"
        value, limit = (
            fmt.percent(v) if share else f"{fmt.number(v)}×" for v in (cause.value, cause.threshold)
        )
        told = f"{value} · a cause from {limit} on"
        assert fmt.escape(told) in captions(page)


def test_causes_with_one_remedy_share_a_card(page: AppTest, lab: Lab):
    gain = lab.causes(NAME, PRESET)[0].gain
    assert gain is not None
    label = f"Use one scale per channel: +{fmt.number(gain, 'dB')}"
    assert page.button(key="apply_cause_0").label.replace("\xa0", " ") == label
    assert not has_button(page, "apply_cause_1")


def test_apply_shows_the_gain_and_undo_takes_it_back(page: AppTest, lab: Lab):
    settle(page.button(key="compare").click().run())
    cause = lab.causes(NAME, PRESET)[0]
    before = presets.get(PRESET).mapping()
    sqnr = [lab.what_if(NAME, mapping=m).output_sqnr for m in (before, cause.apply(before))]
    settle(page.button(key="apply_cause_0").click().run())
    shown = next(m for m in page.metric if "→" in m.value and "dB" in m.value)
    assert shown.value == f"{fmt.number(sqnr[0])} → {fmt.number(sqnr[1], 'dB')}"
    assert shown.delta == f"+{fmt.number(sqnr[1] - sqnr[0], 'dB')}"
    assert sqnr[1] - sqnr[0] == pytest.approx(cause.gain, abs=1e-6)
    assert page.selectbox(key="weight_granularity").value == "per channel"
    assert page.warning[0].value.startswith("Stale")
    settle(page.button(key="refresh").click().run())
    assert not page.warning
    assert has_button(page, "undo_remedy")
    settle(page.button(key="undo_remedy").click().run())
    assert not has_button(page, "undo_remedy")
    assert page.selectbox(key="weight_granularity").value == "per tensor"
    assert page.button(key="apply_cause_0").label.startswith("Use one scale")


def test_the_gain_is_told_on_its_own_layer_only(page: AppTest):
    settle(page.button(key="apply_cause_0").click().run())
    settle(page.button(key="next").click().run())
    assert not has_button(page, "undo_remedy")


def test_a_remedy_elsewhere_names_the_layer_that_it_changes(lab: Lab):
    page = open_page("layer", model="depthwise", layer=NAME)
    cause = next(c for c in lab.causes(NAME, "int8") if c.kind == "quantized input")
    told = fmt.escape(f"{fmt.percent(cause.value)} · a cause from {fmt.percent(0.5)} on")
    assert told in captions(page)
    assert f"Changes {fmt.escape('block1.pw.conv')}." in captions(page)
    settle(page.button(key="apply_cause_0").click().run())
    rules = workspace_of(page).mapping(Choice("depthwise", "int8", 256)).module_name_qconfigs
    assert rules == cause.apply(presets.get("int8").mapping()).module_name_qconfigs


def test_what_only_a_repair_avoids_has_advice_and_no_button():
    page = open_page("layer", model="depthwise", preset="int16-activations", layer="fc")
    advice = fmt.escape("Correct the biases")
    told = "No setting of a layer avoids it, but a repair of the model can."
    assert f"{told} {advice}." in captions(page)
    assert not has_button(page, "apply_cause_0")


def test_a_layer_without_a_cause_says_what_more_bits_would_gain(lab: Lab):
    page = open_page("layer", model="depthwise", layer="block4.pw.conv")
    assert not lab.causes("block4.pw.conv", "int8")
    assert any(c.startswith("No single cause\\. 16 bits would gain") for c in captions(page))


def test_layers_without_an_error_of_their_own_say_so():
    page = open_page("layer", model="depthwise", layer="flatten")
    assert any("moves codes as they are" in c for c in captions(page))
    page = open_page("layer", model="depthwise", layer=NAME)
    page.toggle(key="in_float").set_value(True).run()
    settle(page.button(key="apply").click().run())
    assert any("runs in float" in c for c in captions(page))


def test_knobs_do_not_wait_for_the_causes(monkeypatch: pytest.MonkeyPatch):
    stop: list[Any] = []

    def seek(self: Lab, name: str, mapping: Any = None) -> tuple[Cause, ...]:
        while not stop:
            time.sleep(0.01)
        return ()

    monkeypatch.setattr(Lab, "causes", seek)
    page = AppTest.from_file(ROOT / "pages" / "layer.py", default_timeout=SECONDS)
    for key, value in {"model": "mlp", "samples": 16, "layer": "fc2"}.items():
        page.session_state[key] = value
    page.run()
    while not has_button(page, "cancel_causes"):
        page.run()
    before = metrics(page)["Layer output SQNR ↑"]
    page.select_slider(key="weight_bits").set_value("3").run()
    assert metrics(page)["Layer output SQNR ↑"] != before
    page.button(key="cancel_causes").click().run()
    stop.append(True)
    assert any("was cancelled" in i.value for i in page.info)
    assert has_button(page, "resume_causes")
    for key in [key for key in board()._jobs if 16 in key]:
        board().forget(key)


def test_the_error_of_each_channel_is_measured_when_asked(page: AppTest, lab: Lab):
    assert "channel_errors" not in str(page.get("plotly_chart"))
    settle(page.toggle(key="channel_error").set_value(True).run())
    table = lab.channels(NAME, PRESET)
    bars = chart(page, "channel_errors").data[0]
    assert list(bars.y) == pytest.approx(sorted(table["sqnr"]))
    worst = f"Channel {table['sqnr'].idxmin()} is the worst at "
    assert any(c.startswith(worst + fmt.number(table["sqnr"].min(), "dB")) for c in captions(page))


def fake(kind: str, value: float, threshold: float) -> Any:
    return SimpleNamespace(kind=kind, value=value, threshold=threshold)


@pytest.mark.parametrize(
    ("cause", "told"),
    [
        (fake("heavy tail", 5, 4), "5.00× · a cause from 4.00× on"),
        (fake("few bits", 4, 8), "4 bits · a cause below 8 bits"),
        (fake("dead channels", 3, 1), "3 · a cause from 1 on"),
        (fake("clipping", 0.75, 0.5), "75.0 % · a cause from 50.0 % on"),
    ],
)
def test_numbers_have_the_unit_of_their_cause(cause: Any, told: str):
    assert causes.measured(cause) == told


def at(layer: str) -> Address:
    """A layer that only a rule for its name or for everything matches."""
    return Address(layer, layer, (), 0)


def changing(*layers: str) -> Cause:
    """A cause whose remedy changes some layers of an int8 network."""
    found = presets.get("int8").mapping().global_qconfig
    assert found is not None
    spec = TensorSpec.uint8_activation().with_bits(16)
    changes = tuple(SpecChange(at(layer), "activation", spec, found) for layer in layers)
    return Cause("k", "last", "input", 1, 1, "s", SpecChanges(changes), "16 bits", 3.0)


def test_a_remedy_for_several_layers_is_one_change():
    space, choice = Workspace("id"), Choice("mlp", "int8", 8)
    before, cause = space.mapping(choice), changing("a", "b")
    space.set_draft(choice, "a", Draft(None, TensorSpec()))
    space.set_draft(choice, "c", Draft(None, TensorSpec()))
    space.remedy(choice, cause)
    assert space.changes(choice) == 1
    assert set(space.mapping(choice).module_name_qconfigs) == {"a", "b"}
    assert space.draft(choice, "a") is None
    assert space.draft(choice, "c") is not None
    applied = space.remedied(choice)
    assert applied is not None
    assert (applied.cause, applied.before) == (cause, before)
    assert causes.changed_layers(cause, before) == ["a", "b"]
    assert causes.changed_layers(cause, applied.after) == []
    space.undo(choice)
    assert space.mapping(choice) == before
    assert space.remedied(choice) is None


def test_another_change_after_a_remedy_hides_its_gain():
    space, choice = Workspace("id"), Choice("mlp", "int8", 8)
    space.remedy(choice, changing("a"))
    space.apply(choice, "z", Draft(None, None, in_float=True))
    assert space.remedied(choice) is None
    space.undo(choice)
    assert space.remedied(choice) is not None
