import pytest
import torch
from torch import fx, nn

from qlab.errors import ArgumentError
from qlab.nn.quantizable import MultiheadAttention
from qlab.quantization.fx.custom_config import PrepareCustomConfig
from qlab.quantization.fx.utils import (
    assert_and_get_unique_device,
    collect_producer_nodes,
    create_getattr_from_value,
    get_new_attr_name_with_prefix,
    get_skipped_module_name_and_classes,
    graph_module_from_producer_nodes,
    maybe_get_next_module,
)


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.arange(4.0).reshape(2, 2))
        self.act = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        w = self.weight - 1
        return self.act(nn.functional.linear(x, torch.relu(w) + w))


def test_what_a_weight_is_computed_from_becomes_a_graph_of_its_own():
    traced = fx.symbolic_trace(Scaled())
    (linear,) = (n for n in traced.graph.nodes if n.target is nn.functional.linear)
    assert collect_producer_nodes(linear) is None
    nodes = collect_producer_nodes(linear.args[1])
    assert nodes is not None
    assert nodes[0] is linear.args[1] and nodes[-1].op == "get_attr" and len(nodes) == 4
    w = torch.arange(4.0).reshape(2, 2) - 1
    torch.testing.assert_close(graph_module_from_producer_nodes(traced, nodes)(), w.relu() + w)
    with pytest.raises(ArgumentError, match="nothing to make a graph of"):
        graph_module_from_producer_nodes(traced, [])


def test_a_value_becomes_a_buffer_of_a_new_name():
    traced = fx.symbolic_trace(Scaled())
    traced.register_buffer("act_scale_0", torch.ones(()))
    assert get_new_attr_name_with_prefix("act.scale_")(traced) == "act_scale_1"
    (output,) = (n for n in traced.graph.nodes if n.op == "output")
    with traced.graph.inserting_before(output):
        factor = create_getattr_from_value(traced, traced.graph, "act.scale_", 3.0)
        output.args = (traced.graph.call_function(torch.mul, (output.args[0], factor)),)
    traced.recompile()
    x = torch.ones(1, 2)
    torch.testing.assert_close(traced(x), Scaled()(x) * 3)
    assert traced.get_buffer("act_scale_1") == 3


def test_the_first_user_of_a_kind():
    traced = fx.symbolic_trace(Scaled())
    nodes, modules = {n.name: n for n in traced.graph.nodes}, dict(traced.named_modules())
    found = maybe_get_next_module(nodes["linear"], modules, nn.ReLU)
    assert found is nodes["act"]
    assert maybe_get_next_module(nodes["linear"], modules, nn.Conv2d) is None
    relu = maybe_get_next_module(nodes["sub"], modules, None, torch.relu)
    assert relu is nodes["relu"]


def test_the_device_of_a_module():
    assert assert_and_get_unique_device(nn.ReLU()) is None
    model = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1, device="meta"))
    assert assert_and_get_unique_device(model[0]) == torch.device("cpu")
    with pytest.raises(ArgumentError, match=r"more than one device.*Received cpu, meta"):
        assert_and_get_unique_device(model)


def test_what_tracing_keeps_whole():
    config = (
        PrepareCustomConfig()
        .set_non_traceable_module_names(["a"])
        .set_non_traceable_module_classes([nn.LSTM])
        .set_standalone_module_name("b", None, (torch.ones(1),), None, None)
        .set_standalone_module_class(nn.GRU, None, (torch.ones(1),), None, None)
        .set_float_to_observed_mapping(nn.MultiheadAttention, MultiheadAttention)
    )
    names, classes = get_skipped_module_name_and_classes(config, False)
    assert (names, classes) == (["a", "b"], [nn.LSTM, nn.GRU, nn.MultiheadAttention])
    assert get_skipped_module_name_and_classes(config, True) == (["a"], [nn.LSTM])
