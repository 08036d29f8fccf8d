"""A plan as people and code read it: by name, as a table, by equality."""

import pytest
import torch

from qlab.errors import UnknownNameError
from qlab.qconfig import QConfigMapping, qconfig_of
from qlab.ranges import MSE, TensorSpec
from tests.qlab.graph.test_annotate import EVERYWHERE, INT8, WEIGHT, Net, X, plan_of


def test_the_table_for_people():
    mapping = QConfigMapping().set_global(INT8).set_module_name("right", None)
    frame = plan_of(Net(), mapping, X).to_frame()
    assert list(frame.index) == ["stem", "left.0", "right", "add", "pool", "flatten", "head"]
    assert list(frame.columns) == [
        *("type", "fused", "requested", "rule", "inputs", "weight", "output"),
        *("execution", "reason"),
    ]
    left = frame.loc["left.0"]
    assert left["type"] == "Conv2d" and left["fused"] == "left.1, left.2"
    assert left["requested"] == (
        "activation uint8 affine per tensor, min-max; weight int8 symmetric per channel, min-max"
    )
    assert frame.loc["right", "requested"] == frame.loc["right", "weight"] == "float"
    assert frame.loc["add", "weight"] == ""
    assert frame.map(lambda cell: isinstance(cell, str)).all(axis=None)


def test_an_unknown_step_names_the_nearest():
    with pytest.raises(UnknownNameError, match=r"Unknown layer 'left'.*Did you mean 'left\.0'"):
        plan_of(Net(), EVERYWHERE, X).step("left")


def test_plans_of_the_same_mapping_in_another_range_policy_differ():
    other = QConfigMapping().set_global(qconfig_of(TensorSpec(policy=MSE()), WEIGHT))
    assert plan_of(Net(), EVERYWHERE, X) != plan_of(Net(), other, X)


def test_what_counts_of_an_output():
    class Clamped(torch.nn.Sequential):
        """A norm whose output only a clamp reads."""

    model = Clamped(torch.nn.GroupNorm(1, 3), torch.nn.Hardtanh(-1.0, 2.0))
    plan = plan_of(model, EVERYWHERE, X)
    values = torch.tensor([-3.0, 0.5, 7.0])
    assert plan.step("0").counting(values).tolist() == [-1.0, 0.5, 2.0]
    assert plan.step("1").counting(values) is values
    assert plan.range_node("_0") == "_1" and plan.range_node("elsewhere") == "elsewhere"
