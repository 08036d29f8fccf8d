"""The autopilot on the samples: what it tries, keeps, takes back, and leaves alone."""

import pytest
import torch
from torch import nn

import qlab
import sample_models
from qlab.algorithms import ALGORITHMS, REMEDIES, Limits, Stage, remedies, repair_search
from qlab.algorithms.remedies import chosen_remedies
from qlab.errors import ArgumentError, DTypeError, UnknownNameError, UnsupportedError

MAPPING = "int8-per-tensor"


def lab_for(name: str, images: int = 96) -> qlab.Lab:
    sample = sample_models.load(name)
    evaluation = [(x[:images], y[:images]) for x, y in sample.evaluation()[:1]]
    return qlab.Lab(sample.model, sample.example_inputs, sample.calibration(64), evaluation)


@pytest.fixture(scope="module")
def lab() -> qlab.Lab:
    return lab_for("depthwise")


def names(attempts) -> list[str]:
    return [attempt.remedy for attempt in attempts]


@pytest.fixture(scope="module")
def far(lab):
    """A target out of reach of all that is allowed."""
    return lab.repair(MAPPING, {"sqnr": 60.0}, allowed=["equalize", "bias_correction", "affine"])


def test_a_change_of_the_configuration_is_tried_before_any_algorithm(lab):
    found = lab.repair(MAPPING, 90.0)
    assert found.reached and found.complete
    assert names(found.attempts) == ["per_channel"] and found.steps == found.attempts
    assert found.model is lab.graph and found.mapping != found.asked
    assert found.after["accuracy"] >= 90 > found.before["accuracy"]
    assert found.after == lab._study.compare(found.mapping, lab._evaluation_data).output


def test_without_it_equalization_comes_to_help_and_the_log_explains(lab):
    found = lab.repair(MAPPING, 90.0, allowed=["equalize", "adaround"])
    assert found.reached
    assert names(found.steps) == ["equalize"]
    text = found.describe()
    assert "wanted: accuracy 90 %" in text and "ranges differ" in text and "kept" in text
    assert text.splitlines()[-1].startswith("Reached in")


def test_a_target_out_of_reach_gives_the_best_found(lab, far):
    assert not far.reached and far.complete
    assert far.after["sqnr"] > far.before["sqnr"] + 10
    assert "Not reached" in far.log[-1] and f"SQNR {far.after['sqnr']:.4g} dB" in far.log[-1]
    assert all(attempt.remedy in ("equalize", "bias_correction", "affine") for attempt in far.steps)
    stages = [REMEDIES[step.remedy].stage for step in far.steps]
    assert stages == sorted(stages) and Stage.BIAS in stages
    before = [step.measured[0].output["sqnr"] for step in far.steps]
    after = [step.measured[1].output["sqnr"] for step in far.steps]
    assert before[1:] == after[:-1]  # each step builds on the one before
    assert before[0] == far.before["sqnr"] and after[-1] == far.after["sqnr"]


def test_applied_each_step_is_a_run_that_can_be_undone(far):
    lab = lab_for("depthwise")
    assert len(lab.runs) == 0
    far = lab.repair(
        MAPPING, {"sqnr": 60.0}, allowed=["equalize", "bias_correction", "per_channel"]
    )
    assert len(lab.runs) == 0 and lab.repairs == ()  # nothing is applied before
    better = lab.apply(far)
    runs = list(lab.runs)
    assert [run.name for run in runs[1:]] == [step.title for step in far.steps]
    assert [run.parent for run in runs] == [None, *(run.id for run in runs[:-1])]
    assert runs[-1].metrics["sqnr"] == far.after["sqnr"]
    assert better.mapping == far.mapping and better.graph is far.model
    assert better.compare(better.mapping).output == far.after
    assert [r.algorithm for r in better.repairs] == [
        step.remedy for step in far.steps if step.remedy in ALGORITHMS
    ]
    for run in reversed(runs[:-1]):
        assert lab.runs.undo().id == run.id
    assert lab.runs.latest().mapping == qlab.presets.get(MAPPING).mapping()


