"""A remedy holds whatever rule governed the layer before it."""

import operator

import pytest
import torch
from torch import nn

import qlab
from qlab.analysis.causes import Cause, SpecChange, SpecChanges
from qlab.analysis.search import Candidate
from qlab.analysis.search.candidates import Space
from qlab.dtypes import qint8, quint8
from qlab.qconfig import QConfigMapping, qconfig_of
from qlab.ranges import TensorSpec

POOR = qconfig_of(TensorSpec(quint8).with_bits(4), TensorSpec(qint8, symmetric=True).with_bits(3))
STYLES = ("global", "type", "regex", "name", "order", "order by function")


class Two(nn.Module):
    """Two linear layers that are read together."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (nn.Linear(8, 8, bias=False) for _ in range(2))
        with torch.no_grad():
            self.first.weight *= torch.logspace(-2, 0, 8)[:, None]
            self.second.weight *= 0.02

    def forward(self, x):
        x = self.first(x)
        return x + self.second(x)


def governed(style: str) -> QConfigMapping:
    match style:
        case "global":
            return QConfigMapping().set_global(POOR)
        case "type":
            made = QConfigMapping().set_object_type(nn.Linear, POOR)
            return made.set_object_type(operator.add, POOR)
        case "regex":
            return QConfigMapping().set_module_name_regex(".*", POOR)
    made = QConfigMapping().set_global(POOR)
    if style == "name":
        return made.set_module_name("first", POOR).set_module_name("second", POOR)
    for index in (0, 1):
        made.set_module_name_object_type_order("", nn.Linear, index, POOR)
    if style == "order by function":
        made.set_module_name_object_type_order("", operator.add, 0, POOR)
    return made


@pytest.fixture(scope="module")
def lab() -> qlab.Lab:
    torch.manual_seed(0)
    data = [torch.randn(32, 8) for _ in range(4)]
    return qlab.Lab(Two().eval(), data[0], data)


def changes(cause: Cause) -> tuple[SpecChange, ...]:
    remedy = cause.remedy
    if isinstance(remedy, SpecChanges):
        return remedy.changes
    return (remedy,) if isinstance(remedy, SpecChange) else ()


@pytest.mark.parametrize("style", STYLES)
def test_after_applying_a_remedy_the_layer_is_quantized_as_it_says(lab, style):
    mapping, seen = governed(style), set()
    for layer in lab.layers:
        for cause in lab.causes(layer.name, mapping):
            plan = lab.plan(cause.apply(mapping)) if cause.remedy else lab.plan(mapping)
            for change in changes(cause):
                step = plan.step(change.layer)
                got = step.requested.weight_spec, step.requested.activation_spec
                assert got[change.tensor == "activation"] == change.spec, (cause.kind, step.rule)
                seen.add((cause.kind, cause.tensor))
            assert cause.gain != 0.0 or not changes(cause)  # nothing changed gains exactly 0
    assert {"few bits", "channel spread", "uneven operands"} <= {kind for kind, _ in seen}


def test_candidates_of_a_search_hold_under_a_rule_for_a_layer_s_place(lab):
    candidate = Candidate("w8a8", TensorSpec.int8_weight(), TensorSpec(quint8))
    space = Space(
        lab._study, governed("order"), [candidate, Candidate("float", None, None)], "size"
    )
    plan = lab.plan(space.uniform(candidate))
    assert {plan.step(name).requested for name in space.layers} == {candidate.qconfig}
