"""The frame that every repair runs in, with bias correction as the repair."""

import copy
import json
import math
import subprocess
import sys
from dataclasses import replace

import pandas as pd
import pytest
import torch
from torch import nn

import qlab
import sample_models
from qlab.algorithms import ALGORITHMS, RepairReport, recipe_of
from qlab.errors import ArgumentError, DTypeError, FormatError, UnknownNameError, UnsupportedError

MAPPING = "int8-per-tensor"


def lab_for(name: str, images: int = 96) -> qlab.Lab:
    """A Lab of a sample model on little data."""
    sample = sample_models.load(name)
    evaluation = [(x[:images], y[:images]) for x, y in sample.evaluation()[:1]]
    return qlab.Lab(sample.model, sample.example_inputs, sample.calibration(64), evaluation)


@pytest.fixture(scope="module")
def lab() -> qlab.Lab:
    return lab_for("depthwise")


@pytest.fixture(scope="module")
def repaired(lab):
    return lab.repair_with("bias_correction", MAPPING)


def test_a_repair_changes_nothing_until_it_is_applied(lab):
    before = {name: t.clone() for name, t in lab.graph.state_dict().items()}
    plan = lab.plan(MAPPING)
    lab.repair_with("bias_correction", MAPPING)
    assert lab.repairs == () and lab.before is None
    assert all(torch.equal(t, before[name]) for name, t in lab.graph.state_dict().items())
    assert lab.plan(MAPPING) is plan


def test_the_report_says_what_compare_measures(lab, repaired):
    better, report = lab.apply(repaired), repaired.report
    assert report.before == lab.compare(MAPPING).output
    found = better.compare(repaired.mapping)
    assert report.after == found.output
    assert report.gain("accuracy") > 20
    row = report.layers.loc["block1.dw.conv"]
    assert row.sqnr_accumulated_after == found.layers.loc["block1.dw.conv", "sqnr_accumulated"]
    assert "accuracy" in report.describe() and "64 samples" in report.describe()
    assert report.seconds > 0 and report.samples == 64


def test_the_reference_of_a_repaired_lab_stays_the_original(lab, repaired):
    better = lab.apply(repaired)
    assert better.original is lab and better.before is lab
    kept = qlab.QConfigMapping()
    report = better.compare(kept)
    assert report.output["float_accuracy"] == lab.compare(kept).output["float_accuracy"]
    assert math.isfinite(report.output["sqnr"])  # its biases are others, so it is not the original
    assert better.calibrated is lab.calibrated  # no second pass


def test_what_was_repaired_is_what_is_converted_exported_and_asked_about(lab, repaired, tmp_path):
    better = lab.apply(repaired)
    x = sample_models.load("depthwise").evaluation()[0][0][:96]
    y = sample_models.load("depthwise").evaluation()[0][1][:96]
    accuracy = 100 * (better.convert(repaired.mapping)(x).argmax(-1) == y).double().mean().item()
    assert accuracy == pytest.approx(repaired.report.after["accuracy"])
    path = better.export(tmp_path / "model.safetensors", repaired.mapping)
    assert torch.equal(qlab.load_quantized(path)(x), better.convert(repaired.mapping)(x))
    fidelity = better.fidelity(repaired.mapping).output
    assert fidelity["sqnr_float_integer"] == pytest.approx(repaired.report.after["sqnr"])
    local = better.compare(repaired.mapping).layers.sqnr_local["block4.pw.conv"]
    found = better.what_if("block4.pw.conv", mapping=MAPPING).output_sqnr
    assert found == pytest.approx(local, abs=1.0)


@pytest.mark.parametrize("lost", [{"algorithm": "finetune"}, {"asked": None}])
def test_a_script_cannot_repeat_what_its_report_does_not_remember(repaired, lost):
    with pytest.raises(UnsupportedError, match=r"cannot be repeated.*Bias correction"):
        recipe_of(replace(repaired.report, **lost))


def test_the_recipe_of_a_repair_survives_its_report_s_json(repaired):
    read = RepairReport.from_dict(json.loads(json.dumps(repaired.report.to_dict())))
    assert recipe_of(read) == recipe_of(repaired.report)
    asked = qlab.presets.get(MAPPING).mapping()
    assert recipe_of(read)["mapping"] == json.loads(asked.to_json())


