"""Rules of a mapping as they reach operators: fused, repeated, functions; and rules without any."""

import operator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qlab.errors import ArgumentError, DTypeError
from qlab.granularity import PerAxis
from qlab.graph import annotate, convert_fx, fuse, prepare_fx, trace
from qlab.nn import intrinsic as nni
from qlab.observers import MinMaxObserver, PlaceholderObserver
from qlab.qconfig import QConfig, QConfigMapping, get_default_qconfig_mapping, qconfig_of
from qlab.ranges import TensorSpec

A = qconfig_of(TensorSpec.uint8_activation(), TensorSpec.int8_weight())
B = qconfig_of(TensorSpec("quint4"), TensorSpec("qint4", symmetric=True))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.bn = nn.BatchNorm2d(3)
        self.relu = nn.ReLU()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn(self.conv(x)))
        z = self.fc(self.fc(y))
        return (y + z + x).tanh()


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = Block(), Block()

    def forward(self, x: Tensor) -> Tensor:
        return F.softmax(self.two(self.one(x)) + 1.0, -1)


GRAPH = fuse(trace(Net().eval(), torch.randn(1, 3, 4, 4)))


def rules(mapping: QConfigMapping) -> dict[str, str]:
    return {step.name: step.rule for step in annotate(GRAPH, mapping).steps}


def matched(mapping: QConfigMapping, rule: str) -> set[str]:
    return {name for name, found in rules(mapping).items() if found == rule}


def test_global_reaches_everything_and_no_rule_nothing():
    assert set(rules(QConfigMapping().set_global(A)).values()) == {"global"}
    steps = annotate(GRAPH, QConfigMapping()).steps
    assert {(s.rule, s.execution, s.reason) for s in steps} == {
        ("no rule", "float", "no rule asked for it")
    }


def test_a_module_name_reaches_all_inside_functions_too():
    found = matched(QConfigMapping().set_module_name("two", A), "module name 'two'")
    assert found == {name for name in rules(QConfigMapping()) if name.startswith("two.")}
    assert {"two.conv", "two.add", "two.tanh", "two.fc_1"} <= found


def test_a_function_can_be_named_alone():
    assert matched(QConfigMapping().set_module_name("one.add_1", A), "module name 'one.add_1'") == {
        "one.add_1"
    }


def test_a_module_called_twice_is_named_for_all_calls_or_for_one():
    assert matched(QConfigMapping().set_module_name("one.fc", A), "module name 'one.fc'") == {
        "one.fc",
        "one.fc_1",
    }
    both = QConfigMapping().set_module_name("one.fc", A).set_module_name("one.fc_1", B)
    assert matched(both, "module name 'one.fc_1'") == {"one.fc_1"}


def test_a_pattern_of_names():
    assert matched(QConfigMapping().set_module_name_regex(r".*\.fc$", A), r"regex '.*\\.fc$'") == {
        "one.fc",
        "one.fc_1",
        "two.fc",
        "two.fc_1",
    }


@pytest.mark.parametrize("kind", [nn.Conv2d, nni.ConvReLU2d])
def test_a_fused_module_answers_to_its_first_part_and_to_its_own_class(kind):
    mapping = QConfigMapping().set_object_type(kind, A)
    assert {n for n, r in rules(mapping).items() if r != "no rule"} == {"one.conv", "two.conv"}


def test_functions_and_methods_by_type():
    mapping = QConfigMapping().set_object_type(operator.add, A).set_object_type("tanh", B)
    found = rules(mapping)
    assert {n for n, r in found.items() if r != "no rule"} == {
        *("one.add", "one.add_1", "one.tanh", "two.add", "two.add_1", "two.tanh", "add")
    }
    assert found["one.tanh"] == "method tanh"


def test_the_class_of_the_module_around_is_stronger_than_the_function():
    mapping = QConfigMapping().set_object_type(Block, None).set_object_type(operator.add, A)
    found = rules(mapping)
    assert found["add"] == "function operator.add"
    assert found["one.add"].endswith("Block")
    assert found["one.fc"] == "no rule"


def test_the_nth_of_its_kind():
    mapping = QConfigMapping().set_module_name_object_type_order("one", nn.Linear, 1, A)
    assert matched(mapping, "number 1 of type Linear in 'one'") == {"one.fc_1"}
    mapping = QConfigMapping().set_module_name_object_type_order("", F.softmax, 0, A)
    assert {n for n, r in rules(mapping).items() if r != "no rule"} == {"softmax"}


def test_rules_that_match_nothing_are_reported():
    mapping = (
        get_default_qconfig_mapping()
        .set_module_name("three", A)
        .set_module_name_regex("on$", A)
        .set_object_type(nn.LSTM, A)
        .set_module_name_object_type_order("one", nn.Linear, 7, A)
    )
    assert annotate(GRAPH, mapping).unmatched == (
        "number 7 of type Linear in 'one'",
        "module name 'three'",
        "regex 'on$'",
        "type LSTM",
    )


