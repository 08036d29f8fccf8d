"""Configure: what is typed is what the engine resolves, and nothing that is typed is lost."""

from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

import qlab
import sample_models
from pages.common import rows, rules
from pages.common.editor import HELD, PICKED
from qlab import QConfigMapping, presets
from tests.pages.harness import ROOT, SECONDS, has_button, open_page, settle, texts, workspace_of

TRAINED = sample_models.names(trained=True)


def lab_of(model: str) -> qlab.Lab:
    sample = sample_models.load(model)
    return qlab.Lab(sample.model, sample.example_inputs, sample.calibration())


def table(page: AppTest) -> Any:
    """The table of what is asked, as it was filled."""
    return page.session_state[HELD].frame


def enter(page: AppTest, **cells: dict[str, object]) -> AppTest:
    """Types into cells, by layer (dots as in its name) and column, on top of what was typed."""
    held = page.session_state[HELD]
    names = list(held.frame.index)
    typed = getattr(page, "_typed", {})
    if typed.get("generation") != held.generation:
        typed = {"generation": held.generation, "rows": {}}
    for name, changes in cells.items():
        typed["rows"].setdefault(names.index(name), {}).update(changes)
    page._typed = typed  # type: ignore[attr-defined]
    page.session_state[f"configure_{held.generation}"] = {
        "edited_rows": typed["rows"], "added_rows": [], "deleted_rows": [],
    }  # fmt: skip
    return settle(page.run())


def truth(page: AppTest) -> Any:
    """The truth table on the page."""
    return next(d.value for d in page.dataframe if "execution" in d.value.columns)


def mapping(page: AppTest) -> QConfigMapping:
    """The configuration in force."""
    held = page.session_state[HELD]
    return workspace_of(page).mapping(held.choice)


def changes(page: AppTest) -> int:
    held = page.session_state[HELD]
    return workspace_of(page).changes(held.choice)


@pytest.fixture
def page() -> AppTest:
    return open_page("configure", model="mlp")


@pytest.mark.parametrize("model", TRAINED)
def test_every_model_shows_what_is_asked_and_what_the_engine_resolves(model: str):
    page, lab = open_page("configure", model=model), lab_of(model)
    assert not page.error
    assert list(table(page).index) == [layer.name for layer in lab.layers if layer.quantizable]
    resolved, shown = lab.plan("int8").to_frame(), truth(page)
    for column in ("requested", "rule", "execution", "reason", "fused", "weight", "output"):
        assert list(shown[column]) == list(resolved[column])
    assert not changes(page)


@pytest.mark.parametrize("preset", presets.PRESETS)
def test_every_preset_reads_as_what_it_asks(preset: str):
    page = open_page("configure", model="residual", preset=preset)
    asked = presets.get(preset)
    row = table(page).iloc[0]
    assert row["weight bits"] in (str(asked.weight.dtype.bits), "float8 e4m3")
    if asked.activation is None:
        assert row["activation bits"] == "float"
        assert row["activation scheme"] is None
    else:
        assert row["activation observer"] == asked.activation.policy.label
    assert page.pills(key="configure_preset").value == preset


@pytest.mark.parametrize(
    ("column", "value", "resolved", "words"),
    [
        ("weight bits", "4", "weight", "int4 symmetric per channel, min-max"),
        ("weight scheme", "affine", "weight", "int8 affine per channel, min-max"),
        ("weight granularity", "per tensor", "weight", "int8 symmetric per tensor, min-max"),
        ("weight granularity", "per group of 16", "weight", "int8 symmetric per group of 16"),
        ("weight observer", "entropy", "weight", "int8 symmetric per channel, entropy"),
        ("weight bits", "float", "weight", "float"),
        ("activation bits", "6", "output", "uint6 affine per tensor, least squared error"),
        ("activation scheme", "symmetric", "output", "uint8 symmetric per tensor"),
        ("activation observer", "percentile 99.9", "output", "uint8 affine per tensor, percentile"),
        ("activation bits", "float", "output", "float"),
        ("activation bits", "float8 e5m2", "output", "float8_e5m2 per tensor"),
    ],
)
def test_each_cell_changes_what_the_layer_gets(
    page: AppTest, column: str, value: str, resolved: str, words: str
):
    before = truth(page)
    enter(page, fc2={column: value})
    after = truth(page)
    assert not page.error
    assert after.loc["fc2", resolved].startswith(words)
    assert after.loc["fc2", "rule"] == "module name 'fc2'"
    assert after.loc["fc1", "weight"] == before.loc["fc1", "weight"]
    assert after.loc["fc3", "rule"] == "global"
    assert changes(page) == 1
    lab = lab_of("mlp")
    assert list(lab.plan(mapping(page)).to_frame()[resolved]) == list(after[resolved])


