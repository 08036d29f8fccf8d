import pytest
import torch
from torch import nn

from qlab.errors import ArgumentError
from qlab.execution import GraphRunner, Program
from qlab.graph import fuse, trace


class Optional(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 3)

    def forward(self, x, scale=2.0):
        return self.fc(x)[:, 1:] * scale


def test_a_program_gives_what_the_graph_gives():
    x = torch.randn(4, 3)
    graph = fuse(trace(Optional().eval(), (x,)))
    with torch.no_grad():
        assert torch.equal(Program.of(graph).run((x,)), graph(x))


def test_too_few_and_too_many_inputs_are_refused():
    x = torch.randn(4, 3)
    program = Program.of(fuse(trace(nn.Linear(3, 3), (x,))))
    with pytest.raises(ArgumentError, match=r"Expected 1 inputs.*Received 0"):
        program.run(())
    with pytest.raises(ArgumentError, match=r"Expected 1 inputs.*Received 2"):
        program.run((x, x))


def test_a_layer_that_refuses_its_input_is_named():
    graph = fuse(trace(nn.Sequential(nn.Linear(3, 3)), (torch.randn(4, 3),)))
    with pytest.raises(ArgumentError, match=r"layer '0' \(Linear\) refused its input"):
        Program.of(graph).run((torch.randn(4, 5),))


def test_values_are_dropped_after_their_last_use():
    x = torch.randn(4, 3)
    graph = fuse(trace(nn.Sequential(*(nn.Linear(3, 3) for _ in "abc")), (x,)))
    seen, alive = [], []

    def observe(name, value):
        import weakref

        seen.append(weakref.ref(value))
        alive.append(sum(ref() is not None for ref in seen))

    GraphRunner(graph, [node.name for node in graph.graph.nodes]).watch((x,), observe)
    assert max(alive) <= 3


def test_what_is_watched_is_what_was_asked_for():
    x = torch.randn(4, 3)
    graph = fuse(trace(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2)), (x,)))
    names = [node.name for node in graph.graph.nodes if node.op == "call_module"]
    output, values = GraphRunner(graph, names[:1]).collect((x,))
    assert list(values) == names[:1]
    assert torch.equal(output, graph(x))
