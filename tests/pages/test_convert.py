"""Convert: the truth table, and files that were read back before anyone downloads them."""

import pytest
import torch
from streamlit.testing.v1 import AppTest

import qlab
import sample_models
from pages.common.engine import board
from pages.common.workspace import Choice, Draft
from qlab.ranges import TensorSpec
from tests.pages.harness import has_button, open_page, settle, workspace_of


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
    made = board().find(("conversion", "mlp", 256, (), mapping)).result
    assert qlab.QConfigMapping.from_json(made.recipe) == mapping
    images = sample.evaluation()[0][0]
    loaded = qlab.load_quantized(made.checkpoint)
    assert torch.equal(loaded(images), lab.convert(mapping)(images))


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
    page.session_state["plan"] = {"selection": {"rows": [3], "columns": []}}
    page.run()
    assert page.session_state["layer"] == names[3]
    row = page.dataframe[0].value.iloc[3]
    assert row["reason"] in page.text[0].value
    assert row["requested"] in page.text[0].value


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
    shown = page.dataframe[1].value
    assert list(shown.index) == list(table.index)
    assert list(shown["Off by 1"]) == [f"{n:,}" for n in table["off_by_1_local"]]
    assert list(shown["Ties"]) == [f"{n:,}" for n in table["ties_local"]]
    page.segmented_control(key="fidelity_where").set_value("accumulated").run()
    shown = page.dataframe[1].value
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
    assert set(page.dataframe[1].value["Equal codes"]) == {"real numbers"}
