"""Calls become modules, shapes are told apart from tensors, nothing writes in place."""

import operator

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from qlab.graph import convert_fx, prepare_fx, trace
from qlab.graph.lift import shape_nodes
from qlab.nn import functions


def types(graph_module):
    """What each module of the graph is, by the name of its node."""
    return {
        node.meta["name"]: type(graph_module.get_submodule(node.target))
        for node in graph_module.graph.nodes
        if node.op == "call_module"
    }


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 3))
        self.bias = nn.Parameter(torch.randn(4))

    def forward(self, x):
        y = F.linear(F.relu(x), self.weight, bias=self.bias)
        y = torch.sigmoid(y) * 2 + y.tanh()
        return torch.cat([y, y], dim=1).softmax(-1).flatten(1)


def test_functions_and_methods_become_modules():
    model, x = Functional(), torch.randn(2, 3)
    traced = trace(model, x)
    assert types(traced) == {
        "relu": nn.ReLU,
        "linear": nn.Linear,
        "sigmoid": nn.Sigmoid,
        "mul": functions.MulScalar,
        "tanh": nn.Tanh,
        "add": functions.Add,
        "cat": functions.Cat,
        "softmax": nn.Softmax,
    }
    torch.testing.assert_close(traced(x), model(x))


def test_what_was_called_is_kept_for_rules_by_type():
    kinds = {n.meta["name"]: n.meta["kind"] for n in trace(Functional()).graph.nodes}
    assert kinds["relu"] is F.relu
    assert kinds["add"] is operator.add
    assert kinds["tanh"] == "tanh"


def test_weights_that_moved_into_a_module_leave_no_node():
    traced = trace(Functional(), torch.randn(2, 3))
    assert not [node for node in traced.graph.nodes if node.op == "get_attr"]


def test_parameters_of_a_lifted_call_are_counted():
    nodes = {n.meta["name"]: n for n in trace(Functional(), torch.randn(2, 3)).graph.nodes}
    assert nodes["linear"].meta["parameters"] == 16


def test_sizes_are_told_apart_from_tensors():
    class Sizes(nn.Module):
        def forward(self, x):
            batch, count = x.size(0), x.shape[1]
            half = count // 2
            turned = x.T
            return x.view(batch, half, 2) + half, turned + 1.0

    model, x = Sizes(), torch.randn(3, 4)
    traced = trace(model, x)
    shapes = {node.meta["name"] for node in shape_nodes(traced)}
    assert shapes == {"size", "getattr", "getitem", "floordiv"}
    for got, expected in zip(traced(x), model(x), strict=True):
        assert torch.equal(got, expected)


def test_integer_arithmetic_stays_a_call():
    class Positions(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(9, 2)

        def forward(self, tokens):
            return self.embedding(tokens + 1)

    traced = trace(Positions(), torch.tensor([[1, 2]]))
    assert types(traced) == {"embedding": nn.Embedding}


def test_a_call_without_an_integer_form_stays_with_its_reason():
    class Difference(nn.Module):
        def forward(self, x, y):
            return x - y

    traced = trace(Difference(), (torch.randn(2), torch.randn(2)))
    node = next(n for n in traced.graph.nodes if n.op == "call_function")
    assert "only a number can be subtracted" in node.meta["refused"]


def test_a_weight_that_the_model_computes_is_no_constant():
    class Computed(nn.Module):
        def forward(self, x):
            return F.linear(x, x * 2)

    node = next(n for n in trace(Computed(), torch.randn(2, 2)).graph.nodes if n.name == "linear")
    assert "A weight that the model computes" in node.meta["refused"]


class InPlaceModule(nn.Module):
    def __init__(self):
        super().__init__()
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        y = x * 2
        z = self.relu(y)
        w = -z
        self.relu(w)
        return y + z, w


class InPlaceCalls(nn.Module):
    def forward(self, x):
        y = x * 2
        F.relu(y, inplace=True)
        y.add_(1)
        torch.sigmoid_(y)
        y += 1
        return y


@pytest.mark.parametrize("model", [InPlaceModule(), InPlaceCalls()], ids=lambda m: type(m).__name__)
def test_what_wrote_in_place_gives_the_same_and_writes_nothing(model):
    x = torch.randn(2, 3)
    traced = trace(model, x)
    torch.testing.assert_close(traced(x), model(x))
    values = {}

    class Watch(torch.fx.Interpreter):
        def run_node(self, n):
            value = super().run_node(n)
            values[n.name] = (value, torch.clone(value) if torch.is_tensor(value) else None)
            return value

    Watch(traced).run(x)
    for value, at_once in values.values():
        assert at_once is None or torch.equal(value, at_once)


def test_the_models_own_modules_still_write_in_place():
    model = InPlaceModule()
    trace(model, torch.randn(2, 3))
    assert model.relu.inplace


class Viewing(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.linear = nn.Linear(4 * 6 * 6, 2)

    def forward(self, x):
        y = self.conv(x)
        return self.linear(y.view(size=(x.size(0), -1)).view_as(y.flatten(1)))


def test_views_work_on_the_memory_layout_of_integer_kernels():
    model, x = Viewing().eval(), torch.randn(4, 3, 8, 8)
    prepared = prepare_fx(model, "int8", x)
    prepared(x)
    torch.testing.assert_close(convert_fx(prepared)(x), model(x), atol=0.05, rtol=0)


def test_a_view_as_another_dtype_stays_a_view():
    class Bits(nn.Module):
        def forward(self, x):
            return x.view(torch.int32)

    x = torch.randn(3)
    assert torch.equal(trace(Bits(), x)(x), x.view(torch.int32))
