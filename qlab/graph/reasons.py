"""Why integer arithmetic can or cannot do an operator, in words."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import torch
from torch import fx, nn

from qlab import registry
from qlab.errors import ShapeError
from qlab.granularity import PerAxis, PerTensor
from qlab.graph.backend import half_static
from qlab.graph.plan import Plan, Step
from qlab.graph.requests import is_standard
from qlab.nn.intrinsic.fold import core
from qlab.nn.quantized.weighted import WeightedModule
from qlab.qconfig import QConfigMapping, Rule
from qlab.ranges import TensorSpec
from qlab.registry import Row
from qlab.registry.asked import asked_by

#: A reason that is a mistake in the qconfig, of which `prepare_fx` warns.
SEVERAL_SCALES = "an activation has one scale for the whole tensor, its qconfig asks for more"


def dtype_words(spec: TensorSpec | None) -> str:
    """The data type of a spec for people: ``"int8"``; ``"float"`` without one."""
    return "float" if spec is None else spec.dtype.name.removeprefix("q")


def why_simulated(
    row: Row | None,
    inputs: list[TensorSpec | None],
    weight: TensorSpec | None,
    output: TensorSpec | None,
) -> str:
    """Why integer arithmetic cannot do it, in words; empty if it can.

    Args:
        row: The operator; where it sums products, integers of more than 8 bits would overflow.
        inputs: How the tensors arrive.
        weight: How the weight is quantized.
        output: How the output leaves.
    """
    sums = row is not None and (row.weight or row.name == "matmul")
    channels = PerAxis(0 if row is None else row.weight_axis)
    given = [spec for spec in (*inputs, weight) if spec is not None]
    for spec in (*given, *([output] if output is not None else [])):
        if spec.dtype.is_float:
            return f"{dtype_words(spec)} codes are not integers"
    for spec in given:
        if sums and spec.dtype.bits > 8:
            return f"sums of {dtype_words(spec)} products do not fit an integer kernel"
    if weight is None or weight.granularity in (PerTensor(), channels):
        return ""
    return f"the weight's scales ({weight.granularity}) lie along the axis that is summed"


def with_real_biases(plan: Plan, graph_module: fx.GraphModule) -> Plan:
    """A plan that says of each layer why it does not hold the integer bias that was asked for.

    What only scales decide, a bias of too coarse steps, `hold_integer_bias` finds at conversion.
    """
    if not plan.integer_biases:
        return plan
    nodes = {node.name: node for node in graph_module.graph.nodes if node.op == "call_module"}
    steps = []
    for step in plan.steps:
        node = nodes.get(step.node)
        layer = None if node is None else graph_module.get_submodule(str(node.target))
        why = "" if layer is None else _why_real_bias(step, layer)
        words = f"{step.reason}; its bias stays real: {why}" if why else step.reason
        steps.append(replace(step, reason=words))
    return replace(plan, steps=tuple(steps))


def _why_real_bias(step: Step, layer: nn.Module) -> str:
    """Why a quantized layer's bias is no integer; empty where it is one, or there is none."""
    if step.weight is None or getattr(core(layer), "bias", None) is None:
        return ""
    if step.execution == "dynamic":
        return "its unit changes with the scale of each call's input"
    if step.execution == "integer":
        static: Any = next((row.static for row in registry.ROWS if row.name == step.row), None)
        if issubclass(static, WeightedModule) and static.knows_integer_bias():
            return ""
        return "integer runtimes of this operator add a real one"
    return "float arithmetic adds it"


def weight_obstacle(layer: nn.Module, spec: TensorSpec | None) -> str | None:
    """Why a layer's weight cannot be quantized so, or None."""
    if spec is None:
        return None
    weight = core(layer).weight
    assert isinstance(weight, torch.Tensor)
    try:
        spec.granularity.scale_shape(weight.shape)
    except ShapeError as error:
        return f"the weight cannot be quantized so: {error}"
    return None


def warn_of_impossible_pairs(
    caller: str, plan: Plan, mapping: QConfigMapping, *, whole: bool = True
) -> None:
    """Names, in one warning, the rules of a mapping that cannot be followed, and why.

    A rule that holds for everything, and what the default mapping says of types, meet operators of
    no integer form by their nature; so does a path or pattern of modules around them.

    Args:
        caller: Named in the warning.
        plan: What the operators get.
        mapping: What was asked for.
        whole: Whether rules that match nothing count.
    """
    rules = {str(r): r for r in mapping.rules() if r.qconfig is not None and not is_standard(r)}
    lines = [
        f"{step.name!r} ({step.type}) stays in float: {step.reason}. {step.rule} asks for "
        f"{step.requested}"
        for step in plan.steps
        if step.reason == SEVERAL_SCALES or _is_refused(step, rules.get(step.rule))
    ]
    inner = {name for step in plan.steps for name in step.fused}
    named = (r for r in mapping.rules() if r.style != "object_type" and r.key not in inner)
    missing = [str(rule) for rule in named if str(rule) in plan.unmatched]
    if whole and missing:
        lines.append(f"nothing matches {', '.join(missing)}")
    if lines:
        warnings.warn(f"{caller}: " + "; ".join(lines), stacklevel=4)


def _is_refused(step: Step, rule: Rule | None) -> bool:
    """Whether a rule that a person gave asks an operator for what it does not get."""
    if rule is None or step.execution != "float" or step.requested is None:
        return False
    asked = [asked_by(factory) for factory in step.requested]
    if not (half_static(step.requested) or any(a.spec is not None or a.dynamic for a in asked)):
        return False
    exact = rule.key in (step.name, step.address.path) or rule.style not in (
        "module_name",
        "module_name_regex",
    )
    return exact or step.row is not None