def test_a_rule_that_stronger_ones_hide_does_match():
    mapping = QConfigMapping().set_object_type(nn.Linear, A)
    for name in ("one.fc", "two.fc"):
        mapping.set_module_name(name, B)
    assert annotate(GRAPH, mapping).unmatched == ()


def test_own_observers_say_what_they_ask():
    class Wide(MinMaxObserver):
        """Not registered."""

    class Foreign(nn.Module):
        """Has the reference's attributes and nothing of qlab's."""

        dtype, qscheme = "quint8", "per_tensor_affine"

        def calculate_qparams(self):
            return torch.ones(1), torch.zeros(1, dtype=torch.int32)

    for own in (Wide, Foreign):
        mapping = QConfigMapping().set_global(QConfig(own, MinMaxObserver.with_args(dtype="qint8")))
        step = annotate(GRAPH, mapping).step("one.fc")
        assert step.output == TensorSpec("quint8")
        assert step.execution == "integer"


def test_what_is_no_observer_is_named():
    mapping = QConfigMapping().set_global(QConfig(dict, MinMaxObserver))
    with pytest.raises(DTypeError, match=r"makes no observer.*<class 'dict'>"):
        annotate(GRAPH, mapping)


def test_a_dynamic_qconfig_asks_for_a_quantized_weight_and_a_float_output():
    dynamic = QConfig(PlaceholderObserver.with_args(dtype="quint8", is_dynamic=True), A.weight)
    step = annotate(GRAPH, QConfigMapping().set_global(dynamic)).step("one.fc")
    assert (step.execution, step.output) == ("dynamic", None)
    assert step.weight == A.weight().spec
    assert step.reason.startswith("dynamic qconfig")


def test_a_graph_from_elsewhere_is_refused():
    with pytest.raises(ArgumentError, match="nodes without names"):
        annotate(torch.fx.symbolic_trace(nn.Sequential(nn.Linear(2, 2))), QConfigMapping())


def inputs_of(mapping: QConfigMapping):
    plan = annotate(GRAPH, mapping)
    return plan, {value.node: value for value in plan.values if value.asked_by == "x"}


def test_a_module_name_may_be_that_of_an_input():
    mapping = QConfigMapping().set_global(A).set_module_name("x", B)
    plan, values = inputs_of(mapping)
    assert [value.spec.dtype.name for value in values.values()] == ["quint4"]
    assert plan.step("one.conv").inputs[0].dtype.name == "quint4"
    assert plan.step("one.conv").output.dtype.name == "quint8"
    assert plan.step("one.conv").rule == "global" and plan.unmatched == ()
    table = plan.to_frame().loc["one.conv"]
    assert "uint4" in table["inputs"]
    assert table["reason"].endswith(", the input as module name 'x' asks")
    other = annotate(GRAPH, QConfigMapping().set_global(A))
    assert other.step("one.conv").inputs[0].dtype.name == "quint8"
    assert [step.output for step in plan.steps] == [step.output for step in other.steps]


@pytest.mark.parametrize(
    "qconfig",
    [
        None,
        QConfig(PlaceholderObserver, MinMaxObserver),
        QConfig(PlaceholderObserver.with_args(dtype=torch.uint8, is_dynamic=True), MinMaxObserver),
        qconfig_of(TensorSpec("qint8", True, PerAxis(1)), None),
    ],
    ids=["none", "weight only", "dynamic", "per channel"],
)
def test_an_input_without_one_scale_stays_in_float_and_so_does_what_reads_it(qconfig):
    plan, values = inputs_of(QConfigMapping().set_global(A).set_module_name("x", qconfig))
    assert not values
    for name in ("one.conv", "one.add_1"):
        step = plan.step(name)
        assert (step.execution, step.output) == ("float", None)
        assert step.reason == "it reads 'x', left in float by module name 'x'"
    assert plan.step("one.fc").execution == "integer"


def test_an_operator_of_an_input_s_name_keeps_its_rule():
    class Clash(nn.Module):
        def __init__(self):
            super().__init__()
            self.x = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.x(x)

    mapping = QConfigMapping().set_global(A).set_module_name("x", B)
    plan = annotate(fuse(trace(Clash().eval(), torch.randn(2, 4))), mapping)
    assert plan.step("x").rule == "module name 'x'"
    assert {value.asked_by for value in plan.values} == {"x"}
    assert [value.spec.dtype.name for value in plan.values] == ["quint4", "quint4"]
    assert "the input as" not in plan.step("x").reason


def test_an_input_s_rule_is_calibrated_and_converted():
    x = torch.rand(4, 4)
    mapping = QConfigMapping().set_global(A).set_module_name("input", B)
    prepared = prepare_fx(nn.Sequential(nn.Linear(4, 3)).eval(), mapping, (x,))
    prepared(x)
    converted = convert_fx(prepared)
    carried = [n.meta for n in converted.graph.nodes if n.meta.get("source") == "input_1"]
    found = [meta["qparams"] for meta in carried if "qparams" in meta]
    assert [(q.quant_min, q.quant_max) for q in found] == [(0, 15)]
    assert float(found[0].scale) == pytest.approx(float(x.max()) / 15)
    assert converted(x).shape == (4, 3)
