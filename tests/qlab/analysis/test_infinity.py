"""Masks of -inf work wherever they come from; infinity and NaN that a layer makes name it."""

import math

import pytest
import torch
from torch import Tensor, nn

import qlab
from qlab.analysis.networks import batch_errors
from qlab.errors import NonFiniteError

MASK = torch.full((6, 6), -math.inf).triu(1)


class Attention(nn.Module):
    """One head, masked in one of several ways."""

    def __init__(self, how: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.how = how
        self.q, self.k, self.v, self.o = (nn.Linear(8, 8) for _ in range(4))
        self.register_buffer("mask", MASK.clone())

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        scores = self.q(x) @ self.k(x).transpose(-1, -2) / 8**0.5
        if self.how == "argument":
            scores = scores.masked_fill(self.mask < 0, -math.inf)
        else:
            scores = scores + (self.mask if mask is None else mask)
        y = self.o(torch.softmax(scores, -1) @ self.v(x))
        return y.masked_fill(x < 0, -math.inf) if self.how == "masked output" else y


def data(count: int = 3) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(4, 6, 8, generator=generator) for _ in range(count)]


def lab_of(how: str) -> qlab.Lab:
    batches = data()
    if how == "given":
        return qlab.Lab(Attention(how).eval(), (batches[0], MASK), [(x, MASK) for x in batches])
    return qlab.Lab(Attention(how).eval(), batches[0], batches)


@pytest.mark.parametrize("how", ["buffer", "given", "argument", "masked output"])
def test_a_mask_of_minus_infinity_is_left_out_and_everything_is_measured(how):
    lab = lab_of(how)
    lab.calibrate()
    report = lab.compare("int8")
    assert 25 < report.output["sqnr"] < 80  # no position that is masked leaks
    assert math.isfinite(lab.fidelity("int8").output["sqnr_float_integer"])
    table = lab.sensitivity("int8", ways=("on", "off", "estimate")).table
    assert table.notna().all().all()
    masking = [s for s in lab.plan("int8").steps if "infinity" in s.reason]
    assert all(step.execution in ("float", "shared") for step in masking)
    for step in lab.plan("int8").quantized_steps:
        assert not math.isnan(lab.what_if(step.name).output_sqnr)
        lab.causes(step.name)


def test_the_operator_behind_a_mask_stays_in_float_and_says_why():
    step = {s.name: s for s in lab_of("buffer").plan("int8").steps}
    assert "infinity" in step["add"].reason and "infinity" in step["softmax"].reason
    assert step["add"].output is None and step["q"].output is not None


class Overflows(nn.Module):
    """Finite numbers grow beyond all bounds behind a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(8, 8)
        self.register_buffer("mask", torch.zeros(8).index_fill(0, torch.tensor([5]), -math.inf))

    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(torch.relu((self.a(x) + self.mask) * 1e30 * 1e30), -1)


class Broken(nn.Module):
    """A parameter, no mask, that holds infinity."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.tensor([0.0, -math.inf]))
        self.fc = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(self.fc(x) + self.bias, -1)


@pytest.mark.parametrize(("model", "name"), [(Overflows(), "mul_1"), (Broken(), "bias")])
def test_a_mask_hides_no_infinity_that_a_layer_makes(model, name):
    lab = qlab.Lab(model.eval(), torch.randn(4, 8), [torch.randn(4, 8)])
    with pytest.raises(
        NonFiniteError, match=rf"Infinity .* first layer that produces it is '{name}'"
    ):
        lab.calibrate()


class Untraced(nn.Module):
    """Decides on what a tensor holds, so that it has no graph; then ends in some way."""

    def __init__(self, end) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.end = nn.Linear(8, 8), nn.Linear(8, 8), end

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        if y.sum() > 0:
            y = y + 1
        return self.end(self.b(y))


@pytest.mark.parametrize(
    ("end", "word"), [(torch.log, "NaN"), (lambda y: y.abs() * 1e38 * 1e38, "Infinity")]
)
def test_without_a_graph_the_layer_before_the_code_that_made_it_is_named(end, word):
    lab = qlab.Lab(Untraced(end).eval(), torch.randn(8, 8), data(2))
    assert not lab.traced
    with pytest.raises(NonFiniteError, match=rf"{word} .* code behind the layer 'b'.*batch 0"):
        lab.calibrate()
    assert lab.calibrated is None


def test_without_a_graph_a_masked_output_is_measured_where_it_is_not_masked():
    model = Untraced(lambda y: y.masked_fill(y > 0, -math.inf))
    lab = qlab.Lab(model.eval(), torch.randn(8, 8), data(2))
    assert 20 < lab.compare("int8").output["sqnr"] < 80


def test_masked_positions_count_for_nothing_and_what_quantization_brought_is_refused():
    x, y = torch.tensor([1.0, -math.inf, 2.0]), torch.tensor([1.0, -math.inf, 1.0])
    found = batch_errors({"a": x}, {"a": y})["a"]
    assert found is not None and (found.count, found.noise, found.signal) == (2, 1.0, 5.0)
    flipped = batch_errors({"a": x}, {"a": torch.tensor([-math.inf, -5.0, 2.0])})["a"]
    assert flipped is not None and (flipped.count, flipped.noise) == (1, 0.0)
    nothing = torch.full((3,), -math.inf)
    assert batch_errors({"a": nothing}, {"a": nothing}) == {"a": None}
    for bad in (math.nan, math.inf):
        with pytest.raises(NonFiniteError, match="cannot be measured on NaN or infinity"):
            batch_errors({"a": torch.ones(2)}, {"a": torch.tensor([1.0, bad])})
    with pytest.raises(NonFiniteError, match="cannot be measured"):
        batch_errors({"a": torch.tensor([1.0, math.nan])}, {"a": torch.ones(2)})
