"""Tracing: names, shapes, fixed arguments, and errors that say where and why."""

import copy
import inspect
import threading

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qlab.errors import ArgumentError, TraceError
from qlab.graph import trace


class Block(nn.Module):
    """Calls one ReLU twice, adds, scales by an optional mask."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor, mask: Tensor | None = None, gain: float = 2.0) -> Tensor:
        y = self.relu(self.conv(x))
        if mask is not None:
            y = y * mask
        return self.relu(x + y) * gain


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = Block()
        self.bias = nn.Parameter(torch.ones(3, 1, 1))
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> dict[str, Tensor | tuple[Tensor, int]]:
        y = self.drop(self.block(x)) + self.bias
        return {"map": y, "flat": (torch.flatten(y, 1), x.shape[0])}


def meta(graph_module, key):
    return {node.meta["name"]: node.meta[key] for node in graph_module.graph.nodes}


def test_the_graph_gives_the_outputs_of_the_model_in_evaluation_mode():
    model, x = Net(), torch.randn(2, 3, 5, 5)
    traced = trace(model, x)
    expected, got = model.eval()(x), traced(x)
    assert torch.equal(got["map"], expected["map"])
    assert torch.equal(got["flat"][0], expected["flat"][0])
    assert got["flat"][1] == 2


def test_the_model_stays_as_it_is():
    model = Net()
    before = copy.deepcopy(model.state_dict())
    traced = trace(model, torch.randn(2, 3, 5, 5))
    assert model.training and not traced.training
    with torch.no_grad():
        for parameter in traced.parameters():
            parameter.zero_()
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_names_are_module_paths_and_unique():
    traced = trace(Net(), torch.randn(2, 3, 5, 5))
    names = [node.meta["name"] for node in traced.graph.nodes]
    assert names[:5] == ["x", "block.conv", "block.relu", "block.add", "block.relu_1"]
    assert len(set(names)) == len(names)
    assert meta(traced, "path")["block.add"] == "block"
    assert meta(traced, "path")["block.relu_1"] == "block.relu"


def test_a_function_is_not_given_the_name_of_a_module():
    class Clash(nn.Module):
        def __init__(self):
            super().__init__()
            self.add = nn.Linear(2, 2)

        def forward(self, x):
            return (x + x) + self.add(x)

    names = list(meta(trace(Clash(), torch.randn(1, 2)), "name"))
    assert names == ["x", "add_1", "add", "add_2", "output"]


def test_shapes_elements_and_parameters_are_recorded():
    traced = trace(Net(), torch.randn(2, 3, 5, 5))
    assert meta(traced, "shape")["block.conv"] == (2, 3, 5, 5)
    assert meta(traced, "dtype")["block.conv"] == torch.float32
    assert meta(traced, "numel")["block.conv"] == 150
    assert meta(traced, "parameters")["block.conv"] == 84
    assert meta(traced, "parameters")["bias"] == 3
    assert meta(traced, "shape")["output"] == {
        "map": (2, 3, 5, 5),
        "flat": ((2, 75), None),
    }
    assert meta(traced, "shape")["getitem"] is None


def test_meta_survives_a_deepcopy():
    traced = copy.deepcopy(trace(Net(), torch.randn(2, 3, 5, 5)))
    assert meta(traced, "shape")["block.conv"] == (2, 3, 5, 5)


@pytest.mark.parametrize("form", [tuple, list, lambda xs: {"x": xs[0], "mask": xs[1]}])
def test_arguments_that_are_given_become_inputs_and_the_others_stay_at_their_default(form):
    block, x = Block(), torch.randn(1, 3, 4, 4)
    mask = torch.rand(1, 3, 4, 4)
    with_mask = trace(block, form([x, mask]))
    assert torch.equal(with_mask(x, mask), block(x, mask))
    assert [n.name for n in with_mask.graph.nodes if n.op == "placeholder"] == ["x", "mask"]
    without = trace(block, x)
    assert torch.equal(without(x), block(x))


def test_an_argument_that_is_no_tensor_is_fixed_at_the_given_value():
    block, x = Block(), torch.randn(1, 3, 4, 4)
    assert torch.equal(trace(block, (x, None, 3.0))(x), block(x, None, 3.0))


def test_variadic_arguments_become_inputs():
    class Sum(nn.Module):
        def forward(self, *terms):
            return terms[0] + terms[1]

    class Scaled(nn.Module):
        def forward(self, x, **named):
            return x * named["scale"]

    a, b = torch.randn(2, 3).unbind()
    assert torch.equal(trace(Sum(), (a, b))(a, b), a + b)
    assert torch.equal(trace(Scaled(), {"x": a, "scale": b})(a, b), a * b)


def test_without_example_inputs_the_graph_has_no_shapes():
    traced = trace(Net())
    assert "shape" not in next(iter(traced.graph.nodes)).meta
    assert traced(torch.randn(1, 3, 4, 4))["map"].shape == (1, 3, 4, 4)


def test_a_library_module_alone_is_one_layer():
    traced = trace(nn.Linear(4, 2), torch.randn(3, 4))
    assert [n.op for n in traced.graph.nodes] == ["placeholder", "call_module", "output"]


def test_named_leaves_stay_whole():
    by_class = trace(Net(), torch.randn(1, 3, 4, 4), leaves={Block})
    by_path = trace(Net(), torch.randn(1, 3, 4, 4), leaves={"block"})
    for traced in (by_class, by_path):
        targets = [n.target for n in traced.graph.nodes if n.op == "call_module"]
        assert targets == ["block", "drop", "add"]


def test_functions_of_the_library_are_recorded():
    class Functional(nn.Module):
        def forward(self, x):
            return F.relu(x).mean((1,)).view(-1)

    names = list(meta(trace(Functional(), torch.randn(2, 3)), "name"))
    assert names == ["x", "relu", "mean", "view", "output"]


class Deciding(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return x
        return -x


def test_a_decision_on_values_is_an_error_that_names_module_file_and_line():
    line = inspect.getsourcelines(Deciding.forward)[1] + 1
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(Deciding()))
    with pytest.raises(TraceError) as caught:
        trace(model, torch.randn(1, 2))
    message = str(caught.value)
    assert "module '1.0' (Deciding)" in message
    assert f"test_trace.py, line {line}: if x.sum() > 0" in message
    assert "eager workflow" in message
    assert (caught.value.module, caught.value.line) == ("1.0", line)
    assert caught.value.file is not None and caught.value.file.endswith("test_trace.py")
    assert caught.value.why == "a decision on what a tensor holds"


def test_the_line_is_the_one_that_no_way_gets_past():
    """Symbolic tracing stops at the first shape already, `torch.export` does not."""

    class Late(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = x + 1 if len(x) > 1 else x
            return y.detach().numpy() + 1

    with pytest.raises(TraceError, match=r"return y\.detach\(\)\.numpy\(\) \+ 1"):
        trace(Late(), torch.randn(2, 2))


def test_a_decision_in_the_model_itself_says_so():
    with pytest.raises(TraceError, match=r"stopped in the model itself \(Deciding\)"):
        trace(Deciding(), torch.randn(1, 2))


def test_inputs_of_a_wrong_shape_name_the_layer_that_refused_them():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())
    with pytest.raises(ArgumentError) as caught:
        trace(model, torch.randn(1, 1, 8, 8))
    message = str(caught.value)
    assert "layer '0' (Conv2d)" in message
    assert "Expected shape (N, 3, H, W). Received shape (1, 1, 8, 8) of torch.float32." in message
    assert "While executing" not in message


@pytest.mark.parametrize(
    ("layer", "x", "expected"),
    [
        (nn.Linear(4, 2), torch.randn(2, 3), r"shape \(…, 4\)"),
        (nn.BatchNorm2d(4), torch.randn(2, 3, 1, 1), r"shape \(N, 4, …\)"),
        (nn.LayerNorm((2, 4)), torch.randn(2, 3), r"shape \(…, 2, 4\)"),
        (nn.Conv1d(4, 2, 1), torch.randn(2, 3, 3), r"shape \(N, 4, L\)"),
        (nn.Embedding(3, 4), torch.randn(2), r"Embedding\) refused its input"),
    ],
)
def test_the_error_says_what_the_layer_takes(layer, x, expected):
    with pytest.raises(ArgumentError, match=expected):
        trace(nn.Sequential(layer), x)


def test_a_function_that_refuses_its_operands_is_named():
    class Product(nn.Module):
        def forward(self, x):
            return x @ x

    with pytest.raises(ArgumentError, match=r"layer 'matmul' \(call function\) refused"):
        trace(Product(), torch.randn(2, 3))


def test_inputs_that_do_not_match_the_signature():
    with pytest.raises(ArgumentError, match=r"do not fit Block\.forward: too many positional"):
        trace(Block(), (torch.randn(1),) * 5)
    with pytest.raises(ArgumentError, match="cannot be passed to the model"):
        trace(Block(), 3)


def test_models_run_and_trace_in_other_threads_meanwhile():
    """`torch.fx` replaces ``nn.Module.__call__`` for the whole process while it traces."""
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(40)))
    x = torch.randn(2, 4)
    expected = model(x)
    stop, errors, runs = threading.Event(), [], []

    def work(call):
        while not stop.is_set():
            try:
                runs.append(torch.equal(call(), expected))
            except Exception as error:
                errors.append(error)
                return

    others = [
        threading.Thread(target=work, args=(lambda: model(x),)),
        threading.Thread(target=work, args=(lambda: trace(model, x)(x),)),
    ]
    for thread in others:
        thread.start()
    graphs = [trace(model, x) for _ in range(20)]
    stop.set()
    for thread in others:
        thread.join()
    assert not errors
    assert runs and all(runs)
    assert all(len(graph.graph.nodes) == 42 for graph in graphs)


def test_models_run_in_other_threads_while_one_is_exported():
    class Sized(nn.Sequential):
        def forward(self, input):
            return super().forward(input) if len(input) > 1 else input

    model, x = Sized(*(nn.Linear(4, 4) for _ in range(10))), torch.randn(2, 4)
    expected = model(x)
    stop, errors, runs = threading.Event(), [], []

    def work():
        while not stop.is_set():
            try:
                runs.append(torch.equal(model(x), expected))
            except Exception as error:
                errors.append(error)
                return

    other = threading.Thread(target=work)
    other.start()
    graphs = [trace(model, x) for _ in range(3)]
    stop.set()
    other.join()
    assert not errors
    assert runs and all(runs)
    assert all(torch.equal(graph(x), expected) for graph in graphs)
    assert {len(graph.graph.nodes) for graph in graphs} == {14}
