"""Why a layer loses precision: gathers what is known of it, and measures what remedies gain."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from qlab import ops, registry
from qlab.analysis.batches import Batches
from qlab.analysis.cause_finders import find_causes
from qlab.analysis.causes import Cause, Evidence, Operand, Quantized, Source
from qlab.analysis.data_causes import MORE_DATA, REMOVE_LABEL
from qlab.analysis.metrics import ErrorSums
from qlab.analysis.study import Study
from qlab.analysis.unseen import unseen_errors
from qlab.analysis.what_if import deployed, what_if
from qlab.errors import DTypeError, MissingDataError
from qlab.graph import Plan
from qlab.graph.plan import Step
from qlab.qconfig import QConfig, QConfigMapping
from qlab.ranges import Fixed

_MEASURED = ("integer", "simulated")
_WHOLE_DATA = ("non-stationary batches",)  # a sample of the first batch cannot show these
_UNSEEN_DATA = ("too few samples",)  # nor can the samples that the range was fitted to show these


def causes_of(
    study: Study, mapping: QConfigMapping, name: str, evaluation: Batches | None = None
) -> tuple[Cause, ...]:
    """Every cause of a layer's error: what gains most first, what gains nothing last.

    Causes without a remedy in the configuration stand between the two. A gain is measured on the
    layer alone, as it is deployed, fed the float network's values on a small fixed sample; where
    batches differ, on some samples of each; where they are too few, on samples that the range was
    not fitted to: of ``evaluation``, else half of the batches judge the range of the others.
    """
    study.probe(name)  # says why where nothing is known of it
    found = [
        _with_gain(study, mapping, cause, evaluation) for cause in _unmeasured(study, mapping, name)
    ]
    return tuple(sorted(found, key=_rank))


def remedied(study: Study, mapping: QConfigMapping, cause: Cause) -> QConfigMapping:
    """The configuration with a cause's remedy in every layer that has the same cause.

    Raises:
        UnsupportedError: No configuration avoids this cause; says what would.
    """
    if not isinstance(cause, Cause):
        raise DTypeError(
            "Only a cause has a remedy", expected="one of Lab.causes", received=type(cause).__name__
        )
    changed = cause.apply(mapping)
    for step in study.plan(mapping).steps:
        for twin in _unmeasured(study, mapping, step.name):
            if (twin.kind, twin.tensor) == (cause.kind, cause.tensor) and twin.remedy is not None:
                changed = twin.apply(changed)
    return changed


def _unmeasured(study: Study, mapping: QConfigMapping, name: str) -> Iterator[Cause]:
    plan = study.plan(mapping)
    step = plan.step(name)
    if step.quantized and step.execution in _MEASURED and step.requested is not None:
        yield from find_causes(_evidence(study, plan, step, step.requested))


def _rank(cause: Cause) -> tuple[int, float]:
    if cause.gain is None:
        return 1, 0.0
    return (0 if cause.gain > 0 else 2), -cause.gain


def _evidence(study: Study, plan: Plan, step: Step, found: QConfig) -> Evidence:
    probe = study.probe(step.name)
    sources = tuple(_sources(study, plan, step))
    error = _output_error(study, plan, step)
    joined = step.row in ("add", "add_relu", "cat", "stack")
    return Evidence(
        address=step.address,
        row=str(step.row),
        found=found,
        tensors=tuple(_tensors(study, plan, step)),
        operands=tuple(_operand(study, node) for node in probe.inputs) if joined else (),
        sources=sources,
        input_share=_input_share(study, plan, step, error) if sources else None,
        shift_share=None if step.weight is None else _shift_share(study, step, error),
    )


def _tensors(study: Study, plan: Plan, step: Step) -> Iterator[Quantized]:
    probe, now = study.probe(step.name), what_if(study, plan, step.name, None, None)
    row = registry.row_for_module(type(probe.module))
    axis = row.weight_axis if row is not None else 0
    size = probe.weight().numel() // max(probe.weight().shape[axis], 1) if probe.has_weight else 0
    if now.weight is not None and now.weight_error is not None:
        stats = probe.weight_stats()
        yield Quantized("weight", now.weight, stats, now.weight_error, axis, size)
    if now.activation is not None and now.activation_error is not None:
        stats = study.stats(plan.range_node(probe.node))
        yield Quantized("activation", now.activation, stats, now.activation_error)


def _operand(study: Study, node: str) -> Operand:
    named = {n.name: str(n.meta.get("name", n.name)) for n in study.graph.graph.nodes}
    stats = study.stats(node)
    reach = max(-float(stats.min_val), float(stats.max_val)) if stats.count else 0.0
    return Operand(named[node], reach)


def _sources(study: Study, plan: Plan, step: Step) -> Iterator[Source]:
    """Who decides about the layer's quantized inputs; constants and fixed ranges left out."""
    if step.output is None:
        return
    for node in study.probe(step.name).inputs:
        value = plan.by_node.get(node)
        if value is None or value.constant or isinstance(value.spec.policy, Fixed):
            continue
        if value.requested is not None:
            yield Source(value.address, value.spec, value.requested)