def test_a_target_that_is_met_already_changes_nothing(lab):
    found = lab.repair("int8", 50.0)
    assert found.reached and found.steps == found.attempts == ()
    assert "no change" in found.log[-1] and found.before == found.after
    same = lab.apply(found)
    assert same.graph is lab.graph and same.mapping == qlab.presets.get("int8").mapping()
    assert lab.mapping == qlab.presets.get("int8").mapping() and same is not lab


@pytest.mark.parametrize("more", [1.0, 200.0])
def test_the_fewest_layers_stay_in_float(more):
    lab = lab_for("conv_bn_relu")
    mapping = qlab.presets.get("int4-weights").mapping()
    wanted = lab.compare(mapping).output["sqnr"] + more
    found = lab.repair(mapping, {"sqnr": wanted}, allowed=["keep_in_float"])
    (step,) = found.steps
    plan = lab.plan(found.mapping)
    asked = [s.name for s in lab.plan(mapping).steps if s.quantized]
    kept = [name for name in asked if not plan.step(name).quantized]
    assert kept and sorted(kept) == sorted(step.why.split(" cost ")[0].split(", "))
    assert found.reached == (more < 100)
    if found.reached and len(kept) > 1:  # one fewer does not do
        fewer = lab.plan(mapping)
        for name in step.why.split(" cost ")[0].split(", ")[:-1]:
            mapping = qlab.analysis.sensitivity.kept_in_float(mapping, fewer.step(name))
        assert lab.compare(mapping).output["sqnr"] < wanted
    if not found.reached:
        assert len(kept) <= len(asked) // 2


def test_a_size_that_must_stay_keeps_no_layer_in_float(lab):
    found = lab.repair(
        MAPPING, {"sqnr": 90.0}, allowed=["keep_in_float", "bias_correction"], keep_size=True
    )
    assert "keep_in_float" not in names(found.attempts) and not found.reached


def test_what_would_take_too_long_is_passed_over_and_said_so(lab, monkeypatch):
    monkeypatch.setattr(remedies, "estimate_seconds", lambda *_: 1e6)
    found = lab.repair("int4-weights", {"sqnr": 80.0}, allowed=["adaround"], max_seconds=1e4)
    (attempt,) = found.attempts
    assert not attempt.kept and attempt.estimate == 1e6
    assert attempt.verdict.startswith("not tried: about 1000000 s, of which") and found.complete


def test_the_time_that_was_allowed_ends_the_search(lab):
    found = lab.repair("int4-weights", {"sqnr": 80.0}, max_seconds=1e-6)
    assert found.complete and found.late and not found.reached and found.attempts == ()
    assert found.log[-1].startswith("Not reached in the time that was allowed (")
    with pytest.raises(ArgumentError, match=r"some time.*max_seconds > 0"):
        lab.repair(MAPPING, 90.0, max_seconds=0)


@pytest.mark.parametrize("after", [0, 5, 60])
def test_stopping_gives_the_best_until_then_and_leaves_the_lab_alone(lab, after):
    state = {name: t.clone() for name, t in lab.graph.state_dict().items()}
    asked = iter([False] * after)
    found = lab.repair(
        MAPPING,
        {"sqnr": 60.0},
        allowed=["equalize", "bias_correction"],
        should_stop=lambda: next(asked, True),
    )
    assert not found.complete and not found.reached
    assert "Stopped" in found.log[-1]
    assert found.base is lab.graph
    assert all(torch.equal(t, state[name]) for name, t in lab.graph.state_dict().items())
    better = lab.apply(found)
    assert better.graph is found.model
    if not found.steps:
        assert better.graph is lab.graph and found.mapping == qlab.presets.get(MAPPING).mapping()


def test_the_same_seed_gives_the_same_result(lab, far):
    again = lab.repair(MAPPING, {"sqnr": 60.0}, allowed=["equalize", "bias_correction", "affine"])
    assert names(again.steps) == names(far.steps) and again.after == far.after
    assert again.mapping == far.mapping
    for name, tensor in far.model.state_dict().items():
        assert torch.equal(tensor, again.model.state_dict()[name])


