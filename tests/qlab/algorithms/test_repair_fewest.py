"""The last resorts of the autopilot: more bits or float for the fewest layers, and training."""

import pytest
import torch
from torch import nn

import qlab
import sample_models
from qlab.algorithms import ALGORITHMS, AutoRepair, Limits
from qlab.algorithms.remedies import TRAINING
from qlab.errors import ArgumentError
from sample_models.digits import load_digits

MAPPING = "int4-weights"


@pytest.fixture(scope="module")
def lab() -> qlab.Lab:
    sample = sample_models.load("conv_bn_relu")
    evaluation = [(x[:96], y[:96]) for x, y in sample.evaluation()[:1]]
    return qlab.Lab(sample.model, sample.example_inputs, sample.calibration(64), evaluation)


@pytest.fixture(scope="module")
def small() -> qlab.Lab:
    """Two layers, of which 4 bits hurt the first alone."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 8)).eval()
    with torch.no_grad():
        net.get_parameter("2.weight").copy_(torch.randn(8, 16).sign())  # exact in 4 bits
    x = torch.randn(512, 32) @ (torch.eye(32) + 0.3 * torch.randn(32, 32))
    return qlab.Lab(net, (x[:1],), [x[:256]], [x[256:]])


@pytest.fixture(scope="module")
def mlp() -> qlab.Lab:
    sample = sample_models.load("mlp")
    evaluation = sample.evaluation()[:1]
    return qlab.Lab(sample.model, sample.example_inputs, sample.calibration(64), evaluation)


@pytest.fixture(scope="module")
def loader() -> list[tuple[torch.Tensor, torch.Tensor]]:
    data = load_digits("train")
    return list(zip(data.images.split(64), data.labels.split(64), strict=True))


def bits(lab: qlab.Lab, mapping) -> dict[str, int]:
    steps = [step for step in lab.plan(mapping).steps if step.weight is not None]
    return {step.name: step.weight.dtype.bits for step in steps if step.weight is not None}


def test_the_fewest_layers_get_8_bits(lab):
    before = lab.compare(MAPPING).output["sqnr"]
    found = lab.repair(MAPPING, {"sqnr": before + 2}, allowed=["more_bits"])
    assert found.reached and [step.remedy for step in found.steps] == ["more_bits"]
    now, asked = bits(lab, found.mapping), bits(lab, MAPPING)
    more = [name for name, count in now.items() if count != asked[name]]
    assert more and all(now[name] == 8 and asked[name] == 4 for name in more)
    assert len(more) <= len(asked) // 2
    told = found.steps[0].why.split(" cost ")[0].split(", ")
    assert sorted(told) == sorted(more)
    assert lab.apply(found).compare(found.mapping).output == found.after


def test_more_bits_grow_the_model_and_are_not_given_where_its_size_is_to_stay(lab):
    found = lab.repair(MAPPING, {"sqnr": 90.0}, allowed=["more_bits"], keep_size=True)
    assert found.attempts == () and not found.reached


def test_where_8_bits_are_had_already_no_more_are_tried(lab):
    found = lab.repair("int8", {"sqnr": 90.0}, allowed=["more_bits"])
    assert found.attempts == () and found.mapping == qlab.presets.get("int8").mapping()


@pytest.mark.parametrize("last", ["more_bits", "keep_in_float"])
def test_rounded_weights_are_given_back_where_float_or_more_bits_do_better(small, last):
    lab = small
    rounded = lab.repair(MAPPING, {"sqnr": 90.0}, allowed=["gptq"])
    assert [step.remedy for step in rounded.steps] == ["gptq"]
    wanted = rounded.after["sqnr"] + 4
    found = lab.repair(MAPPING, {"sqnr": wanted}, allowed=["gptq", last])
    assert found.reached
    assert [step.remedy for step in found.steps] == [last]
    assert found.steps[0].replaces[0] == ALGORITHMS["gptq"].title
    assert lab.apply(found).compare(found.mapping).output == found.after


def trained(lab: qlab.Lab, loader) -> AutoRepair:
    allowed = ["bias_correction", "finetune"]
    return lab.repair(MAPPING, {"sqnr": 90.0}, allowed=allowed, train_on=loader, seed=3)


@pytest.fixture(scope="module")
def found(mlp, loader) -> AutoRepair:
    return trained(mlp, loader)


def test_training_comes_last_and_takes_the_place_of_what_corrected_roundings(mlp, found):
    assert [attempt.remedy for attempt in found.attempts] == ["bias_correction", "finetune"]
    (step,) = found.steps
    assert step.title == TRAINING.title and step.replaces == (found.attempts[0].title,)
    assert "Data to train on was given. Fine-tuning: SQNR" in found.describe()
    better = mlp.apply(found)
    assert better.compare(found.mapping).output == found.after
    assert better.repairs[-1].algorithm == "finetune" and better.before is not None


def test_nothing_is_trained_where_it_is_not_allowed(mlp, loader):
    found = mlp.repair(MAPPING, {"sqnr": 90.0}, allowed=["bias_correction"], train_on=loader)
    assert [attempt.remedy for attempt in found.attempts] == ["bias_correction"]


def test_the_same_seed_trains_to_the_same_network(mlp, loader, found):
    again = trained(mlp, loader)
    assert again.mapping == found.mapping and again.after == found.after
    state = again.model.state_dict()
    assert all(torch.equal(state[name], value) for name, value in found.model.state_dict().items())


def test_stopped_in_training_the_best_until_then_is_what_there_is(mlp, loader):
    training = False

    def note(done: int, total: int, mlpel: str) -> None:
        nonlocal training
        training = training or (mlpel.startswith("training") and done > 5)

    state = {name: value.clone() for name, value in mlp.graph.state_dict().items()}
    found = mlp.repair(
        MAPPING,
        {"sqnr": 90.0},
        allowed=["bias_correction", "finetune"],
        train_on=loader,
        on_progress=note,
        should_stop=lambda: training,
    )
    assert training and not found.complete
    assert found.attempts[-1].remedy == "finetune" and found.attempts[-1].verdict == "stopped"
    assert "finetune" not in [step.remedy for step in found.steps]
    assert all(torch.equal(value, state[name]) for name, value in mlp.graph.state_dict().items())


def test_the_log_says_that_nothing_was_trained(lab, monkeypatch):
    monkeypatch.setattr("qlab.algorithms.repair_search.suggestions", lambda *_: [])
    far = lab.repair(MAPPING, {"sqnr": 300.0}, keep_size=True)
    said = "It was not trained, since no data to train on was given."
    assert not far.reached and said in far.log
    near = lab.repair(MAPPING, 10.0)
    assert near.reached and said not in near.log


def test_training_without_data_is_refused(lab, loader):
    with pytest.raises(ArgumentError, match=r"Training is allowed, and there is no data.*train_on"):
        lab.repair(MAPPING, 99.0, allowed=["finetune"])
    with pytest.raises(ArgumentError, match=r"A loss is for training.*train_on"):
        lab.repair(MAPPING, 99.0, loss=torch.nn.functional.cross_entropy)
    assert not Limits().trains


def failing(output: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    raise RuntimeError("no such class")


@pytest.mark.parametrize(
    ("count", "loss", "said"),
    [(1, None, "two batches or more"), (2, failing, "the loss failed.*no such class")],
)
def test_data_not_to_be_trained_on_is_refused_before_the_search(mlp, loader, count, loss, said):
    seen = []
    with pytest.raises(ArgumentError, match=said):
        mlp.repair(
            MAPPING,
            {"sqnr": 90.0},
            train_on=loader[:count],
            loss=loss,
            on_progress=lambda *told: seen.append(told),
        )
    assert seen == []
