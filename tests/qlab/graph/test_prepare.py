"""prepare: an observer behind each tensor whose range is to be found, and the same outputs."""

import copy

import torch
from torch import nn

from qlab.graph import annotate, fuse, prepare, trace
from qlab.graph.prepare import without_observers
from qlab.observers import MinMaxObserver
from qlab.qconfig import QConfig, QConfigMapping
from tests.qlab.graph.test_annotate import EVERYWHERE, Known, Net, X


def prepared_net(mapping=EVERYWHERE, model=None):
    graph = fuse(trace((model or Net()).eval(), X))
    return graph, prepare(graph, annotate(graph, mapping))


def test_outputs_stay_and_observers_see_them():
    graph, prepared = prepared_net()
    with torch.no_grad():
        assert torch.equal(prepared(X), graph(X))
        stem = graph.stem(X)
    _, observers = without_observers(prepared)
    assert set(observers) == {"x", "stem", "left_0", "right", "add", "head"}
    assert torch.equal(observers["stem"].max_val, stem.max())
    assert torch.equal(observers["x"].min_val, X.min())


def test_names_are_the_references():
    _, prepared = prepared_net()
    names = [name for name, _ in prepared.named_children() if "post_process" in name]
    assert names == [f"activation_post_process_{index}" for index in range(6)]


def test_the_float_graph_is_left_alone():
    graph, prepared = prepared_net()
    code = graph.code
    prepared.stem.weight.data.zero_()
    assert graph.code == code and graph.stem.weight.abs().sum() > 0
    assert "plan" not in graph.meta


def test_fixed_ranges_are_not_observed():
    _, prepared = prepared_net(model=Known())
    assert set(without_observers(prepared)[1]) == {"x"}


def test_own_observers_are_used():
    class Own(MinMaxObserver):
        """Not registered."""

    own = QConfig(Own, MinMaxObserver.with_args(dtype="qint8"))
    _, prepared = prepared_net(QConfigMapping().set_global(own))
    _, observers = without_observers(prepared)
    assert {type(observer) for observer in observers.values()} == {Own}


def test_each_tensor_is_observed_as_its_step_asks():
    wide = QConfig(MinMaxObserver.with_args(quant_max=100), MinMaxObserver.with_args(dtype="qint8"))
    mapping = QConfigMapping().set_global(EVERYWHERE.global_qconfig).set_module_name("right", wide)
    _, observers = without_observers(prepared_net(mapping)[1])
    assert [node for node, o in observers.items() if o.quant_max == 100] == ["right"]


def test_taking_the_observers_out_gives_the_float_graph_back():
    graph, prepared = prepared_net()
    floating, _ = without_observers(prepared)
    assert floating.code == graph.code
    assert torch.equal(floating(X), graph(X))
    assert [dict(n.meta) for n in floating.graph.nodes] == [dict(n.meta) for n in graph.graph.nodes]


def test_a_copy_of_a_prepared_graph_is_on_its_own():
    _, prepared = prepared_net()
    twin = copy.deepcopy(prepared)
    twin(X)
    assert twin.meta["plan"] == prepared.meta["plan"]
    assert torch.isinf(prepared.activation_post_process_0.min_val)
    assert isinstance(twin.stem, nn.Conv2d)