def columns(page: AppTest, title: str) -> list[str]:
    """The columns that a table shows, in their order, the pinned name left out."""
    (shown,) = (
        list(d.proto.column_order)
        for d in page.dataframe
        if d.proto.id.endswith("plan") == (title == "gets")
    )
    return shown


@pytest.mark.parametrize(
    ("part", "asked", "gets"),
    [
        ("bits", ["weight bits", "activation bits"], "integer: uint8 × int8 → uint8"),
        ("scheme", ["weight scheme", "activation scheme"], "integer: W symmetric, A affine"),
        (
            "scale",
            ["weight granularity", "activation granularity"],
            "integer: W per channel, A per tensor",
        ),
        (
            "observer",
            ["weight observer", "activation observer"],
            "integer: W min-max, A least squared error",
        ),
    ],
)
def test_one_part_is_asked_and_got_side_by_side(
    page: AppTest, part: str, asked: list[str], gets: str
):
    page.segmented_control(key="part").set_value(part).run()
    assert columns(page, "asked") == [PICKED, "float", *asked]
    assert columns(page, "gets") == ["part"]
    assert truth(page).loc["fc3", "part"] == gets
    assert workspace_of(page).settings.get("part", "bits") == part
    enter(page, fc3={"float": True})
    told = truth(page).loc["fc3", "part"]
    assert told == "float: kept in float by module name 'fc3' · by its own rule"
    assert truth(page).loc["fc3", "asked"] == "float · by its own rule"


def test_sentences_say_what_is_asked_and_got():
    table = truth(open_page("configure", model="residual", preset="int4-weights"))
    row = table.loc["block1.conv1"]
    asked = "W int4 symmetric per channel, least squared error · "
    asked += "A uint8 affine per tensor, least squared error"
    assert row["asked"] == asked
    assert row["gets"] == f"{asked} · with bn1, relu1"
    assert row["why"] == "integer: uint8 × int4 → uint8"
    assert table.loc["flatten", "part"].startswith("shared: keeps the scale")


def test_a_switch_of_the_part_loses_no_entry(page: AppTest):
    enter(page, fc1={"weight bits": "4"})
    page.segmented_control(key="part").set_value("observer").run()
    enter(page, fc1={"weight observer": "entropy"})
    assert truth(page).loc["fc1", "weight"].startswith("int4 symmetric per channel, entropy")
    assert changes(page) == 2


def test_a_layer_is_kept_in_float_and_taken_back(page: AppTest):
    enter(page, fc2={"float": True})
    assert truth(page).loc["fc2", "execution"] == "float"
    assert truth(page).loc["fc2", "reason"] == "kept in float by module name 'fc2'"
    enter(page, fc2={"float": False})
    assert truth(page).loc["fc2", "execution"] == "integer"


def test_every_entry_is_one_change_and_undo_takes_back_one(page: AppTest):
    enter(page, fc1={"weight bits": "4"})
    enter(page, fc2={"weight bits": "3"})
    enter(page, fc1={"weight bits": "2"})
    assert changes(page) == 3
    assert table(page).loc["fc1", "weight bits"] == "8"  # the base frame stays, entries lie above
    page.button(key="undo").click().run()
    assert table(page).loc["fc1", "weight bits"] == "4"
    assert table(page).loc["fc2", "weight bits"] == "3"
    page.button(key="undo").click().run()
    assert list(table(page)["weight bits"]) == ["4", "8", "8"]
    enter(page, fc3={"weight bits": "7"})
    assert [truth(page).loc[name, "weight"][:4] for name in ("fc1", "fc2", "fc3")] == [
        "int4", "int8", "int7",
    ]  # fmt: skip


INVALID = {"weight bits": "float8 e4m3", "weight observer": "entropy"}


