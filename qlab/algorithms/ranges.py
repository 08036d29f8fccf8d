"""Better ranges without training: where to clip is judged by the layer's output, not the tensor.

The range that distorts a tensor least is not the one that distorts what is computed from it least:
an outlier may matter more, or less, than its size says. For each layer in turn, on calibration
data, ranges from the whole one down to a part of it are tried:

- of the weight, each output channel on its own where it has its own scale, all together elsewhere;
- of what the layer writes, by the outputs of all layers with weights that read it.

The range that it has already is among those tried, so that the error that each of them alone puts
on a layer's output does not grow on that data. What the whole network makes of it is measured.

Source: the search of Choukroun, Kravchik, Yang, Kisilev: Low-bit Quantization of Neural Networks
for Efficient Inference, 2019, arXiv 1902.06822, with the layer's output in place of the tensor.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.func import functional_call

from qlab.algorithms.base import Change, Hooks, Layers, Outcome, Settings, Subject
from qlab.algorithms.targets import (
    Target,
    Walk,
    calibration_inputs,
    copied,
    find_target,
    inner_name,
    pass_seconds,
)
from qlab.analysis.causes import SpecChange
from qlab.analysis.metrics import sqnr_db
from qlab.errors import ArgumentError
from qlab.execution import Program
from qlab.granularity import PerAxis
from qlab.graph import Plan
from qlab.graph.plan import Step
from qlab.qconfig import QConfigMapping
from qlab.qparams import QParams, fake_quantize
from qlab.ranges import Fixed

PAPER = (
    "Choukroun, Kravchik, Yang, Kisilev: Low-bit Quantization of Neural Networks for Efficient "
    "Inference, 2019, arXiv 1902.06822"
)


@dataclass(frozen=True)
class RangeSettings(Settings):
    """How ranges are searched.

    Attributes:
        samples: How many calibration samples are used.
        tries: How many ranges are tried of each tensor.
        smallest: The smallest of them, as a part of the present range.
        largest: The largest, likewise; above 1 where the present range may clip too much.
    """

    samples: int = 128
    tries: int = 20
    smallest: float = 0.3
    largest: float = 1.3

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.samples < 1 or self.tries < 2 or not 0 < self.smallest < self.largest:
            raise ArgumentError(
                "Ranges are searched over samples, from a smallest to a largest",
                expected="samples >= 1, tries >= 2, 0 < smallest < largest",
                received=f"samples={self.samples}, tries={self.tries}, "
                f"smallest={self.smallest}, largest={self.largest}",
            )

    def factors(self) -> list[float]:
        """What present scales are multiplied with; 1 comes first."""
        steps = torch.linspace(self.smallest, self.largest, self.tries).tolist()
        return [1.0, *(step for step in steps if step != 1.0)]


def search_ranges(
    subject: Subject,
    mapping: QConfigMapping,
    layers: Layers,
    settings: RangeSettings,
    hooks: Hooks,
) -> Change:
    """Searches the ranges of each layer's weight and of what it reads; see the module."""
    study = subject.study
    plan = study.plan(mapping)
    batches, samples = calibration_inputs(study, settings.samples)
    walk = Walk(Program.of(study.reference), batches)
    outcomes, made = list[Outcome](), mapping
    readings: dict[str, Tensor] = {}
    names = {step.node: step.name for step in plan.steps}
    for done, name in enumerate(layers):
        hooks.step(done, len(layers), f"searching ranges of {name}")
        target = find_target(study, plan, name)
        if isinstance(target, str):
            outcomes.append(Outcome(name, False, target))
            continue
        walk.before(target.node)
        layer = target.module(study.graph)
        inputs = walk.inputs(target.node)
        wanted = [_run(target.module(study.reference), x) for x in inputs]
        made, numbers = _weight(subject, made, target, (layer, inputs, wanted), settings)
        errors = _reading_errors(subject, plan, target, (layer, inputs, wanted), settings)
        if errors is not None:
            source = _asker(plan, target.source)
            readings[source] = readings.get(source, torch.zeros(())) + errors
        outcomes.append(_outcome(name, numbers))
    hooks.step(len(layers), len(layers), "searching ranges")
    asked = {node: errors for node, errors in readings.items() if names.get(node) in layers}
    made, moved = _write_readings(subject, plan, made, asked, settings)
    outcomes = [_with_range(outcome, moved.get(outcome.layer)) for outcome in outcomes]
    return Change(copied(study.graph), made, tuple(outcomes), samples)


Data = tuple[nn.Module, list[Tensor], list[Tensor]]


@torch.no_grad()
def _run(layer: nn.Module, x: Tensor, weight: Tensor | None = None) -> Tensor:
    if weight is None:
        return layer(x)
    return functional_call(layer, {inner_name(layer): weight}, (x,))


def _scaled(qparams: QParams, factor: float) -> QParams:
    return replace(qparams, scale=qparams.scale * factor)


