"""A model whose forward writes to its own buffers: it is told where, and runs stay comparable."""

import inspect

import pytest
import torch
from torch import nn

import qlab
from qlab.analysis.hooked_run import HookedRun
from qlab.errors import TraceError
from qlab.graph import trace
from qlab.graph.state import State


class Counts(nn.Module):
    """Adds how often it was called, counted in place or anew."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        self.linear, self.in_place = nn.Linear(4, 4), in_place
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        if self.in_place:
            self.calls += 1
        else:
            self.calls = self.calls + 1
        return self.linear(x) + self.calls


class Around(nn.Module):
    """Two of them in a model that no symbolic trace gets through."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.inner = Counts(in_place)

    def forward(self, x):
        return self.inner(self.first(x) if x.shape[0] > 1 else x)


LINES = {True: "self.calls += 1", False: "self.calls = self.calls + 1"}


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize(("kind", "path"), [(Counts, ""), (Around, "inner")])
def test_the_error_names_module_file_and_line(kind, path, in_place):
    torch.manual_seed(0)
    with pytest.raises(
        TraceError, match=r"own state when it is called, in .*Counts\).*line"
    ) as info:
        trace(kind(in_place), torch.randn(2, 4))
    error = info.value
    source, start = inspect.getsourcelines(Counts)
    assert (error.module, error.file) == (path, __file__)
    assert source[error.line - start].strip() == LINES[in_place]
    assert LINES[in_place] in str(error) and error.why.endswith("calls'")


def test_without_example_inputs_the_buffer_s_module_is_named():
    with pytest.raises(TraceError, match=r"in module '0' \(Counts\)\. Received.*'0\.calls'"):
        trace(nn.Sequential(Counts(True)))


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("kind", [Counts, Around])
def test_every_run_begins_with_the_same_buffers(kind, in_place):
    torch.manual_seed(0)
    data = [torch.randn(8, 4) for _ in range(3)]
    model = kind(in_place).eval()
    lab = qlab.Lab(model, data[0], data)
    unquantized = lab.compare(qlab.QConfigMapping())
    assert unquantized.output["sqnr"] == float("inf")
    alone = lab.sensitivity(ways="on").table
    again = qlab.Lab(model, data[0], data[::-1]).sensitivity(ways="on").table
    assert alone.noise_on.to_numpy() == pytest.approx(again.noise_on.to_numpy())
    report = lab.compare()
    assert report.output["sqnr"] > 30
    assert (report.layers.sqnr_accumulated > 30).all()
    buffers = dict(model.named_buffers()), dict(lab._study.model.named_buffers())
    assert all(value.item() == 0 for one in buffers for value in one.values())


def test_a_run_that_fails_leaves_the_buffers_too():
    model = Around(True).eval()
    lab = qlab.Lab(model, torch.randn(2, 4), [torch.randn(2, 4)])
    runs = lab._study.runs

    def fail(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runs.run((torch.randn(2, 4),), fail, watch=["inner.linear"])
    assert isinstance(runs, HookedRun) and runs.model.inner.calls.item() == 0


def test_what_is_put_back_is_written_no_more():
    model = Counts(False)
    state, buffer = State(model), model.calls
    model(torch.zeros(1, 4))
    assert state.restored() == ["calls"] and state.restored() == []
    assert model.calls is buffer and buffer.item() == 0