def test_an_entry_that_makes_no_sense_is_answered_and_not_lost(page: AppTest):
    enter(page, fc1={"weight bits": "4"}, fc2=INVALID)
    assert "fc2" in page.error[0].value
    assert "Entropy compares evenly spaced codes" in page.error[0].value
    assert "Choose MSE" in page.error[0].value
    assert truth(page).loc["fc1", "weight"].startswith("int4")
    assert truth(page).loc["fc2", "weight"].startswith("int8")
    page.button(key="undo").click().run()  # fills the table anew
    assert dict(table(page).loc["fc2", list(INVALID)]) == INVALID
    assert "Entropy compares" in page.error[0].value
    again = AppTest.from_file(ROOT / "pages" / "configure.py", default_timeout=SECONDS)
    again.query_params["w"] = page.query_params["w"]
    settle(again.run())
    assert dict(table(again).loc["fc2", list(INVALID)]) == INVALID
    assert again.error
    enter(again, fc2={"weight observer": "min-max"})
    assert not again.error
    assert truth(again).loc["fc2", "weight"].startswith("float8_e4m3fn")


def test_entries_that_make_no_sense_can_be_discarded(page: AppTest):
    enter(page, fc2=INVALID)
    page.button(key="discard").click().run()
    assert not page.error
    assert table(page).loc["fc2", "weight bits"] == "8"
    assert not changes(page)


def test_a_group_that_does_not_divide_the_layers_inputs_is_refused_in_words():
    page = open_page("configure", model="residual")
    name = table(page).index[0]
    enter(page, **{name: {"weight granularity": "per group of 8"}})
    assert "cannot have one scale per group of 8" in page.error[0].value
    assert "per tensor, per channel" in page.error[0].value


def test_a_layer_without_weight_takes_none():
    page = open_page("configure", model="residual")
    added = next(name for name in table(page).index if name.endswith("add"))
    assert table(page).loc[added].filter(like="weight").isna().all()
    enter(page, **{added: {"weight bits": "4"}})
    assert "has no weight" in page.error[0].value
    assert not changes(page)


def test_cells_of_a_layer_in_float_wait_until_it_is_quantized_again(page: AppTest):
    enter(page, fc2={"float": True, "weight bits": "3"})
    add_pattern(page, "fc1")  # fills the table anew
    assert table(page).loc["fc2", "weight bits"] == "3"
    enter(page, fc2={"float": False})
    assert truth(page).loc["fc2", "weight"].startswith("int3")
    for _ in range(3):
        page.button(key="undo").click().run()
    assert dict(table(page).loc["fc2", ["float", "weight bits"]]) == {
        "float": False, "weight bits": "8",
    }  # fmt: skip


def test_one_value_for_the_picked_rows_or_for_all(page: AppTest):
    assert page.selectbox(key="bulk_to_weight bits").value == "8"  # as most rows have
    page.selectbox(key="bulk_to_weight bits").set_value("4").run()
    assert page.button(key="bulk_picked").disabled
    enter(page, fc1={PICKED: True}, fc3={PICKED: True})
    assert not changes(page)
    assert page.button(key="bulk_picked").label == "Set for the 2 picked"
    page.button(key="bulk_picked").click().run()
    assert list(table(page)["weight bits"]) == ["4", "8", "4"]
    assert list(table(page)[PICKED]) == [True, False, True]
    assert changes(page) == 1
    page.selectbox(key="bulk_column").set_value("activation observer").run()
    page.selectbox(key="bulk_to_activation observer").set_value("min-max").run()
    page.button(key="bulk_all").click().run()
    assert all(truth(page)["output"].loc[["fc1", "fc2", "fc3"]].str.endswith("min-max"))
    assert changes(page) == 2
    page.selectbox(key="bulk_column").set_value("float").run()
    page.button(key="bulk_all").click().run()
    assert set(truth(page)["execution"]) <= {"float", "shared", "none"}
    for _ in range(3):
        page.button(key="undo").click().run()
    assert list(table(page)["weight bits"]) == ["8", "8", "8"]


def test_setting_many_leaves_out_layers_without_weight_and_says_which_cannot():
    page = open_page("configure", model="residual")
    page.selectbox(key="bulk_column").set_value("weight granularity").run()
    page.selectbox(key="bulk_to_weight granularity").set_value("per group of 8").run()
    page.button(key="bulk_all").click().run()
    assert page.error
    assert all("per group of 8" in error.value for error in page.error)
    refused = {error.value.split("**")[1].replace("\\", "") for error in page.error}
    weights = truth(page)["weight"]
    grouped = {name for name in table(page).index if "per group of 8" in weights[name]}
    weightless = {name for name in table(page).index if not weights[name]}
    assert grouped and refused
    assert grouped | refused | weightless == set(table(page).index)
    assert not grouped & refused