def _weight(
    subject: Subject, mapping: QConfigMapping, target: Target, data: Data, settings: RangeSettings
) -> tuple[QConfigMapping, dict[str, float]]:
    """The mapping with the best range of a layer's weight, and the errors before and after."""
    spec, requested = target.step.weight, target.step.requested
    if spec is None or requested is None or isinstance(spec.policy, Fixed):
        return mapping, {}
    layer, inputs, wanted = data
    qparams = subject.study.weight_qparams(target.name, spec)[0]
    full = layer.get_parameter(inner_name(layer)).detach()
    axis = -1 if isinstance(target.inner(subject.study.graph), nn.Linear) else 1
    own = isinstance(spec.granularity, PerAxis) and qparams.scale.numel() == wanted[0].shape[axis]
    errors = []
    for factor in settings.factors():
        rounded = fake_quantize(full.float(), _scaled(qparams, factor)).to(full.dtype)
        outputs = (_run(layer, x, rounded) for x in inputs)
        errors.append(_channel_errors(outputs, wanted, axis))
    table = torch.stack(errors)  # (tries, channels)
    factors = torch.tensor(settings.factors())
    best = table.argmin(0) if own else table.sum(1).argmin().expand(table.shape[1])
    after = float(table.gather(0, best.unsqueeze(0)).sum())
    chosen = factors[best] if own else factors[best[:1]].reshape(())
    scale = qparams.scale * chosen.to(qparams.scale).reshape(qparams.scale.shape if own else ())
    signal = sum(float(y.double().square().sum()) for y in wanted)
    numbers = {
        "layer_sqnr_before": sqnr_db(signal, float(table[0].sum())),
        "layer_sqnr_weight": sqnr_db(signal, after),
    }
    if bool((best == 0).all()):
        return mapping, numbers
    found = replace(spec, policy=Fixed.of(replace(qparams, scale=scale)))
    return SpecChange(target.step.address, "weight", found, requested)(mapping), numbers


def _channel_errors(outputs: Iterator[Tensor], wanted: list[Tensor], axis: int) -> Tensor:
    """Sum of squared errors of each channel, float64 (C,) on the CPU."""
    total = torch.zeros((), dtype=torch.float64)
    for output, want in zip(outputs, wanted, strict=True):
        square = (output - want).double().square().movedim(axis, 0).flatten(1).sum(1)
        total = total + square.cpu()
    return total


def _asker(plan: Plan, node: str) -> str:
    """The node of the layer that decides how a value is quantized."""
    value = plan.by_node.get(node)
    return node if value is None else value.source


def _reading_errors(
    subject: Subject, plan: Plan, target: Target, data: Data, settings: RangeSettings
) -> Tensor | None:
    """Relative error of a layer's output for each range of what it reads; None where float."""
    value = plan.by_node.get(target.source)
    if value is None or value.constant or isinstance(value.spec.policy, Fixed):
        return None
    layer, inputs, wanted = data
    qparams = subject.study.activation_qparams(value.source, value.spec)
    signal = sum(float(y.double().square().sum()) for y in wanted) or 1.0
    errors = []
    for factor in settings.factors():
        tried = _scaled(qparams, factor)
        outputs = [_run(layer, fake_quantize(x, tried)) for x in inputs]
        pairs = zip(outputs, wanted, strict=True)
        errors.append(sum(float((y - w).double().square().sum()) for y, w in pairs) / signal)
    return torch.tensor(errors)


def _write_readings(
    subject: Subject,
    plan: Plan,
    mapping: QConfigMapping,
    readings: dict[str, Tensor],
    settings: RangeSettings,
) -> tuple[QConfigMapping, dict[str, float]]:
    """The mapping with the best range of each output that layers read, and the factors by layer."""
    steps, moved = {step.node: step for step in plan.steps}, dict[str, float]()
    for node, errors in readings.items():
        factor, step = settings.factors()[int(errors.argmin())], steps.get(node)
        known = step is not None and step.output is not None and step.requested is not None
        if not known or step is None or factor == 1.0:
            continue  # the network's own input has no rule of its own
        assert step.output is not None and step.requested is not None
        apart = _apart(plan, mapping, step)
        if apart is None:
            continue  # its rule decides about another inner tensor, whose range this is not
        mapping = apart
        qparams = subject.study.activation_qparams(node, step.output)
        spec = replace(step.output, policy=Fixed.of(_scaled(qparams, factor)))
        mapping = SpecChange(step.address, "activation", spec, step.requested)(mapping)
        moved[step.name] = factor
    return mapping, moved


def _apart(plan: Plan, mapping: QConfigMapping, step: Step) -> QConfigMapping | None:
    """The mapping in which a step's rule decides about its own output alone.

    Inputs of the network that it decided about have the same rule by their own name. None where
    it decides about another tensor that has no name of its own in a mapping.
    """
    made, taken = mapping.copy(), {s.node for s in plan.steps} | {s.name for s in plan.steps}
    for value in plan.values:
        elsewhere = value.asked_by != step.name or value.source == step.node
        if elsewhere or value.constant or value.fixed:
            continue
        if value.node in taken or value.name in taken:
            return None
        made.set_module_name(value.name, value.requested)
    return made


def _outcome(name: str, numbers: dict[str, float]) -> Outcome:
    if not numbers:
        return Outcome(name, False, "its weight stays in float or has a fixed range")
    before, after = numbers["layer_sqnr_before"], numbers["layer_sqnr_weight"]
    if after <= before:
        return Outcome(name, False, "no other range of its weight is better", numbers)
    said = f"its weight's range: {before:.1f} → {after:.1f} dB at its output"
    return Outcome(name, True, said, numbers)


def _with_range(outcome: Outcome, factor: float | None) -> Outcome:
    if factor is None:
        return outcome
    reason = f"{outcome.reason}; its output's range times {factor:.2f}"
    return Outcome(outcome.layer, True, reason, {**outcome.numbers, "output_range": factor})


def ranges_seconds(
    subject: Subject, mapping: QConfigMapping, layers: Layers, settings: RangeSettings
) -> float:
    """Seconds: every layer runs twice for each range that is tried."""
    runs = 2.5 * (settings.tries + 1)
    return runs * (settings.samples * pass_seconds(subject) + 5e-4 * len(layers))
