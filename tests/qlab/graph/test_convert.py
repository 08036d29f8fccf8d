"""convert: integer modules where the plan says so, borders only where codes begin and end."""

import copy

import pytest
import torch
from torch import Tensor, nn

from qlab import ops
from qlab.dtypes import qint8
from qlab.errors import ArgumentError, UncalibratedError, UnsupportedError
from qlab.granularity import PerAxis
from qlab.graph import annotate, convert, fuse, trace
from qlab.nn import intrinsic as nni
from qlab.nn import quantized as nnq
from qlab.nn.intrinsic import quantized as nniq
from qlab.nn.quantized.weighted import WeightedModule
from qlab.qconfig import QConfigMapping, default_activation_only_qconfig, qconfig_of
from qlab.qparams import QParams, quantize
from qlab.ranges import TensorSpec
from qlab.stats import TensorStats
from tests.qlab.eager.nets import conv_net
from tests.qlab.graph.test_annotate import ACTIVATION, EVERYWHERE, INT8, WEIGHT, Known, Net, X

WIDE = QParams.per_tensor(0.5, 0, qint8)


def statistics(graph: torch.fx.GraphModule, *inputs: Tensor) -> dict[str, TensorStats]:
    """What every tensor of a float graph looks like."""
    found = {}

    class Collect(torch.fx.Interpreter):
        def run_node(self, n):
            value = super().run_node(n)
            if isinstance(value, Tensor) and value.is_floating_point():
                found[n.name] = TensorStats.of(value)
            return value

    with torch.no_grad():
        Collect(graph).run(*inputs)
    return found


def converted_of(model: nn.Module, mapping: QConfigMapping, *inputs: Tensor):
    graph = fuse(trace(model.eval(), inputs))
    plan = annotate(graph, mapping)
    with torch.no_grad():
        return graph, convert(graph, plan, plan.qparams(statistics(graph, *inputs)))


def modules_called(converted) -> dict[str, type]:
    return {
        str(node.target): type(converted.get_submodule(node.target))
        for node in converted.graph.nodes
        if node.op == "call_module"
    }


def test_integer_modules_and_one_border_each_way():
    graph, converted = converted_of(Net(), EVERYWHERE, X)
    assert modules_called(converted) == {
        "x_quantize": nnq.Quantize,
        "stem": nnq.Conv2d,
        "left.0": nniq.ConvReLU2d,
        "right": nnq.Conv2d,
        "add": nnq.Add,
        "pool": nnq.MaxPool2d,
        "flatten": nn.Flatten,
        "head": nnq.Linear,
        "head_dequantize": nnq.DeQuantize,
    }
    assert converted(X).dtype == torch.float32
    error = (converted(X) - graph(X)).square().sum() / graph(X).square().sum()
    assert error < 0.01


def test_the_float_graph_is_left_alone_and_shares_nothing():
    graph = fuse(trace(Net().eval(), X))
    state, code = copy.deepcopy(graph.state_dict()), graph.code
    mapping = QConfigMapping().set_global(INT8).set_module_name("head", None)
    plan = annotate(graph, mapping)
    converted = convert(graph, plan, plan.qparams(statistics(graph, X)))
    with torch.no_grad():
        for tensor in (*converted.parameters(), *converted.buffers()):
            tensor.zero_()
    assert graph.code == code
    for key, value in graph.state_dict().items():
        assert torch.equal(value, state[key])


def test_nodes_say_what_they_carry():
    graph, converted = converted_of(Net(), EVERYWHERE, X)
    nodes = {node.name: node for node in converted.graph.nodes}
    for node in graph.graph.nodes:
        if node.op != "output":
            assert nodes[node.name].meta["source"] == node.name
            assert nodes[node.name].meta["name"] == node.meta["name"]
    assert nodes["x_quantize"].meta["source"] == "x"
    assert "qparams" not in nodes["head_dequantize"].meta
    values = {}

    class Watch(torch.fx.Interpreter):
        def run_node(self, n):
            values[n.name] = value = super().run_node(n)
            return value

    Watch(converted).run(X)
    add = ops.dequantize(values["add"], nodes["add"].meta["qparams"])
    reference = graph.add(*(graph.get_submodule(p)(graph.stem(X)) for p in ("left.0", "right")))
    assert (add - reference).abs().max() < 0.1 * reference.abs().max()
    assert nodes["pool"].meta["qparams"] is nodes["add"].meta["qparams"]


