"""Convert: the truth table, and files that were read back before anyone downloads them."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from streamlit.testing.v1 import AppTest

import qlab
import sample_models
from pages.common import conversion, models
from pages.common.engine import board
from pages.common.format import percent
from pages.common.more_files import ABOUT, AT_ONCE, ONNX
from pages.common.workspace import Choice, Draft, ModelFile, SampleFile, Workspace
from qlab.io.exports import WRITERS
from qlab.io.onnx_check import OnnxCheck
from qlab.io.replay import Origin
from qlab.ranges import TensorSpec
from tests.pages.harness import ROOT, has_button, metrics, open_page, settle, workspace_of


def convert(page: AppTest) -> AppTest:
    return settle(page.button(key="convert").click().run())


def labels(page: AppTest) -> list[str]:
    """The files that the download buttons name."""
    return [button.proto.label.split()[1] for button in page.get("download_button")]


@pytest.mark.parametrize("model", sample_models.names(trained=True))
def test_every_model_converts_and_reads_back_identically(model: str):
    page = open_page("convert", model=model)
    sample = sample_models.load(model)
    lab = qlab.Lab(sample.model, sample.example_inputs, sample.calibration())
    frame = lab.plan("int8").to_frame()
    table = page.dataframe[0].value
    assert list(table.index) == list(frame.index)
    for column in ("requested", "rule", "execution", "reason"):
        assert list(table[column]) == list(frame[column])
    convert(page)
    assert "identical outputs on 128 images" in page.success[0].value
    assert f'qlab.load_quantized("{model}-int8.safetensors")' in page.code[0].value
    assert len(page.code[0].value.splitlines()) == 2


def test_what_is_downloaded_loads_and_is_the_labs_model():
    page = convert(open_page("convert", model="mlp"))
    assert labels(page) == ["mlp-int8.safetensors", "mlp-int8.json"]
    sample = sample_models.load("mlp")
    lab = qlab.Lab(sample.model, sample.example_inputs, sample.calibration())
    mapping = qlab.presets.get("int8").mapping()
    made = board().find(("conversion", "mlp", 256, "cpu", (), mapping)).result
    assert qlab.QConfigMapping.from_json(made.recipe) == mapping
    images = sample.evaluation()[0][0]
    loaded = qlab.load_quantized(made.checkpoint)
    assert torch.equal(loaded(images), lab.convert(mapping)(images))


def test_the_size_of_every_layer_is_told_before_and_after():
    page = convert(open_page("convert", model="depthwise", preset="int4-weights"))
    sample = sample_models.load("depthwise")
    lab = qlab.Lab(sample.model, sample.example_inputs, sample.calibration())
    expected = lab.layer_sizes(lab.convert("int4-weights"))
    (table,) = [frame.value for frame in page.dataframe if "float_bytes" in frame.value]
    for column in expected:
        assert list(table[column]) == list(expected[column])
    share = table["share"]
    assert share["fc"] == 100 * expected.quantized_bytes["fc"] / expected.float_bytes["fc"] < 25
    assert share[expected.float_bytes == 0].isna().all()
    assert any(text.value.startswith("All layers: ") for text in page.caption)


def test_a_changed_configuration_asks_to_convert_again():
    page = convert(open_page("convert", model="mlp"))
    assert page.button(key="convert").disabled
    space = workspace_of(page)
    choice = Choice("mlp", "int8", 256)
    loaded = page.dataframe[0].value.index[1]
    weight = TensorSpec.int8_weight().with_bits(4)
    space.apply(choice, str(loaded), Draft(weight, TensorSpec.uint8_activation()))
    page.run()
    assert "has changed since" in page.info[0].value
    assert not page.success
    convert(page)
    assert "mlp-int8-changed.safetensors" in labels(page)
    table = page.dataframe[0].value
    assert table.loc[loaded, "weight"].startswith("int4")
    assert "module name" in table.loc[loaded, "rule"]


def test_a_rule_that_matches_nothing_is_flagged():
    page = open_page("convert", model="mlp")
    mapping = qlab.presets.get("int8").mapping().set_module_name("no_such_layer", None)
    workspace_of(page).history["mlp", "int8"] = [mapping]
    page.run()
    assert "This rule matches nothing" in page.warning[0].value
    assert r"no\_such\_layer" in page.warning[0].value


def test_a_click_on_a_row_selects_the_layer_and_tells_its_story():
    page = open_page("convert", model="residual")
    names = list(page.dataframe[0].value.index)
    page.session_state["plan"] = {"selection": {"rows": [], "columns": [], "cells": [(3, "gets")]}}
    page.run()
    assert page.session_state["layer"] == names[3]
    row = page.dataframe[0].value.iloc[3]
    assert row["reason"] in page.text[0].value
    assert row["requested"] in page.text[0].value
    for column in ("weight", "inputs", "output", "fused"):
        assert row[column] in page.text[0].value


def test_a_layer_kept_in_float_is_told_so():
    page = open_page("convert", model="mlp")
    name = page.dataframe[0].value.index[1]
    mapping = qlab.presets.get("int8").mapping().set_module_name(name, None)
    workspace_of(page).history["mlp", "int8"] = [mapping]
    page.run()
    row = page.dataframe[0].value.loc[name]
    assert (row["execution"], row["requested"]) == ("float", "float")
    convert(page)
    assert page.success


def test_a_failing_conversion_is_a_message_and_can_be_tried_again(monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object) -> None:
        raise qlab.errors.UnsupportedError("The layer 'x' cannot be written", fix="Keep it.")

    page = open_page("convert", model="conv_bn_relu", samples=8)
    with monkeypatch.context() as patched:
        patched.setattr(qlab.Lab, "export", fail)
        convert(page)
    assert "cannot be written" in page.error[0].value
    assert "Keep it" in page.error[0].value
    assert has_button(page, "again-job")
    settle(page.button(key="again-job").click().run())
    assert not page.error
    assert page.success


def test_the_integer_model_is_shown_beside_its_simulation_and_its_time():
    page = convert(open_page("convert", model="conv_bn_relu"))
    sample = sample_models.load("conv_bn_relu")
    lab = qlab.Lab(sample.model, sample.example_inputs, sample.calibration(), sample.evaluation())
    table = lab.fidelity("int8").table
    shown = page.dataframe[2].value
    assert list(shown.index) == list(table.index)
    assert list(shown["Off by 1"]) == [f"{n:,}" for n in table["off_by_1_local"]]
    assert list(shown["Ties"]) == [f"{n:,}" for n in table["ties_local"]]
    page.segmented_control(key="fidelity_where").set_value("accumulated").run()
    shown = page.dataframe[2].value
    assert list(shown["Off by 1"]) == [f"{n:,}" for n in table["off_by_1_accumulated"]]
    assert shown.loc["fc", "Equal codes"].endswith("%")
    labels = [metric.label for metric in page.metric]
    assert labels == ["Float", "Quantized", "Float / quantized"]
    assert all(metric.value.endswith("ms") for metric in page.metric[:2])
    told = "\n".join(caption.value for caption in page.caption)
    assert "500 images" in told
    assert "20 runs of each network in turn, batch 1, input 1 × 1 × 8 × 8, 1 thread, cpu" in told


def test_layers_that_give_real_numbers_have_no_codes_to_compare():
    page = convert(open_page("convert", model="mlp", preset="int8-weights-only"))
    assert set(page.dataframe[2].value["Equal codes"]) == {"real numbers"}


def make(page: AppTest, suffix: str) -> AppTest:
    return settle(page.button(key=f"make_{suffix}").click().run())


def made(page: AppTest, suffix: str) -> conversion.Written:
    """The file behind a download button."""
    space = workspace_of(page)
    assert space.choice is not None
    mapping = space.mapping(space.choice)
    origin = repr(models.origin(space.choice, space))
    chosen = space.choice.model, space.choice.samples, space.choice.device
    key = ("file", suffix, *chosen, (), mapping, origin)
    job = board().find(key)
    assert job is not None
    return job.result


def test_every_file_that_the_engine_writes_is_on_offer():
    page = convert(open_page("convert", model="mlp", samples=8))
    offered = {key for key in ABOUT if has_button(page, f"make_{key[1:]}")}
    assert offered | {ONNX} | set(AT_ONCE) == set(WRITERS)
    assert has_button(page, "make_onnx")


def test_the_onnx_file_is_compared_before_it_is_downloaded():
    page = convert(open_page("convert", model="conv_bn_relu", samples=64))
    assert "conv_bn_relu-int8.onnx" not in labels(page)
    make(page, "onnx")
    assert "conv_bn_relu-int8.onnx" in labels(page)
    sample = sample_models.load("conv_bn_relu")
    lab = qlab.Lab(sample.model, sample.example_inputs, sample.calibration(64))
    check = lab.check_onnx(made(page, ".onnx").content, "int8")
    shown = page.dataframe[1].value
    assert list(shown.index) == list(check.table.index)
    assert list(shown["Off by 1"]) == [f"{n:,}" for n in check.table["off_by_1_local"]]
    assert list(shown["Codes"]) == [f"{n:,}" for n in check.table["codes_local"]]
    page.segmented_control(key="onnx_where").set_value("accumulated").run()
    shown = page.dataframe[1].value
    assert list(shown["Off by 1"]) == [f"{n:,}" for n in check.table["off_by_1_accumulated"]]
    tiles = metrics(page)
    assert tiles["Largest difference of an operator"] == f"{check.most_local_steps} steps"
    assert tiles["Outputs within one step"] == percent(check.output["within_one"])
    assert tiles["Same class"] == "100 %"
    captions = "\n".join(caption.value for caption in page.caption)
    assert "64 calibration samples" in captions
    beside = f"{percent(check.measured['within_one'])} of outputs within one step, output SQNR "
    assert f"whose biases are real numbers: {beside}" in captions


def test_a_file_far_from_the_integers_is_said_to_be(monkeypatch: pytest.MonkeyPatch):
    check = qlab.Lab.check_onnx

    def far(*args: Any, **options: Any) -> OnnxCheck:
        found = check(*args, **options)
        found.table.loc["fc", "max_steps_local"] = 3
        return found

    monkeypatch.setattr(qlab.Lab, "check_onnx", far)
    page = make(convert(open_page("convert", model="conv_bn_relu", samples=16)), "onnx")
    (warning,) = page.warning
    assert "other codes than qlab for fc, by up to 3 steps" in warning.value


def test_weights_alone_leave_no_codes_to_compare_in_onnx():
    page = convert(open_page("convert", model="mlp", preset="int8-weights-only", samples=16))
    make(page, "onnx")
    assert any("no codes to compare" in caption.value for caption in page.caption)
    assert "Largest difference of an operator" not in metrics(page)
    assert "mlp-int8-weights-only.onnx" in labels(page)


def test_what_onnx_cannot_say_is_told_in_words(monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object, **__: object) -> None:
        raise qlab.errors.UnsupportedError(
            "ONNX (opset 25) has no form of aten.x in module 'a_b'", fix="Write .pt2."
        )

    page = convert(open_page("convert", model="mlp", samples=16))
    monkeypatch.setattr(qlab.Lab, "export", refuse)
    make(page, "onnx")
    (warning,) = page.warning
    assert r"no form of aten.x in module 'a\_b'" in warning.value.replace(r"\.", ".")
    assert "Write" in warning.value
    assert not page.error
    assert "mlp-int8.onnx" not in labels(page)


def test_a_changed_configuration_wants_new_files():
    page = make(convert(open_page("convert", model="mlp", samples=32)), "py")
    assert "mlp-int8.py" in labels(page)
    space = workspace_of(page)
    weight = TensorSpec.int8_weight().with_bits(4)
    draft = Draft(weight, TensorSpec.uint8_activation())
    space.apply(Choice("mlp", "int8", 32), str(page.dataframe[0].value.index[1]), draft)
    page.run()
    convert(page)
    assert has_button(page, "make_py")
    assert "mlp-int8-changed.py" not in labels(page)


def test_the_script_of_the_app_ends_in_the_same_integers(tmp_path: Path):
    page = make(convert(open_page("convert", model="mlp", samples=32)), "py")
    script = tmp_path / "replay.py"
    script.write_bytes(made(page, ".py").content)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    told = subprocess.run(
        [sys.executable, script], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert told.returncode == 0, told.stderr
    assert "The same integers" in told.stdout


@pytest.mark.parametrize(("suffix", "start"), [("pt2", b"PK"), ("html", b"<!doctype html>")])
def test_program_and_report_are_made_when_asked_for(suffix: str, start: bytes):
    page = make(convert(open_page("convert", model="mlp", samples=16)), suffix)
    assert f"mlp-int8.{suffix}" in labels(page)
    assert made(page, f".{suffix}").content[: len(start)].lower() == start.lower()


def test_the_origin_of_uploads_is_what_their_files_were_called():
    space = Workspace("0" * 32)
    choice = Choice("net.safetensors", "int8", 8)
    space.models["net.safetensors"] = ModelFile("f" * 32, "net.safetensors", "mlp")
    assert models.origin(choice, space) == Origin(
        "net.safetensors", "random", 8, architecture="mlp"
    )
    space.samples["net.safetensors"] = SampleFile("e" * 32, "pictures.zip", 8, 6, (0.5,), (0.2,))
    assert models.origin(choice, space) == Origin(
        "net.safetensors",
        "pictures.zip",
        8,
        architecture="mlp",
        images={"mean": [0.5], "std": [0.2], "size": [8, 6]},
    )
    assert models.origin(Choice("mlp", "int8", 8), space) == Origin("mlp", None, 8)