def test_every_repair_is_a_run_that_can_be_undone(repaired):
    lab = lab_for("depthwise")
    repaired = lab.repair_with("bias_correction", MAPPING)
    better = lab.apply(repaired)
    first, second = lab.runs
    assert (first.subject, second.subject) == (lab.subject, better.subject)
    assert first.subject != second.subject
    assert (second.name, second.parent) == ("Bias correction", first.id)
    assert second.metrics["accuracy"] == repaired.report.after["accuracy"]
    assert lab.runs.undo() == first
    again = lab.apply(lab.repair_with("bias_correction", MAPPING))
    assert again.subject == better.subject and len(lab.runs) == 2


def test_a_saved_lab_keeps_its_repair(lab, repaired, tmp_path):
    better = lab.apply(repaired)
    path = better.save(tmp_path / "repaired.lab")
    evaluation = [(x[:96], y[:96]) for x, y in sample_models.load("depthwise").evaluation()[:1]]
    loaded = qlab.load_lab(path, evaluation=evaluation)
    assert loaded.compare(loaded.mapping).output == repaired.report.after
    assert loaded.subject == better.subject
    assert loaded.original.subject == lab.subject
    (report,) = loaded.repairs
    pd.testing.assert_frame_equal(report.layers, repaired.report.layers)
    assert report.describe() == repaired.report.describe()
    assert loaded.original.graph is not loaded.graph


def test_a_saved_repair_asks_for_the_model_that_was_repaired(lab, repaired, tmp_path):
    path = lab.apply(repaired).save(tmp_path / "repaired.lab")
    other = sample_models.load("conv_bn_relu").model
    with pytest.raises(ArgumentError, match="saved from another model"):
        qlab.load_lab(path, other)
    assert qlab.load_lab(path, sample_models.load("depthwise").model).repairs


@pytest.mark.parametrize("steps", [0, 3, 8, 11])
def test_cancelling_leaves_model_and_mapping_as_they_were(lab, steps):
    asked, mapping = iter([False] * steps), lab.plan(MAPPING)
    given = qlab.presets.get(MAPPING).mapping()
    stopped = lab.repair_with("bias_correction", given, should_stop=lambda: next(asked, True))
    assert not stopped.report.complete
    assert stopped.model is lab.graph and stopped.mapping == given
    assert set(stopped.report.refusals.values()) == {"stopped before"}
    assert "stopped" in stopped.report.describe()
    assert lab.plan(MAPPING) is mapping
    with pytest.raises(ArgumentError, match=r"cannot be applied.*stopped"):
        lab.apply(stopped)


def test_the_same_seed_gives_the_same_result(lab, repaired):
    again = lab.repair_with("bias_correction", MAPPING, seed=0)
    for name, tensor in repaired.model.state_dict().items():
        assert torch.equal(tensor, again.model.state_dict()[name])


def test_progress_counts_the_layers(lab):
    seen = []
    lab.repair_with("bias_correction", MAPPING, on_progress=lambda *told: seen.append(told))
    own = [told for told in seen if "correcting" in told[2]]
    assert [done for done, _, _ in own] == list(range(11))
    assert "correcting block1.dw.conv" in {label for _, _, label in own}


def test_only_the_named_layers_are_changed(lab):
    repaired = lab.repair_with("bias_correction", MAPPING, ["fc", "stem.conv", "pool"])
    assert list(repaired.report.layers.index) == ["stem.conv", "pool", "fc"]
    assert repaired.report.refusals == {
        "pool": "it is no linear layer or convolution but AdaptiveAvgPool2d"
    }
    own, state = lab.graph.state_dict(), repaired.model.state_dict()
    changed = {name for name, tensor in state.items() if not torch.equal(tensor, own[name])}
    assert changed == {"stem.conv.0.bias", "fc.bias"}


def test_what_does_not_exist_is_refused(lab, repaired):
    with pytest.raises(UnknownNameError, match="bias_correction"):
        lab.repair_with("bias_corection")
    with pytest.raises(UnknownNameError, match="layer"):
        lab.repair_with("bias_correction", MAPPING, ["nothing"])
    with pytest.raises(ArgumentError, match=r"no such setting.*samples.*sampels"):
        lab.repair_with("bias_correction", MAPPING, sampels=3)
    with pytest.raises(ArgumentError, match="samples of 1 or more"):
        lab.repair_with("bias_correction", MAPPING, samples=0)
    with pytest.raises(ArgumentError, match="of another model"):
        lab_for("depthwise").apply(repaired)
    with pytest.raises(FormatError, match="Not the report of a repair"):
        RepairReport.from_dict({"algorithm": "x"})