def test_the_log_says_what_the_float_model_can_do(lab):
    found = lab.repair(MAPPING, 99.99, allowed=["affine"])
    assert any("The float model itself has accuracy" in line for line in found.log)


def test_progress_is_told(lab):
    seen = []
    lab.repair(MAPPING, 90.0, on_progress=lambda *told: seen.append(told))
    assert any("looking for causes in fc" in label for _, _, label in seen)
    assert all(0 <= done <= total for done, total, _ in seen)


def test_what_cannot_be_repaired_is_refused(lab):
    with pytest.raises(UnknownNameError, match="remedy"):
        lab.repair(MAPPING, 90.0, allowed=["magic"])
    with pytest.raises(ArgumentError, match="measured here"):
        lab.repair(MAPPING, {"speed": 2.0})
    found = lab.repair(MAPPING, 10.0)
    with pytest.raises(ArgumentError, match=r"cannot be applied here.*what repair of this Lab"):
        lab_for("depthwise").apply(found)


class Branching(nn.Module):
    """Cannot become a graph."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x) if x.sum() > 0 else -self.fc(x)


def test_a_model_without_a_graph_is_refused():
    x = torch.ones(2, 4)
    with pytest.raises(UnsupportedError, match=r"Lab.repair needs the model as one graph"):
        qlab.Lab(Branching(), (x,), [x]).repair(None, 90.0)


@pytest.mark.parametrize("seconds", [0, -1.0, float("nan"), "long", True])
def test_a_time_limit_that_is_no_time_is_refused(lab, seconds):
    with pytest.raises(ArgumentError, match=r"needs some time.*max_seconds > 0"):
        lab.repair(MAPPING, 90.0, max_seconds=seconds)


def test_remedies_and_seeds_of_other_types_are_refused(lab):
    with pytest.raises(DTypeError, match=r"allowed remedies are names.*3"):
        lab.repair(MAPPING, 90.0, allowed=3)
    with pytest.raises(ArgumentError, match=r"'seed' is a whole number.*'a'"):
        lab.repair(MAPPING, 90.0, seed="a")


def test_what_is_no_choice_is_refused_by_name():
    with pytest.raises(DTypeError, match=r"keep_size is True or False.*'no'"):
        Limits(keep_size="no")  # pyright: ignore[reportArgumentType]
    with pytest.raises(DTypeError, match=r"The allowed remedies are names.*\[\[\]\]"):
        chosen_remedies([[]], False)  # pyright: ignore[reportArgumentType]


def test_the_log_says_why_nothing_was_tried(lab, monkeypatch):
    nothing = lab.repair(MAPPING, 97, allowed=[])
    assert nothing.log[1] == "No remedy was allowed." and not nothing.attempts
    monkeypatch.setattr(repair_search, "suggestions", lambda *given: [])
    unfit = lab.repair(MAPPING, 97, allowed=["smoothquant"])
    assert unfit.log[1] == "No cause that was found suggests a remedy that is allowed."


def test_the_log_says_that_data_to_train_on_was_not_used(lab):
    data = sample_models.load("depthwise").evaluation()[:2]
    found = lab.repair(MAPPING, 97, allowed=[], train_on=data)
    assert "It was not trained, though data for it was given: 'finetune' is not allowed." in (
        found.log
    )


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_training_and_the_autopilot_run_where_gradients_are_off(mode):
    sample = sample_models.load("mlp")
    data = sample.calibration(64)
    lab = qlab.Lab(sample.model, sample.example_inputs, data)
    batches = list(torch.cat(data).split(16))
    with mode():
        trained = lab.finetune("int4-weights", batches, steps=4)
        assert lab.finetune_seconds("int4-weights", batches, steps=4) > 0
        found = lab.repair("int4-weights", {"sqnr": 40}, train_on=batches, allowed=["finetune"])
    assert trained.report.complete
    assert [attempt.remedy for attempt in found.attempts] == ["finetune"]


@pytest.mark.parametrize("given", [None, 3, "equalize"])
def test_only_a_repair_is_applied(lab, given):
    with pytest.raises(DTypeError, match=r"cannot be applied.*what repair_with"):
        lab.apply(given)
