"""Which operators of two graphs correspond, and what is said where they do not."""

import operator

import pytest
import torch
from torch import nn

from qlab.analysis.suite.matching import (
    GraphMatchingException,
    add_op_to_sets_of_related_ops,
    get_base_name_to_sets_of_related_ops,
    get_matching_subgraph_pairs,
    get_unmatchable_types_map,
)
from qlab.analysis.suite.reading import NSTracer, as_graph
from qlab.errors import DTypeError, QlabError, UnknownNameError
from qlab.graph import convert_fx, prepare_qat_fx
from qlab.nn import quantized as nnq
from qlab.quantization import MinMaxObserver, get_default_qat_qconfig_mapping
from tests.qlab.analysis.suite.forms import forms_of, net_forms
from tests.workflows.architectures import NETS


def named(pairs):
    """Start and end node of both sides, by the name of the pair."""
    return {
        name: tuple((side.start_node.name, side.end_node.name) for side in pair)
        for name, pair in pairs.items()
    }


def test_a_float_layer_goes_with_all_that_was_fused_into_it():
    forms = net_forms()
    pairs = get_matching_subgraph_pairs(as_graph(forms.model), as_graph(forms.converted))
    assert named(pairs) == {
        "base_op_conv2d_1": (("conv", "relu"), ("conv", "conv")),
        "base_op_conv2d_0": (("conv2", "conv2"), ("conv2", "conv2")),
        "base_op_add_0": (("add", "add"), ("add", "add")),
        "base_op_adaptive_avg_pool2d_0": (("pool", "pool"), ("pool", "pool")),
        "base_op_flatten_0": (("flatten", "flatten"), ("flatten", "flatten")),
        "base_op_linear_0": (("fc", "fc"), ("fc", "fc")),
    }


def test_an_observer_belongs_to_the_layer_before_it():
    forms = net_forms()
    pairs = get_matching_subgraph_pairs(as_graph(forms.prepared), as_graph(forms.model))
    assert named(pairs)["base_op_linear_0"] == (("fc", "activation_post_process_6"), ("fc", "fc"))


class Clipped(nn.Module):
    """Conv + batch norm + ReLU6: one layer in evaluation mode, two in training."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn, self.act = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU6()

    def forward(self, x):
        return self.act(self.bn(self.conv(x)))


def test_what_was_fused_in_training_decides_for_the_float_model():
    model, x = Clipped().train(), torch.randn(2, 3, 4, 4)
    prepared = prepare_qat_fx(model, get_default_qat_qconfig_mapping("onednn"), (x,))
    prepared(x)
    converted = convert_fx(prepared.eval())
    pairs = get_matching_subgraph_pairs(as_graph(model.eval()), as_graph(converted))
    assert named(pairs) == {
        "base_op_conv2d_0": (("conv", "bn"), ("conv", "conv")),
        "base_op_relu6_0": (("act", "act"), ("act", "act")),
    }
    evaluated = forms_of(model, x)
    pairs = get_matching_subgraph_pairs(as_graph(model), as_graph(evaluated.converted))
    assert named(pairs) == {"base_op_conv2d_0": (("conv", "act"), ("conv", "conv"))}


def test_sizes_and_conversions_are_passed_over():
    class Reshaped(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x):
            return self.fc(x).view(x.size(0), x.shape[1] // 2, 2)[0]

    forms = forms_of(Reshaped(), torch.randn(2, 4))
    pairs = get_matching_subgraph_pairs(as_graph(forms.model), as_graph(forms.converted))
    assert list(pairs) == ["base_op_linear_0"]
    unmatchable = get_unmatchable_types_map()
    assert operator.getitem in unmatchable["funs_unmatchable"]
    assert {nnq.Quantize, nnq.DeQuantize, nn.Identity} <= unmatchable["mods_unmatchable"]
    assert {"view", "permute", "to"} <= unmatchable["meths_unmatchable"]


def test_pairs_come_in_order_of_execution():
    make, inputs = NETS["encoder"]
    model, (x,) = make(), inputs()
    forms = forms_of(model, x)
    graph = as_graph(forms.converted)
    pairs = get_matching_subgraph_pairs(as_graph(forms.model), graph)
    order = [node.name for node in graph.graph.nodes]
    positions = [order.index(b.end_node.name) for _, b in pairs.values()]
    assert len(positions) > 15 and positions == sorted(positions)


class Sum(nn.Module):
    """A function that the registry does not know."""

    def __init__(self, function):
        super().__init__()
        self.fc, self.function = nn.Linear(4, 4), function

    def forward(self, x):
        return self.function(self.fc(x))


def test_operators_unknown_to_the_registry():
    same = as_graph(Sum(torch.erf)), as_graph(Sum(torch.erf))
    assert list(get_matching_subgraph_pairs(*same)) == ["base_op_linear_0"]
    differing = as_graph(Sum(torch.erf)), as_graph(Sum(torch.sin))
    with pytest.raises(GraphMatchingException, match=r"'erf' \(erf\).*'sin' \(sin\)"):
        get_matching_subgraph_pairs(*differing)
    related = get_base_name_to_sets_of_related_ops()
    add_op_to_sets_of_related_ops(related, torch.erf, None)
    add_op_to_sets_of_related_ops(related, torch.sin, torch.erf)
    pairs = get_matching_subgraph_pairs(*differing, related)
    assert list(pairs) == ["base_op_linear_0", "base_op_0_0"]
    with pytest.raises(UnknownNameError, match="Unknown operator"):
        add_op_to_sets_of_related_ops(related, torch.erf, torch.cos)


def test_a_caller_decides_what_is_passed_over():
    forms = net_forms()
    over = get_unmatchable_types_map()
    over["mods_unmatchable"] |= {nn.Linear, nnq.Linear}
    graphs = as_graph(forms.model), as_graph(forms.converted)
    assert "base_op_linear_0" not in get_matching_subgraph_pairs(*graphs, None, over)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (nn.Sequential(nn.Linear(4, 4)), r"'_0' \(Linear\) in the first.*nothing more"),
        (nn.Sequential(nn.Linear(4, 4), nn.Sigmoid()), r"'_1' \(Linear\).*'_1' \(Sigmoid\)"),
    ],
)
def test_models_that_do_not_correspond(other, message):
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    with pytest.raises(GraphMatchingException, match=message) as caught:
        get_matching_subgraph_pairs(as_graph(model), as_graph(other))
    assert isinstance(caught.value, QlabError)


def test_only_models_have_graphs():
    with pytest.raises(DTypeError, match="Not a model"):
        as_graph("model")


def test_the_tracer_keeps_observers_and_named_modules_whole():
    class Inner(nn.Module):
        def forward(self, x):
            return x + 1

    model = nn.Sequential(nn.Linear(2, 2), MinMaxObserver(), Inner(), Inner())
    nodes = NSTracer(["2"], []).trace(model).nodes
    assert [n.name for n in nodes if n.op == "call_module"] == ["_0", "_1", "_2"]
    nodes = NSTracer([], [Inner]).trace(model).nodes
    assert [n.name for n in nodes if n.op == "call_module"] == ["_0", "_1", "_2", "_3"]