def add_pattern(page: AppTest, pattern: str, gives: str = rules.KEEP) -> AppTest:
    page.text_input(key="rule_pattern").set_value(pattern).run()
    page.selectbox(key="rule_gives").set_value(gives).run()
    return page.button(key="rule_add").click().run()


def test_rules_by_name_decide_in_their_order(page: AppTest):
    add_pattern(page, "fc[12]")
    assert list(truth(page)["execution"].loc[["fc1", "fc2", "fc3"]]) == [
        "float",
        "float",
        "integer",
    ]
    assert truth(page).loc["fc1", "rule"] == "regex 'fc[12]'"
    add_pattern(page, "fc2", "int4-weights")
    assert truth(page).loc["fc2", "execution"] == "float"  # the first pattern comes first
    page.button(key="rule_up_1").click().run()
    assert truth(page).loc["fc2", "weight"].startswith("int4")
    assert truth(page).loc["fc1", "execution"] == "float"
    page.button(key="rule_remove_0").click().run()
    assert truth(page).loc["fc2", "execution"] == "float"
    page.button(key="rule_remove_0").click().run()
    assert set(truth(page)["rule"]) == {"global"}
    assert changes(page) == 5


def test_rules_by_type_reach_every_layer_of_it():
    page = open_page("configure", model="residual")
    page.segmented_control(key="rule_style").set_value(rules.TYPE).run()
    page.selectbox(key="rule_type").set_value("type Conv2d").run()
    page.selectbox(key="rule_gives").set_value("int4-weights").run()
    page.button(key="rule_add").click().run()
    shown = truth(page)
    convs = shown["type"].str.contains("Conv")
    assert convs.any()
    assert (shown.loc[convs, "rule"] == "type Conv2d").all()
    assert shown.loc[convs, "weight"].str.startswith("int4").all()
    assert not shown.loc[~convs, "weight"].str.startswith("int4").any()


def test_a_rule_that_matches_nothing_is_flagged_where_it_stands(page: AppTest):
    add_pattern(page, "no_such")
    assert "matches nothing" in page.warning[0].value
    line = next(line for line in texts(page).splitlines() if "no_such" in line)
    assert "matches nothing in this model" in line
    assert "float" in line


def test_a_broken_pattern_is_answered_and_stays_in_its_field(page: AppTest):
    add_pattern(page, "fc[")
    assert "not a regular expression" in page.error[0].value
    assert page.text_input(key="rule_pattern").value == "fc["
    assert not changes(page)


def test_a_stronger_rule_is_named_where_an_entry_cannot_reach(page: AppTest):
    space, held = workspace_of(page), page.session_state[HELD]
    stronger = presets.get("int8").mapping()
    import torch

    stronger.set_module_name_object_type_order("", torch.nn.Linear, 0, None)
    space.configure(held.choice, stronger)
    page.run()
    assert bool(table(page).loc["fc1", "float"])
    enter(page, fc1={"float": False})
    assert "stronger rule" in page.error[0].value
    assert "number 0 of type Linear" in page.error[0].value


def test_each_preset_keeps_its_own_changes(page: AppTest):
    enter(page, fc1={"weight bits": "4"})
    page.pills(key="configure_preset").set_value("float8").run()
    assert page.selectbox(key="preset").value == "float8"
    assert not has_button(page, "undo")
    assert table(page).loc["fc1", "weight bits"] == "float8 e4m3"
    page.pills(key="configure_preset").set_value("int8").run()
    assert table(page).loc["fc1", "weight bits"] == "4"


@pytest.mark.parametrize("model", TRAINED)
@pytest.mark.parametrize("preset", presets.PRESETS)
def test_rows_that_nobody_touched_write_nothing(model: str, preset: str):
    page = open_page("configure", model=model, preset=preset)
    held = page.session_state[HELD]
    assert mapping(page) == presets.get(preset).mapping()
    assert not held.problems
    assert rows.frame(held.seen).equals(table(page).drop(columns=PICKED))