def test_borders_stand_where_a_layer_stays_in_float():
    mapping = QConfigMapping().set_global(INT8).set_module_name("right", None)
    _, converted = converted_of(Net(), mapping, X)
    assert type(converted.right) is nn.Conv2d
    called = list(modules_called(converted))
    assert called == [
        *("x_quantize", "stem", "left.0", "stem_dequantize", "right", "right_quantize"),
        *("add", "pool", "flatten", "head", "head_dequantize"),
    ]


def test_a_float_value_is_quantized_once_for_several_readers():
    class Fork(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            y = torch.erf(x)
            return self.a(y) * self.b(y), y

    graph, converted = converted_of(Fork(), EVERYWHERE, torch.randn(3, 4))
    x = torch.randn(3, 4)
    assert sum(name.endswith("_quantize") for name in modules_called(converted)) == 1
    assert torch.equal(converted(x)[1], graph(x)[1])


def test_constants_are_stored_as_codes():
    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.shift = nn.Parameter(torch.randn(4))
            self.fc = nn.Linear(4, 4)

        def forward(self, x):
            return self.fc(x + self.shift)

    model = Shifted()
    _, converted = converted_of(model, EVERYWHERE, torch.randn(3, 4))
    codes = converted.state_dict()["shift_codes"]
    assert codes.dtype == torch.uint8
    qparams = ACTIVATION.qparams_of(model.shift.detach())
    assert torch.equal(codes, quantize(model.shift.detach(), qparams))
    assert "shift" not in dict(converted.named_parameters())


def test_a_constant_that_float_readers_need_stays_too():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.shift = nn.Parameter(torch.randn(4))

        def forward(self, x):
            return x + self.shift, torch.erf(self.shift)

    model, x = Both(), torch.randn(3, 4)
    _, converted = converted_of(model, EVERYWHERE, x)
    assert torch.equal(converted(x)[1], torch.erf(model.shift))


def test_one_module_called_twice_keeps_one_weight():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x):
            return self.fc(self.fc(x).tanh())

    x = torch.randn(8, 4)
    graph, converted = converted_of(Twice(), EVERYWHERE, x)
    first, second = converted.fc, converted.fc_1
    assert first.weight().codes.data_ptr() == second.weight().codes.data_ptr()
    assert not first.output_qparams.same_as(second.output_qparams)
    torch.testing.assert_close(converted(x), graph(x), rtol=0, atol=0.05)


def test_a_weight_alone_is_quantized():
    mapping = QConfigMapping().set_global(qconfig_of(None, WEIGHT))
    graph, converted = converted_of(Net(), mapping, X)
    assert isinstance(converted.head, nnq.Linear)
    assert converted.head.input_qparams == (None,)
    assert converted.head.output_qparams is None
    assert type(converted.add) is type(graph.add)
    torch.testing.assert_close(converted(X), graph(X), rtol=0, atol=0.1)


def test_activations_alone_are_quantized():
    mapping = QConfigMapping().set_global(default_activation_only_qconfig)
    graph, converted = converted_of(Net(), mapping, X)
    assert type(converted.get_submodule("left.0")) is nni.ConvReLU2d
    called = list(modules_called(converted))
    assert called[:4] == ["x_quantize", "x_dequantize", "stem", "stem_quantize"]
    assert torch.equal(converted.stem.weight, graph.stem.weight)
    torch.testing.assert_close(converted(X), graph(X), rtol=0, atol=0.2)


def test_fixed_ranges_come_from_the_plan():
    _, converted = converted_of(Known(), EVERYWHERE, X)
    assert converted.sigmoid.output_qparams.scale_value == 1 / 256
    assert converted.tanh.output_qparams.zero_point_value == 128


