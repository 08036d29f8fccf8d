"""Models and data that a Lab meets and its own samples do not have."""

import numpy as np
import pytest
import torch
from torch import nn

import qlab
from qlab.analysis.study import Study
from qlab.errors import (
    ArgumentError,
    DTypeError,
    NonFiniteError,
    UnknownNameError,
    UnsupportedError,
)


def small_net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3)).eval()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_model_in_another_precision_has_every_answer(dtype: torch.dtype):
    x = torch.randn(64, 6, generator=torch.Generator().manual_seed(1))
    lab = qlab.Lab(small_net().to(dtype), (x.to(dtype),), [x.to(dtype)])
    same = qlab.Lab(small_net(), (x,), [x])
    found, expected = lab.sensitivity().table, same.sensitivity().table
    assert list(found.index) == list(expected.index)
    for column in ("sqnr_on", "sqnr_off", "sqnr_estimate"):
        assert found[column].tolist() == pytest.approx(expected[column].tolist(), abs=3)
    fidelity, float32 = lab.fidelity(), same.fidelity()
    assert fidelity.table.exact_local.min() > 0.9  # bfloat16 simulates with 8 bits of mantissa
    assert fidelity.output["sqnr_float_fake"] == pytest.approx(
        float32.output["sqnr_float_fake"], abs=3
    )
    for layer in ("0", "2"):
        assert [c.kind for c in lab.causes(layer)] == [c.kind for c in same.causes(layer)]


class _Overflows(nn.Module):
    """Its second layer gives infinity for large inputs; with a branch it has no graph."""

    def __init__(self, branch: bool) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 2)
        self.first.weight.data.abs_()
        self.second.weight.data.fill_(1e20)
        self.branch = branch

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.second(self.first(x))
        if self.branch and x.sum().item() < 0:
            x = x * 2
        return self.last(x * 1e-20)


QUESTIONS = {
    "compare": lambda lab: lab.compare(),
    "sensitivity": lambda lab: lab.sensitivity(ways=("on",)),
    "channels": lambda lab: lab.channels("last"),
    "fidelity": lambda lab: lab.fidelity(),
}


@pytest.mark.parametrize(
    ("question", "branch"),
    [(q, b) for q in QUESTIONS for b in (False, True) if not (b and q == "fidelity")],
)
def test_infinity_on_the_evaluation_data_names_the_first_layer_and_the_batch(question, branch):
    torch.manual_seed(0)
    fine = torch.rand(8, 6)
    lab = qlab.Lab(_Overflows(branch).eval(), (fine,), [fine], [fine, fine * 1e20])
    assert lab.traced is not branch
    named = r"Infinity.*layer that produces it is 'second'.*batch 1 of the evaluation data"
    with pytest.raises(NonFiniteError, match=named):
        QUESTIONS[question](lab)
    assert lab.calibrate().batches == 1


def test_infinity_in_the_evaluation_data_itself_is_told_as_such():
    fine = torch.rand(8, 6)
    lab = qlab.Lab(small_net(), (fine,), [fine], [fine / 0])
    with pytest.raises(NonFiniteError, match=r"Infinity in the data: batch 0 of the evaluation"):
        lab.compare()


LABELS = torch.tensor([2, 0, 1, 1])


@pytest.mark.parametrize("labels", [LABELS.numpy(), LABELS.tolist(), LABELS.to(torch.uint8)])
def test_labels_of_any_form_are_read(labels):
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(1))
    lab, same = (qlab.Lab(small_net(), (x,), [x], [(x, y)]) for y in (labels, LABELS))
    found = lab.compare().output
    assert found["float_accuracy"] == same.compare().output["float_accuracy"]
    assert lab.sensitivity(ways=("on",)).metric == "accuracy"


