"""Why integer arithmetic can or cannot do an operator, in words."""

from __future__ import annotations

import warnings

import torch
from torch import nn

from qlab.errors import ShapeError
from qlab.granularity import PerAxis, PerTensor
from qlab.graph.plan import Plan
from qlab.nn.intrinsic.fold import core
from qlab.ranges import TensorSpec
from qlab.registry import Row

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


def warn_of_impossible_pairs(plan: Plan) -> None:
    """Names the operators that stay in float because their qconfig asks what nothing can do."""
    stay = [step for step in plan.steps if step.reason == SEVERAL_SCALES]
    if stay:
        named = ", ".join(f"{step.name!r} ({step.type})" for step in stay)
        warnings.warn(
            f"prepare_fx: {named} stay in float: {SEVERAL_SCALES}. The qconfig of "
            f"{stay[0].name!r}: {stay[0].requested}",
            stacklevel=4,
        )