def test_weights_may_be_given():
    graph = fuse(trace(Net().eval(), X))
    plan = annotate(graph, EVERYWHERE)
    given = QParams.per_tensor(0.25, 0, WEIGHT.dtype)
    converted = convert(graph, plan, plan.qparams(statistics(graph, X)), weights={"head": given})
    assert converted.head.weight_qparams.same_as(given)
    assert not converted.stem.weight_qparams.same_as(given)


def test_a_plan_of_another_graph_is_refused():
    graph = fuse(trace(Known().eval(), X))
    other = annotate(fuse(trace(Net().eval(), X)), EVERYWHERE)
    with pytest.raises(ArgumentError, match="the plan was made for another graph"):
        convert(graph, other, {})


def test_a_missing_range_names_the_layer():
    graph = fuse(trace(Net().eval(), X))
    plan = annotate(graph, EVERYWHERE)
    found = statistics(graph, X)
    del found["add"]
    with pytest.raises(UncalibratedError, match="output of 'add' has no calibrated range"):
        plan.qparams(found)
    qparams = plan.qparams(statistics(graph, X))
    del qparams["left_0"]
    with pytest.raises(UncalibratedError, match=r"output of 'left\.0' has no calibrated range"):
        convert(graph, plan, qparams)
    found["add"] = TensorStats()
    with pytest.raises(UncalibratedError, match="output of 'add'"):
        plan.qparams(found)


def test_a_layer_that_its_module_refuses_is_named():
    graph = fuse(trace(Net().eval(), X))
    plan = annotate(graph, EVERYWHERE)
    scales = QParams(torch.ones(7), torch.zeros(7, dtype=torch.int32), qint8, PerAxis(0))
    with pytest.raises(UnsupportedError, match=r"layer 'stem' \(\w+\) cannot be converted"):
        convert(graph, plan, plan.qparams(statistics(graph, X)), weights={"stem": scales})


def test_a_layer_without_an_integer_form_stays_in_float_and_the_plan_says_why():
    norm = nn.BatchNorm2d(3, track_running_stats=False)
    _, converted = converted_of(nn.Sequential(norm), EVERYWHERE, X)
    (step,) = converted.meta["plan"].steps
    assert step.execution == "float"
    assert "running statistics" in step.reason


def test_another_width_and_float8_run():
    for activation, weight in (
        (TensorSpec("qint16", symmetric=True), TensorSpec("qint16", symmetric=True)),
        (TensorSpec("float8_e5m2"), TensorSpec("float8_e5m2")),
        (TensorSpec("quint4"), TensorSpec("qint2", symmetric=True)),
    ):
        mapping = QConfigMapping().set_global(qconfig_of(activation, weight))
        _, converted = converted_of(Net(), mapping, X)
        assert converted(X).isfinite().all()
        assert converted.stem.weight().codes.dtype == weight.dtype.storage


class Recurrent(nn.Module):
    """A tuple from an operator without integer form, read in pieces."""

    def __init__(self):
        super().__init__()
        self.lstm, self.fc = nn.LSTM(4, 6, batch_first=True), nn.Linear(6, 3)

    def forward(self, x):
        y, (h, _) = self.lstm(x)
        return self.fc(y[:, -1]) + self.fc(h[0])


def test_pieces_of_a_float_tuple_are_quantized_one_by_one():
    x = torch.randn(4, 5, 4)
    graph, converted = converted_of(Recurrent(), EVERYWHERE, x)
    plan = converted.meta["plan"]
    assert plan.step("lstm").reason == "no integer form of LSTM"
    assert plan.step("fc").execution == plan.step("add").execution == "integer"
    torch.testing.assert_close(converted(x), graph(x), rtol=0, atol=0.05)


def test_the_projections_of_the_librarys_attention_are_layers():
    class Attends(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(8, 8)
            self.attn = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x):
            y = self.fc(x)
            return self.fc(self.attn(y, y, y, need_weights=False)[0])

    x = torch.randn(2, 3, 8)
    graph, converted = converted_of(Attends(), EVERYWHERE, x)
    plan = converted.meta["plan"]
    assert plan.step("attn.in_proj").execution == "integer"
    assert plan.step("attn.out_proj").execution == "integer"
    assert plan.step("attn.scaled_dot_product_attention").execution == "float"
    torch.testing.assert_close(converted(x), graph(x), rtol=0, atol=0.1)