@pytest.mark.parametrize("label", [1, np.int64(1)])
def test_a_batch_of_one_may_have_a_number_as_its_label(label):
    x = torch.randn(1, 6)
    assert "accuracy" in qlab.Lab(small_net(), (x,), [x], [(x, label)]).compare().output


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda lab: lab.save(None), DTypeError, r"Lab\.save writes a file.*NoneType"),
        (lambda lab: lab.export(None), DTypeError, r"Lab\.export writes a file.*NoneType"),
        (lambda lab: lab.save("."), ArgumentError, r"No file can be written there.*a folder"),
        (lambda lab: lab.merge(3), DTypeError, r"Only a calibration can be merged.*int"),
        (lambda lab: lab.remedy(3), DTypeError, r"Only a cause has a remedy.*int"),
        (lambda lab: lab.policies("0", 3), DTypeError, r"Policies are compared.*int"),
        (lambda lab: lab.qparams("0", 3), DTypeError, r"A scale follows from a spec.*int"),
    ],
)
def test_arguments_of_the_wrong_kind_are_answered_in_words(call, error, message):
    x = torch.randn(4, 6)
    with pytest.raises(error, match=message):
        call(qlab.Lab(small_net(), (x,), [x]))


@pytest.mark.parametrize("question", ["compare", "search"])
def test_a_stop_is_heard_while_it_calibrates_first(question):
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(1))
    net = nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 3)).eval()
    lab = qlab.Lab(net, (x,), [x] * 5, [x])
    asked = {"compare": lab.compare, "search": lambda **hooks: lab.search(0.9, **hooks)}[question]
    labels = []
    found = asked(should_stop=lambda: True, on_progress=lambda *p: labels.append(p[2]))
    assert labels.count("calibrating") == lab.calibrated.batches == 1
    assert not found.complete and len(lab.runs) == 0
    assert lab.compare().complete is True


class _Branching(_Overflows):
    def __init__(self) -> None:
        super().__init__(branch=True)
        self.unused = nn.Linear(2, 2)


@pytest.mark.parametrize(
    ("name", "why"), [("unused", "never called"), ("forward", "not traced: what its forward does")]
)
def test_a_layer_that_hooks_see_nothing_of_is_listed_and_says_why(name, why):
    x = torch.rand(8, 6)
    lab = qlab.Lab(_Branching().eval(), (x,), [x])
    assert why in lab.layer(name).reason
    for ask in (lab.causes, lab.what_if, lab.channels, lab.weight):
        with pytest.raises(UnsupportedError, match=f"layer '{name}'.*{why}"):
            ask(name)


