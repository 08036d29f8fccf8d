"""Calibrate: what was seen, the verdict and every number are the engine's."""

import pytest
from streamlit.testing.v1 import AppTest

import sample_models
from pages.common import format as fmt
from pages.common import sidebar
from qlab import Lab
from tests.pages.harness import ROOT, SECONDS, chart, has_button, metrics, open_page, settle, texts


def lab_of(model: str, samples: int = 256, batch: int = 32) -> Lab:
    sample = sample_models.load(model)
    lab = Lab(sample.model, sample.example_inputs, sample.calibration(samples, batch))
    lab.calibrate()
    return lab


def tables(page: AppTest) -> tuple:
    """The two tables: ranges that move, and what tensors look like."""
    return tuple(frame.value for frame in page.dataframe)


@pytest.mark.parametrize("model", sample_models.names(trained=True))
def test_verdict_and_tables_of_every_trained_model(model: str):
    page, lab = open_page("calibrate", model=model), lab_of(model)
    stability = lab.stability()
    assert not page.error
    box = {True: page.success, False: page.warning, None: page.info}[stability.settled]
    assert box[0].value == fmt.escape(stability.verdict)
    moving, tensors = tables(page)
    assert set(moving.index) == set(stability.table.index)
    worst = stability.table["change"].idxmax()
    assert moving.loc[worst, "Change [dB] ↓"] == fmt.number(stability.table.loc[worst, "change"])
    for name, row in tensors.iterrows():
        stats = lab.statistics(name)
        assert row["Max"] == fmt.number(float(stats.max_val))
        assert row["Std"] == fmt.number(stats.variance**0.5)
        assert row["Zeros"] == fmt.percent(stats.zeros / stats.count)
        assert row["Outliers ↓"] == f"{fmt.number(stats.tail_ratio)}×"
    shown = metrics(page)
    assert (shown["Images seen"], shown["In batches"]) == ("256", "8")
    assert shown["Layers described"] == str(len(tensors))
    assert shown["NaN or infinite ↓"] == "0"


def test_ranges_that_move_come_first_and_are_judged_in_smaller_batches():
    page = open_page("calibrate", model="residual", samples=32)
    stability = lab_of("residual", 32, 4).stability()
    assert stability.moving
    assert page.warning[0].value == fmt.escape(stability.verdict)
    moving = tables(page)[0]
    assert tuple(moving.index[: len(stability.moving)]) == stability.moving
    assert list(moving["Verdict"]).count("still moves") == len(stability.moving)
    assert "Judged in 8 batches of 4." in [c.value for c in page.caption]
    assert metrics(page)["In batches"] == "1"


def test_the_curve_is_that_of_the_selected_layer():
    page = open_page("calibrate", model="mlp", layer="fc2")
    curve = lab_of("mlp").stability().curve("fc2")
    seen = [t for t in chart(page, "range_curve").data if t.name.startswith("smallest")]
    assert list(seen[0].y) == pytest.approx(list(curve["high"]))
    assert list(seen[1].y) == pytest.approx(list(curve["low"]))


def test_a_click_on_either_table_selects_the_layer_everywhere():
    page = open_page("calibrate", model="mlp", layer="fc1")
    moving, tensors = tables(page)
    row = list(tensors.index).index("fc2")
    page.session_state["activations_of_mlp"] = {"selection": {"rows": [row], "columns": []}}
    page.run()
    assert page.session_state["layer"] == "fc2"
    row = list(moving.index).index("fc3")
    page.session_state["moving_mlp_256"] = {"selection": {"rows": [row], "columns": []}}
    page.run()
    assert page.session_state["layer"] == "fc3"
    page.run()
    assert page.session_state["layer"] == "fc3"


def test_the_input_has_a_curve_and_is_no_layer():
    page = open_page("calibrate", model="mlp", layer="fc1")
    row = list(tables(page)[0].index).index("input")
    page.session_state["moving_mlp_256"] = {"selection": {"rows": [row], "columns": []}}
    page.run()
    assert page.session_state["layer"] == "fc1"
    seen = [t for t in chart(page, "range_curve").data if t.name.startswith("smallest")]
    assert seen[0].y[-1] == 1
    assert texts(page).startswith("input") or "\ninput" in texts(page)


def test_weights_have_statistics_too():
    page = open_page("calibrate", model="mlp", layer="fc1")
    page.segmented_control(key="tensor_kind").set_value("weights").run()
    lab = lab_of("mlp", 8)
    rows = tables(page)[1]
    assert list(rows.index) == ["fc1", "fc2", "fc3"]
    assert rows.loc["fc1", "Min"] == fmt.number(float(lab.weight("fc1").min()))
    assert f"{fmt.count(lab.weight('fc1').numel())} values of its weight" in texts(page)


def test_more_images_by_button_and_by_choice_as_in_the_sidebar():
    page = open_page("calibrate", model="mlp", samples=64)
    assert page.segmented_control(key="amount").value == 64
    assert page.button(key="add_images").label == "Add 64 more"
    settle(page.button(key="add_images").click().run())
    assert page.selectbox(key="samples").value == 128
    assert metrics(page)["Images seen"] == "128"
    settle(page.segmented_control(key="amount").set_value(256).run())
    assert metrics(page)["Images seen"] == "256"
    assert page.button(key="add_images").disabled
    settle(page.selectbox(key="samples").set_value(8).run())
    assert page.segmented_control(key="amount").value == 8


def test_noise_is_called_noise_before_it_is_even_seen():
    page = open_page("overview", model="mlp", samples=8)
    assert not any(sidebar.NOISE in c.value for c in page.caption)
    # Two models, since the second pass over one would go on from the cancelled first.
    for name, model in (("calibrate", "resnet18"), ("layer", "mobilenet_v2")):
        page = AppTest.from_file(ROOT / "pages" / f"{name}.py", default_timeout=SECONDS)
        page.session_state["model"], page.session_state["samples"] = model, 16
        page.run()
        assert any(sidebar.NOISE in c.value for c in page.caption)
        assert has_button(page, "cancel")
        page.button(key="cancel").click().run()
        assert has_button(page, "resume")