class Branching(nn.Module):
    """Cannot become a graph."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x) if x.sum() > 0 else -self.fc(x)


def test_a_model_without_a_graph_is_refused():
    x = torch.ones(2, 4)
    with pytest.raises(UnsupportedError, match="Bias correction needs the model as one graph"):
        qlab.Lab(Branching(), (x,), [x]).repair_with("bias_correction")


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_estimates_its_time_and_cites_a_paper(lab, name):
    row = ALGORITHMS[name]
    assert row.name == name and "20" in row.paper and row.about
    few = lab.repair_seconds(name, MAPPING, ["fc"])
    assert 0 < few < math.inf


def test_a_repaired_lab_is_repaired_again(lab, repaired):
    better = lab.apply(repaired)
    best = better.apply(better.repair_with("bias_correction", MAPPING, samples=32))
    assert [report.samples for report in best.repairs] == [64, 32]
    assert best.original is lab
    assert copy.copy(best.before) is not best and best.before is better


def test_what_was_calibrated_to_measure_a_repair_is_not_calibrated_again():
    lab = lab_for("depthwise")
    found = lab.repair_with("equalize", MAPPING)
    better = lab.apply(found)
    assert found.reference is not None and better.calibrated is found.calibration
    lab.add_data(sample_models.load("depthwise").calibration(64))
    later = lab.apply(found)  # it has not seen all the data that there is
    assert later.calibrated is None and later.calibrate().samples == 128


EVERY_SETTING = [
    (row.name, name, bad)
    for row in ALGORITHMS.values()
    for name in row.settings.__dataclass_fields__
    for bad in ("four", math.nan, math.inf, [None], -1)
    if (row.settings.__dataclass_fields__[name].type, bad) != ("str", "four")
]


@pytest.mark.parametrize(("algorithm", "name", "bad"), EVERY_SETTING)
def test_no_setting_takes_what_it_cannot_be(algorithm, name, bad):
    with pytest.raises(ArgumentError):
        ALGORITHMS[algorithm].settings_from({name: bad})


@pytest.mark.parametrize(
    ("algorithm", "chosen", "match"),
    [
        ("adaround", {"steps": 1.5}, r"'steps' is a whole number.*1\.5"),
        ("adaround", {"steps": True}, "'steps' is a whole number.*True"),
        ("gptq", {"damping": None}, "'damping' is a finite number.*None"),
        ("gptq", {"clip": 1}, "'clip' is True or False.*1"),
        ("split", {"shares": 0.1}, r"'shares' is a sequence of finite numbers.*0\.1"),
        ("equalize", {"relu6": None}, "'relu6' is a word.*None"),
        ("smoothquant", {"strength": "much"}, "'strength' is a finite number, or None.*'much'"),
        ("awq", {"seed": -1}, "'seed' is 0 or more.*-1"),
    ],
)
def test_a_setting_of_another_type_is_refused_and_named(lab, algorithm, chosen, match):
    with pytest.raises(ArgumentError, match=match):
        lab.repair_with(algorithm, MAPPING, **chosen)


def test_one_layer_may_be_given_by_its_name(lab):
    one, several = (lab.repair_with("bias_correction", MAPPING, given) for given in ("fc", ["fc"]))
    assert list(one.report.layers.index) == ["fc"]
    assert one.report.after == several.report.after


def test_where_there_is_nothing_to_repair_the_report_says_why(lab):
    report = lab.repair_with("bias_correction", qlab.QConfigMapping()).report
    assert report.notes == (
        "No layer has a quantized weight; stem.conv: no rule asked for it; block1.dw.conv: no rule "
        "asked for it; block1.pw.conv: no rule asked for it.",
    )
    assert report.notes[0] in report.describe()
    assert lab.repair_with("bias_correction", MAPPING, []).report.notes == ("No layer was named.",)


@pytest.mark.parametrize("layers", [None, ["fc", "pool"]])
def test_keeping_layers_in_float_where_all_are_says_so(lab, layers):
    report = lab.repair_with("keep_in_float", qlab.QConfigMapping(), layers).report
    assert report.refusals == dict.fromkeys(layers or (), "it is not quantized")


@pytest.mark.parametrize("algorithm", ["equalize", "bias_correction", "gptq", "awq", "ranges"])
def test_a_repair_that_is_stopped_midway_leaves_every_bit_as_it_was(algorithm):
    lab = lab_for("conv_bn_relu", 16)
    before = {name: t.clone() for name, t in lab.graph.state_dict().items()}
    asked = []
    lab.repair_with(algorithm, "int4-weights")
    lab.repair_with(algorithm, "int4-weights", should_stop=lambda: bool(asked.append(None)))
    for share in (0.2, 0.5):
        left = iter([False] * int(share * len(asked)))
        stopped = lab.repair_with(
            algorithm, "int4-weights", should_stop=lambda left=left: next(left, True)
        )
        assert not stopped.report.complete and stopped.model is lab.graph
        assert stopped.mapping == qlab.presets.get("int4-weights").mapping()
        after = lab.graph.state_dict()
        assert after.keys() == before.keys()
        assert all(torch.equal(tensor, before[name]) for name, tensor in after.items())


_SAME = """
import hashlib, torch
from tests.qlab.algorithms.test_frame import lab_for
torch.set_num_threads(1)
lab, made = lab_for("conv_bn_relu", 16), hashlib.sha256()
for name, settings in (("adaround", {"steps": 10}), ("awq", {}), ("gptq", {}), ("ranges", {})):
    model = lab.repair_with(name, "int4-weights", seed=5, **settings).model
    for value in model.state_dict().values():
        made.update(value.numpy().tobytes())