class StopsOnce:
    """Says stop the first time it is asked, and never again."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self) -> bool:
        self.asked += 1
        return self.asked == 1


@pytest.mark.parametrize(
    "ask",
    [
        lambda lab, stop: lab.compare(should_stop=stop),
        lambda lab, stop: lab.sensitivity(ways=("on",), should_stop=stop),
        lambda lab, stop: lab.fidelity(should_stop=stop),
        lambda lab, stop: lab.search(0.9, should_stop=stop),
    ],
    ids=["compare", "sensitivity", "fidelity", "search"],
)
def test_what_rests_on_a_stopped_calibration_is_not_complete(ask):
    torch.manual_seed(0)
    x = torch.randn(8, 6)
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3))
    lab = qlab.Lab(model, x, [x, x, x])
    assert not ask(lab, StopsOnce()).complete
    assert lab.calibrated is not None and lab.calibrated.batches == 1


def test_an_impossible_budget_is_refused_before_anything_is_measured():
    x, asked = torch.randn(8, 6), []
    lab = qlab.Lab(nn.Linear(6, 6), x, [x])
    with pytest.raises(ArgumentError, match="No mapping of these candidates fits the budget"):
        lab.search(1, on_progress=lambda *at: asked.append(at[2]))
    assert {label.split()[0] for label in asked} == {"calibrating", "preparing"}


def test_the_number_of_samples_is_that_of_the_first_input_that_has_an_axis():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(6, 3)

        def forward(self, scale, x):
            return self.linear(x) * scale

    inputs = (torch.tensor(2.0), torch.randn(8, 6))
    assert qlab.Lab(Scaled(), inputs, [inputs]).compare().samples == 8


@pytest.mark.parametrize("count", [0, -1, 2.5, True, None])
def test_a_number_of_points_is_a_whole_number_above_0(count):
    torch.manual_seed(0)
    x = torch.randn(8, 6)
    lab = qlab.Lab(nn.Linear(6, 6), x, [x])
    with pytest.raises(ArgumentError, match=r"count says how many\. Expected a whole number"):
        lab.search(0.9).best(count)
    if count is not None:
        with pytest.raises(ArgumentError, match=r"points says how many\. Expected a whole"):
            lab.search(0.9, points=count)


def test_a_search_refuses_what_is_no_executor_before_it_begins():
    x = torch.randn(8, 6)
    lab = qlab.Lab(nn.Linear(6, 6), x, [x])
    with pytest.raises(DTypeError, match="Not an executor"):
        lab.search(0.9, executor=3)
    assert lab.calibrated is None


class Complex(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 4)

    def forward(self, x):
        return torch.complex(self.linear(x), x[:, :4])


@pytest.mark.parametrize("question", ["compare", "sensitivity"])
def test_complex_outputs_are_refused_in_words(question):
    x = torch.randn(8, 6)
    lab = qlab.Lab(Complex().eval(), x, [x])
    with pytest.raises(UnsupportedError, match=r"output 'output' holds complex.*view_as_real"):
        getattr(lab, question)()


@pytest.mark.parametrize("wrong", [3, [3], "w8a8"])
def test_candidates_that_are_none_are_refused_by_name(wrong):
    x = torch.randn(4, 6)
    lab = qlab.Lab(nn.Linear(6, 3).eval(), x, [x])
    with pytest.raises(DTypeError, match=r"Not a candidate of a search.*qlab\.Candidate"):
        lab.search(0.5, candidates=wrong)


def test_what_is_no_sensitivity_and_no_way_is_refused_before_anything_runs():
    x = torch.randn(4, 6)
    lab = qlab.Lab(nn.Linear(6, 3).eval(), x, [x])
    with pytest.raises(DTypeError, match=r"Not an answer to go on from.*3"):
        lab.search(0.5, sensitivity=3)
    with pytest.raises(DTypeError, match=r"Not a way to measure sensitivity.*some of on, off"):
        lab.sensitivity(ways=3)
    with pytest.raises(UnknownNameError, match="Unknown way to measure sensitivity 'of'"):
        lab.sensitivity(ways="of")
    assert lab.calibrated is None
    one, several = lab.sensitivity(ways="on"), lab.sensitivity(ways=("on",))
    assert one.table.equals(several.table)


@pytest.mark.parametrize("after", [0, 2])
def test_a_search_is_stopped_while_it_prepares(after, monkeypatch):
    x = torch.randn(4, 6)
    net = nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 3)).eval()
    lab, made = qlab.Lab(net, x, [x] * 2), []
    lab.calibrate()
    sized = Study.execute
    monkeypatch.setattr(Study, "execute", lambda *a, **k: made.append(1) or sized(*a, **k))
    found = lab.search(0.9, should_stop=lambda: len(made) > after)
    assert len(made) <= after + 2  # the base twice: for its size, and for what is not decided
    assert (found.complete, len(found), found.groups) == (False, 0, ())
    assert lab.search(0.9).complete


def test_a_search_is_shown_in_a_few_words():
    x = torch.randn(4, 6)
    net = nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 3)).eval()
    shown = repr(qlab.Lab(net, x, [x]).search(0.9, points=3))
    assert "budget=" in shown and "Group(" not in shown and "Sensitivity(" not in shown


def test_a_lab_is_not_shown_twice_what_it_saw():
    x = torch.randn(4, 6)
    lab = qlab.Lab(nn.Linear(6, 3).eval(), x, [x])
    with pytest.raises(ArgumentError, match=r"counts? twice.*another Lab"):
        lab.merge(lab.calibrate())
    assert lab.calibrated.batches == 1


def test_a_budget_that_is_true_and_a_parent_that_is_no_run_are_refused():
    x = torch.randn(4, 6)
    with pytest.raises(ArgumentError, match="memory budget is a number of bytes"):
        qlab.Lab(nn.Linear(6, 3).eval(), x, [x], memory_budget=True)
    lab = qlab.Lab(nn.Linear(6, 3).eval(), x, [x])
    lab.compare()
    with pytest.raises(UnknownNameError, match="999"):
        lab.compare(parent=999)
