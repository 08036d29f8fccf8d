"""Which tensors share a range in the graph workflows, and whose observer sees them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from qlab import presets
from qlab.graph import Plan, annotate, convert_fx, fuse, prepare_fx, prepare_qat_fx, trace
from qlab.nn.quantized import Cat
from qlab.quantization import get_default_qat_qconfig_mapping
from qlab.registry.sharing import Sharing

MAPPING = presets.get("int8-minmax").mapping()
X = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Two convolutions, and what is made of them."""

    def __init__(self, join) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.mask = nn.Parameter(9 * torch.ones(2, 4, 4, 4))
        self.join = join

    def forward(self, x: Tensor) -> Tensor:
        return self.join(self, self.a(x), self.b(x))


def plan_of(join, sharing: Sharing = Sharing.CALIBRATED) -> Plan:
    return annotate(fuse(trace(Net(join).eval(), (X,))), MAPPING, sharing=sharing)


def sources(plan: Plan) -> dict[str, str]:
    return {value.node: value.source for value in plan.values}


def test_concatenation_and_its_operands_share_the_first_ones_range():
    def join(net, a, b):
        return torch.cat([b, a], 1)

    assert sources(plan_of(join)) == {"x": "x", "a": "b", "b": "b", "cat": "b"}
    assert {v.seen_by for v in plan_of(join).values} == {"x", "b"}
    separate = plan_of(join, Sharing.SEPARATE)  # the Lab's, where each may be changed alone
    assert sources(separate) == {"x": "x", "a": "a", "b": "b", "cat": "cat"}


def test_what_keeps_the_range_of_a_tensor_before_it_is_seen_and_requantized():
    def join(net, a, b):
        return torch.cat([a, F.max_pool2d(b, 3, 1, 1)], 1)

    plan = plan_of(join)
    assert sources(plan) == {"x": "x", "a": "a", "b": "b", "max_pool2d": "b", "cat": "a"}
    assert plan.by_node["max_pool2d"].seen_by == "a"


def test_what_was_pooled_before_goes_along():
    def join(net, a, b):
        return torch.cat([a, b], 1) + torch.cat([F.max_pool2d(b, 3, 1, 1), a], 1)

    plan = plan_of(join)
    assert plan.by_node["max_pool2d"].source == "a"


def test_an_operand_that_another_concatenation_took_the_range_of_leaves_it_behind():
    def join(net, a, b):
        return torch.cat([b, a], 1) + torch.cat([net.a(a), b], 1)

    plan = plan_of(join)
    assert {node: source for node, source in sources(plan).items() if node != "x"} == {
        "a": "a", "b": "a_1", "cat": "a", "a_1": "a_1", "cat_1": "a_1", "add": "add",
    }  # fmt: skip
    assert plan.by_node["a"].seen_by == "b"


def test_a_fixed_range_stays_apart_and_a_parameter_takes_the_others():
    def fixed(net, a, b):
        return torch.cat([torch.sigmoid(a), b], 1)

    assert sources(plan_of(fixed))["sigmoid"] == "sigmoid"
    assert sources(plan_of(fixed))["cat"] == "b"

    def with_parameter(net, a, b):
        return torch.cat([net.mask, a + b], 1)

    assert sources(plan_of(with_parameter))["mask"] == "add"
    prepared = prepare_fx(Net(with_parameter).eval(), MAPPING, (X,))
    prepared(X)
    converted = convert_fx(prepared)
    assert float(converted(X).max()) == pytest.approx(9.0, abs=0.1)
    (joined,) = (module for module in converted.modules() if isinstance(module, Cat))
    assert len({float(qparams.scale) for qparams in joined.input_qparams}) == 1


def test_all_of_fixed_range_or_parameters_share_nothing():
    def join(net, a, b):
        return torch.cat([torch.sigmoid(a), torch.sigmoid(b)], 1)

    assert sources(plan_of(join))["cat"] == "cat"


def test_stacked_tensors_share_and_run_on_codes():
    def join(net, a, b):
        return torch.stack([a, b], -1)

    model = Net(join).eval()
    plan = plan_of(join)
    assert sources(plan)["stack"] == "a" and plan.step("stack").execution == "integer"
    prepared = prepare_fx(model, MAPPING, (X,))
    prepared(X)
    y = convert_fx(prepared)(X)
    assert y.shape == (2, 4, 4, 4, 2)
    torch.testing.assert_close(y, model(X), atol=0.05, rtol=0)


def test_a_list_that_the_network_computes_is_joined_in_float():
    step = plan_of(lambda net, a, b: torch.cat(a.chunk(2, 1), 1)).step("cat")
    assert step.execution == "float"
    assert "how many tensors it joins is not known" in step.reason


def test_the_same_observer_hangs_wherever_one_range_is_shared():
    def join(net, a, b):
        return F.avg_pool2d(torch.cat([a, b], 1), 2)

    prepared = prepare_fx(Net(join).eval(), MAPPING, (X,))
    behind = {
        str(node.args[0]): id(prepared.get_submodule(str(node.target)))
        for node in prepared.graph.nodes
        if "observes" in node.meta
    }
    assert len({behind[name] for name in ("a", "b", "cat", "avg_pool2d")}) == 1
    assert list(behind) == ["x", "a", "b", "cat", "avg_pool2d"]


def test_in_training_what_the_reference_does_not_know_is_rounded_on_both_sides():
    plan = plan_of(lambda net, a, b: net.b(a.flatten(1).reshape(a.shape)), Sharing.TRAINED)
    assert plan.step("flatten").execution == "float"
    assert plan.step("flatten").reason == "rounded before and behind it, as training did"
    calibrated = plan_of(lambda net, a, b: net.b(a.flatten(1).reshape(a.shape)))
    assert calibrated.step("flatten").execution == "shared"
    assert calibrated.by_node["flatten"].source == "a"


OPERANDS = st.integers(0, 9)
STEPS = st.lists(st.tuples(st.sampled_from("pjnfc"), OPERANDS, OPERANDS), max_size=7)


@settings(deadline=None, max_examples=25)
@given(STEPS, st.booleans())
def test_any_net_of_pools_and_concatenations_has_ranges_that_cover_it(steps, train):
    """However they are chained: sources are their own, and integers stay near the float network.

    In training only the former, as one step of a moving average covers little.
    """

    def join(net, a, b):
        made = [a, b]
        for what, first, second in steps:
            x, y = made[first % len(made)], made[second % len(made)]
            if what == "p":
                made.append(F.max_pool2d(x, 3, 1, 1))
            elif what == "j":
                made.append(torch.cat([x, y], 1)[:, 2:6])
            elif what == "n":
                made.append(F.hardtanh(x, -0.5, 0.5))
            elif what == "f":
                made.append(x.flatten(1).reshape(2, 4, 4, 4))
            else:
                made.append(3 * net.a(x + y))
        return torch.cat(made, 1)

    torch.manual_seed(0)
    model = Net(join)
    if train:
        prepared = prepare_qat_fx(model.train(), get_default_qat_qconfig_mapping(), (X,))
    else:
        prepared = prepare_fx(model.eval(), MAPPING, (X,))
    with torch.no_grad():
        prepared(X)
        y, wanted = convert_fx(prepared.eval())(X), model.eval()(X)
    plan = prepared.meta["plan"]
    assert all(plan.by_node[value.source].source == value.source for value in plan.values)
    assert train or float((y - wanted).square().sum() / wanted.square().sum()) < 0.02