def test_dtypes_are_those_of_the_float_network():
    class Casts(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x):
            y = self.fc(x)
            return self.fc(y) + torch.ones(1).to(y.dtype), y.shape

    x = torch.randn(3, 4)
    graph, converted = converted_of(Casts(), EVERYWHERE, x)
    torch.testing.assert_close(converted(x)[0], graph(x)[0], rtol=0, atol=0.1)
    assert converted(x)[1] == (3, 4)


def test_arguments_by_name_reach_the_module():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x):
            return torch.flatten(input=self.fc(input=x), start_dim=0)

    x = torch.randn(3, 4)
    graph, converted = converted_of(Named(), EVERYWHERE, x)
    assert converted.meta["plan"].step("fc").inputs == (ACTIVATION,)
    torch.testing.assert_close(converted(x), graph(x), rtol=0, atol=0.05)


def test_stubs_and_functionals_of_an_eager_model_vanish():
    x = torch.randn(2, 3, 8, 8)
    graph, converted = converted_of(conv_net(), EVERYWHERE, x)
    plan = converted.meta["plan"]
    assert [step.name for step in plan.steps] == [
        *("conv1", "conv2", "add", "pool", "mean", "flatten", "fc")
    ]
    assert plan.step("add").fused == ("relu",)
    assert {step.execution for step in plan.steps} == {"integer", "shared"}
    torch.testing.assert_close(converted(x), graph(x), rtol=0, atol=0.05)


@pytest.mark.parametrize("layer", ["stem", "left.0", "add", "head"])
def test_a_graph_like_another_shares_the_modules_that_are_equal(layer):
    graph, base = converted_of(Net(), EVERYWHERE, X)
    plan = annotate(graph, EVERYWHERE.copy().set_module_name(layer, None))
    scales = plan.qparams(statistics(graph, X))
    own, like = convert(graph, plan, scales), convert(graph, plan, scales, like=base)
    assert modules_called(own) == modules_called(like)
    assert [node.format_node() for node in own.graph.nodes] == [
        node.format_node() for node in like.graph.nodes
    ]
    with torch.no_grad():
        assert torch.equal(own(X), like(X))
    before = dict(base.named_modules())
    shared = {path for path in modules_called(like) if like.get_submodule(path) is before.get(path)}
    assert {"right", "pool"} - {layer} <= shared
    assert layer not in shared


def test_a_module_with_other_scales_is_not_shared():
    graph, base = converted_of(Net(), EVERYWHERE, X)
    plan = base.meta["plan"]
    like = convert(graph, plan, plan.qparams(statistics(graph, 2 * X)), like=base)
    own = convert(graph, plan, plan.qparams(statistics(graph, 2 * X)))
    with torch.no_grad():
        assert torch.equal(like(X), own(X))
        assert not torch.equal(like(X), base(X))
    wider = convert(
        graph, plan, plan.qparams(statistics(graph, X)), weights={"right": WIDE}, like=base
    )
    assert wider.get_submodule("right") is not base.get_submodule("right")
    assert wider.get_submodule("stem") is base.get_submodule("stem")


def test_integer_biases_are_held_where_integers_are_multiplied():
    graph, real = converted_of(Net(), EVERYWHERE, X)
    whole = annotate(graph, EVERYWHERE.copy().set_integer_biases())
    scales = whole.qparams(statistics(graph, X))
    made = convert(graph, whole, scales, like=real)
    held = {
        name: module.integer_bias
        for name, module in made.named_modules()
        if isinstance(module, WeightedModule)
    }
    assert held and all(held.values())
    assert not any(getattr(module, "integer_bias", False) for module in real.modules())
    again = convert(graph, whole, scales, like=made)
    assert all(again.get_submodule(name) is made.get_submodule(name) for name in held)