def _input_share(study: Study, plan: Plan, step: Step, error: Tensor) -> float:
    """Squared error of the output with only the inputs quantized, over that of the whole layer."""
    probe = study.probe(step.name)
    values, _ = study.sample()
    given = [
        x if qparams is None else ops.dequantize(ops.quantize(x, qparams), qparams).to(x.dtype)
        for x, qparams in zip(
            probe.arguments(values), study.input_qparams(plan, probe), strict=True
        )
    ]
    alone, whole = ErrorSums(), float(error.square().sum())
    with torch.no_grad():
        output = probe.module(*given)
    alone.update(step.counting(values[probe.node]), step.counting(output))
    return alone.noise / whole if whole > 0 else 0.0


def _shift_share(study: Study, step: Step, error: Tensor) -> float:
    """Squared mean error of the output's channels over its squared error."""
    axis, square = study.stats(step.node).channel_axis, float(error.square().sum())
    if axis is None or square == 0:
        return 0.0
    channels = error.movedim(axis, 0).flatten(1)
    return float(channels.mean(1).square().sum()) * channels.shape[1] / square


def _output_error(study: Study, plan: Plan, step: Step) -> Tensor:
    """What the layer's output lacks, deployed and fed the float network's values, float64."""
    probe, (values, _) = study.probe(step.name), study.sample()
    layer = deployed(study, plan, step.name, (step.weight, step.output))
    output = step.counting(layer.run(probe.arguments(values)))
    return (output - step.counting(values[probe.node])).double()


def _with_gain(
    study: Study, mapping: QConfigMapping, cause: Cause, evaluation: Batches | None
) -> Cause:
    if cause.remedy is None:
        return cause
    plans, name = (study.plan(mapping), study.plan(cause.apply(mapping))), cause.layer
    step = plans[1].step(name)
    if step.execution not in _MEASURED:  # the layer cannot be quantized so
        return replace(cause, remedy=None)
    try:
        if cause.kind in _UNSEEN_DATA:
            return _unless_worse(cause, _gained(*unseen_errors(study, plans, name, evaluation)))
        probe, before, after = study.probe(name), ErrorSums(), ErrorSums()
        whole = cause.kind in _WHOLE_DATA
        for batch in study.float_values(probe, few=True) if whole else [study.sample()[0]]:
            _errors(study, plans[0], plans[0].step(name), [batch], before)
            _errors(study, plans[1], step, [batch], after)
    except MissingDataError:
        return cause
    gain = _gained(before, after)
    if cause.kind == "dead channels" and gain <= 0:
        return replace(cause, remedy=None, remedy_label=REMOVE_LABEL, gain=0.0)
    return replace(cause, gain=gain)


def _unless_worse(cause: Cause, gain: float) -> Cause:
    """The cause with its gain; without its remedy where that does harm, and it says so."""
    if gain > 0:
        return replace(cause, gain=gain, remedy_label=f"{cause.remedy_label}, or on more data")
    change = f"{gain:.3g}".replace("-", "−")
    label = f"{MORE_DATA}: another range would change {change} dB"
    return replace(cause, remedy=None, remedy_label=label)


def _gained(before: ErrorSums, after: ErrorSums) -> float:
    """SQNR after less before [dB], of the same signal; 0 where neither has any error."""
    if before.noise == after.noise:
        return 0.0
    if not before.noise or not after.noise:
        return math.inf if before.noise else -math.inf
    return 10 * math.log10(before.noise / after.noise)


def _errors(
    study: Study,
    plan: Plan,
    step: Step,
    values: Iterable[Mapping[str, Any]],
    sums: ErrorSums | None = None,
) -> ErrorSums:
    """Error of a layer's output, deployed as the plan has it and fed the float network's values."""
    sums, probe = sums or ErrorSums(), study.probe(step.name)
    layer = deployed(study, plan, step.name, (step.weight, step.output))
    for batch in values:
        inputs: list[Tensor] = [batch[node] for node in probe.inputs]
        sums.update(step.counting(batch[probe.node]), step.counting(layer.run(inputs)))
    return sums