print(made.hexdigest())
"""


def test_the_same_seed_gives_the_same_bits_in_another_process():
    runs = [
        subprocess.run([sys.executable, "-c", _SAME], capture_output=True, text=True, check=True)
        for _ in range(2)
    ]
    first, second = (run.stdout.strip() for run in runs)
    assert len(first) == 64 and first == second


def test_layers_may_come_from_a_generator(lab):
    names = [step.name for step in lab.plan(MAPPING).steps if step.weight is not None]
    report = lab.repair_with("bias_correction", MAPPING, (name for name in names)).report
    assert list(report.layers.index) == names


@pytest.mark.parametrize("layers", [5, [5], [None]])
def test_layers_that_are_no_names_are_refused(lab, layers):
    with pytest.raises(DTypeError, match="layers is a list of names"):
        lab.repair_with("bias_correction", MAPPING, layers)


@pytest.mark.parametrize("hook", ["on_progress", "should_stop"])
def test_hooks_that_cannot_be_called_are_refused(lab, hook):
    with pytest.raises(DTypeError, match=f"{hook} cannot be called.*5"):
        lab.repair_with("bias_correction", MAPPING, **{hook: 5})


@pytest.mark.parametrize("recipes", [5, [None], [{}], "ab"])
def test_what_is_no_recipe_is_not_repeated(lab, recipes):
    with pytest.raises(FormatError, match=r"Not the recipe of a repair.*repair_recipes"):
        lab.repeat_repairs(recipes)


FAST = {
    "adaround": {"steps": 5, "samples": 16},
    "awq": {"samples": 16, "tries": 2, "rows": 64},
    "gptq": {"samples": 16},
    "ranges": {"samples": 16},
    "smoothquant": {"samples": 16, "tries": 2, "rows": 64},
    "split": {"samples": 16},
}
SAMPLES = (("depthwise", MAPPING), ("residual", MAPPING), ("mlp", "int4-weights"))


@pytest.fixture(scope="module")
def labs():
    return {name: lab_for(name, 16) for name in ("depthwise", "residual", "mlp", "vit")}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(("name", "mapping"), [*SAMPLES, ("vit", "int4-weights")])
def test_every_layer_whose_parameters_changed_is_said_to_have_changed(
    labs, name, mapping, algorithm
):
    lab = labs[name]
    repaired = lab.repair_with(algorithm, mapping, **FAST.get(algorithm, {}))
    table, before = repaired.report.layers, dict(lab.graph.named_parameters())
    paths = {node.meta.get("name"): f"{node.target}." for node in lab.graph.graph.nodes}
    said = tuple(paths[layer] for layer in table.index[table.changed])
    told = tuple(paths[layer] for layer in table.index)
    for path, after in repaired.model.named_parameters():
        if path.startswith(told) and not torch.equal(after, before.get(path, torch.empty(0))):
            assert path.startswith(said), f"{path} changed"


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("algorithm", ["adaround", "equalize", "gptq"])
def test_repairs_run_where_gradients_are_off(labs, algorithm, mode):
    chosen = FAST.get(algorithm, {})
    with mode():
        inside = labs["mlp"].repair_with(algorithm, "int4-weights", **chosen)
    outside = labs["mlp"].repair_with(algorithm, "int4-weights", **chosen)
    assert inside.report.after == outside.report.after
    assert not any(value.is_inference() for value in inside.model.state_dict().values())
