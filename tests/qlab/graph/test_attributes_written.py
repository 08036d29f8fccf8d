"""A model whose forward writes to attributes of its modules: told where answers depend on it."""

from collections import deque

import pytest
import torch
from torch import nn

import qlab
from qlab.analysis.hooked_run import HookedRun
from qlab.errors import TraceError
from qlab.graph import trace
from qlab.graph.state import State

X = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))


class Remembers(nn.Module):
    """Keeps what it saw where nobody reads it, or where its next answer depends on it."""

    def __init__(self, depends: bool, loops: bool = False):
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.depends, self.loops = nn.Linear(4, 4), depends, loops
        self.calls, self.seen, self.last = 0, [], None
        self.by_name, self.names, self.recent = {}, set(), deque(maxlen=2)

    def forward(self, x):
        self.calls += 1
        self.seen.append(self.calls)
        self.by_name["calls"] = self.calls
        self.names.add(self.calls)
        self.recent.append(self.calls)
        y = self.linear(x)
        self.last, self.new = y, 1
        if self.loops and float(x.sum()) > 1e9:
            return x
        return y * self.calls if self.depends else y


class Inside(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = Remembers(depends=True)

    def forward(self, x):
        return self.inner(x)


def test_what_nobody_reads_is_no_obstacle():
    model = Remembers(depends=False).eval()
    lab = qlab.Lab(model, X, [X])
    assert lab.traced
    assert torch.equal(lab.graph(X), model.linear(X))


@pytest.mark.parametrize(("kind", "path"), [(lambda: Remembers(True), ""), (Inside, "inner")])
def test_an_answer_that_depends_on_earlier_calls_is_told(kind, path):
    with pytest.raises(TraceError, match=r"depends on what earlier calls left.*Remembers") as info:
        trace(kind().eval(), X)
    assert info.value.module == path and "calls" in str(info.value)
    assert not qlab.Lab(kind().eval(), X, [X]).traced


def test_without_a_graph_every_run_begins_with_the_attributes_as_they_were():
    model = Remembers(depends=True, loops=True).eval()
    lab = qlab.Lab(model, X, [X, X + 1])
    assert not lab.traced
    first, again = lab.compare(), lab.compare()
    assert first.output == again.output and first.output["sqnr"] > 20
    run = lab._study.runs.run
    assert torch.equal(run((X,)), run((X,)))
    own = lab._study.model
    assert (own.calls, own.seen, own.last, own.by_name) == (0, [], None, {})
    assert not own.names and not own.recent and not hasattr(own, "new")


def test_attributes_are_put_back_and_named():
    model = Inside().eval()
    model.inner(X)
    state, kept = State(model), model.inner.last
    assert state.restored() == [] and state.attributes == []
    model(X)
    del model.inner.by_name
    state.restored()
    names = ("by_name", "calls", "last", "names", "recent", "seen")
    assert state.attributes == [f"inner.{name}" for name in names]
    inner = model.inner
    assert (inner.calls, inner.seen, inner.by_name) == (1, [1], {"calls": 1})
    assert inner.last is kept and list(inner.recent) == [1] and inner.names == {1}
    state.restored()
    assert state.attributes == []


def test_a_run_leaves_what_it_wrote_as_it_was():
    lab = qlab.Lab(Remembers(False, loops=True).eval(), X, [X])
    assert isinstance(lab._study.runs, HookedRun)
    lab._study.runs.run((X,))
    assert lab._study.model.seen == []
