"""One layer quantized in another way."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from qlab.analysis.metrics import ErrorSums, sqnr_db
from qlab.analysis.probe import QuantizedLayer
from qlab.analysis.study import Study
from qlab.errors import ArgumentError, DTypeError, UnknownNameError, UnsupportedError
from qlab.graph import Plan
from qlab.qparams import QParams
from qlab.ranges import (
    FROM_DATA,
    QuantizationError,
    TensorSpec,
    expected_error,
)


@dataclass(frozen=True)
class WhatIf:
    """What quantizing one layer in one way costs, every other layer left in float.

    Attributes:
        name: The layer.
        weight: How its weight is quantized, or None if it has none or keeps it in float.
        activation: How its output is quantized, or None if it stays in float.
        weight_qparams: Scale and zero point of the weight.
        activation_qparams: Scale and zero point of the output.
        weight_error: Error of the weight, measured on the weight itself.
        activation_error: Error of the output tensor, computed from calibration statistics.
        output_sqnr: SQNR of the layer's output [dB], higher is better: the layer computed as it
            would be deployed, on float inputs, over a small fixed sample of the calibration data.
        samples: How many calibration samples ``output_sqnr`` was measured on: at most 32, fewer
            where activations are large (see `Study.layer_sample`).
        execution: ``"integer"`` or ``"simulated"``.
    """

    name: str
    weight: TensorSpec | None
    activation: TensorSpec | None
    weight_qparams: QParams | None
    activation_qparams: QParams | None
    weight_error: QuantizationError | None
    activation_error: QuantizationError | None
    output_sqnr: float
    samples: int
    execution: str


def what_if(
    study: Study, plan: Plan, name: str, weight: TensorSpec | None, activation: TensorSpec | None
) -> WhatIf:
    """Answers for one layer; specs not given are those of the plan. See ``Lab.what_if``."""
    probe, step = study.probe(name), plan.step(name)
    for what, spec in (("weight", weight), ("activation", activation)):
        if spec is not None and not isinstance(spec, TensorSpec):
            raise DTypeError(
                f"what_if: the {what}'s quantization has the wrong type",
                expected="a TensorSpec, or None to leave it as it is",
                received=type(spec).__name__,
            )
    if weight is not None and not probe.has_weight:
        raise ArgumentError(
            f"The layer {name!r} has no weight to quantize",
            expected="weight=None",
            received=weight.describe(),
        )
    weight, activation = weight or step.weight, activation or step.output
    weight_qparams, weight_error = study.weight_qparams(name, weight) if weight else (None, None)
    quantized = deployed(study, plan, name, (weight, activation))
    values, samples = study.layer_sample(probe)
    result = quantized.run(probe.arguments(values))
    reference, result = step.counting(values[probe.node]), step.counting(result)
    return WhatIf(
        name=name,
        weight=weight,
        activation=activation,
        weight_qparams=weight_qparams,
        activation_qparams=quantized.output,
        weight_error=weight_error,
        activation_error=quantized.output
        and expected_error(study.stats(plan.range_node(probe.node)), quantized.output),
        output_sqnr=_sqnr(reference, result),
        samples=samples,
        execution=quantized.execution,
    )


def _sqnr(reference: Tensor, value: Tensor) -> float:
    """SQNR in dB by the two sums that it needs; `ErrorSums` refuses what is not finite."""
    difference = reference - value
    signal, noise = (
        float((t * t).sum(dtype=torch.float64)) for t in (reference.float(), difference.float())
    )
    if math.isfinite(signal) and math.isfinite(noise):
        return sqnr_db(signal, noise)
    sums = ErrorSums()
    sums.update(reference, value)
    return sums.sqnr


def deployed(
    study: Study, plan: Plan, name: str, specs: tuple[TensorSpec | None, TensorSpec | None]
) -> QuantizedLayer:
    """A layer as a plan deploys it, its weight and its output quantized as ``specs`` say."""
    probe, (weight, activation) = study.probe(name), specs
    weight_qparams = study.weight_qparams(name, weight)[0] if weight else None
    output = None if activation is None else study.output_qparams(plan, probe.node, activation)
    inputs = (
        study.input_qparams(plan, probe) if output is not None else [None for _ in probe.inputs]
    )
    return probe.quantized(weight_qparams, inputs, output)


def compare_policies(
    study: Study, plan: Plan, name: str, spec: TensorSpec, kind: str
) -> dict[str, QuantizationError]:
    """Every range policy on one tensor, by the policy's label; see ``Lab.policies``."""
    if kind not in ("activation", "weight"):
        raise UnknownNameError.of("kind of tensor", kind, ["activation", "weight"])
    if not isinstance(spec, TensorSpec):
        raise DTypeError(
            "Policies are compared under one spec",
            expected="a TensorSpec",
            received=type(spec).__name__,
        )
    node, results = plan.range_node(study.probe(name).node), {}
    for policy in FROM_DATA:
        try:
            chosen = replace(spec, policy=policy)
            if kind == "weight":
                results[policy.label] = study.weight_qparams(name, chosen)[1]
            else:
                scales = study.activation_qparams(node, chosen)
                results[policy.label] = expected_error(study.stats(node), scales)
        except (ArgumentError, DTypeError, UnsupportedError):
            continue
    return results
