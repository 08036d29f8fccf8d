"""Bias correction: the mean error that rounding the weights puts on each channel, taken back.

Rounded weights shift the mean of a layer's outputs: ``E[y'] - E[y] = (W' - W) E[x]``, which adds
up from layer to layer. Subtracting it from the bias costs nothing when the network runs.

Source: Nagel, van Baalen, Blankevoort, Welling: Data-Free Quantization Through Weight Equalization
and Bias Correction, 2019, arXiv 1906.04721, section 4.2 and appendix D.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from qlab.algorithms.base import Change, Hooks, Layers, Outcome, Settings, Subject
from qlab.algorithms.targets import (
    Target,
    Walk,
    add_to_bias,
    calibration_inputs,
    channel_means,
    copied,
    find_target,
)
from qlab.analysis.simulation import codes_of, simulate, simulated_layers
from qlab.errors import ArgumentError
from qlab.execution import Program
from qlab.qconfig import QConfigMapping

PAPER = (
    "Nagel, van Baalen, Blankevoort, Welling: Data-Free Quantization Through Weight Equalization "
    "and Bias Correction, 2019, arXiv 1906.04721"
)


@dataclass(frozen=True)
class BiasSettings(Settings):
    """How biases are corrected.

    Attributes:
        samples: How many calibration samples the means are taken over.
    """

    samples: int = 256

    def __post_init__(self) -> None:
        if not isinstance(self.samples, int) or self.samples < 1:
            raise ArgumentError(
                "Bias correction takes means over samples",
                expected="samples of 1 or more",
                received=self.samples,
            )


def correct_biases(
    subject: Subject,
    mapping: QConfigMapping,
    layers: Layers,
    settings: BiasSettings,
    hooks: Hooks,
) -> Change:
    """Empirical bias correction, from the first layer to the last.

    Float and simulated network run side by side over the samples, once. In front of each layer,
    with all earlier ones corrected already, the means of what both give per output channel, before
    any activation, are compared, and their difference is subtracted from the bias.
    """
    study = subject.study
    plan, converted = study.plan(mapping), study.converted(mapping)
    found = {name: find_target(study, plan, name) for name in layers}
    inputs, samples = calibration_inputs(study, settings.samples)
    simulation = simulate(
        study.graph, plan, codes_of(converted), simulated_layers(study.graph, converted, plan)
    )
    rounded = Walk(Program.of(simulation), inputs)
    floats = Walk(Program.of(study.reference), inputs)
    made, outcomes = copied(study.graph), list[Outcome]()
    for done, (name, target) in enumerate(found.items()):
        hooks.step(done, len(found), f"correcting {name}")
        if not isinstance(target, str):
            target = _reason(simulation, target) or target
        if isinstance(target, str):
            outcomes.append(Outcome(name, False, target))
            continue
        rounded.before(target.node)
        floats.before(target.node)
        shift = _shift(target, (floats, study.reference), (rounded, simulation))
        add_to_bias(target.inner(made), -shift)
        add_to_bias(_simulated(simulation, target).inner(simulation), -shift)
        outcomes.append(_outcome(name, shift))
    hooks.step(len(found), len(found), "correcting biases")
    return Change(made, mapping, tuple(outcomes), samples)


def _simulated(simulation: fx.GraphModule, target: Target) -> Target:
    """The same layer in the simulation, whose module has a path of its own."""
    node = next(n for n in simulation.graph.nodes if n.name == target.node)
    return Target(target.name, target.node, str(node.target), target.source, target.step)


def _reason(simulation: fx.GraphModule, target: Target) -> str | None:
    if target.step.weight is None:
        return "its weight stays in float"
    if target.step.execution == "dynamic":
        return "its input is quantized anew in every call, which is not simulated"
    return None


def _shift(
    target: Target, floats: tuple[Walk, fx.GraphModule], rounded: tuple[Walk, fx.GraphModule]
) -> Tensor:
    """Mean of the quantized layer's output less that of the float one, float64 (C,)."""
    means = []
    for (walk, graph), where in ((rounded, _simulated(rounded[1], target)), (floats, target)):
        layer, total, count = where.inner(graph), torch.zeros(()), 0
        with torch.no_grad():
            for x in walk.inputs(target.node):
                output = layer(x)
                size = output.shape[0] if output.ndim > 1 else 1
                total = total.to(output.device) + channel_means(output, layer) * size
                count += size
        means.append(total / count)
    return means[0] - means[1]


def _outcome(name: str, shift: Tensor) -> Outcome:
    largest = float(shift.abs().max()) if shift.numel() else 0.0
    numbers = {"shift_mean": float(shift.abs().mean()), "shift_max": largest}
    return Outcome(name, True, f"means moved by up to {largest:.3g}", numbers)


def bias_seconds(
    subject: Subject, mapping: QConfigMapping, layers: Layers, settings: BiasSettings
) -> float:
    """Seconds: about five float passes over the samples, judged by one over the small sample."""
    return 5.0 * pass_seconds(subject) * settings.samples


def pass_seconds(subject: Subject) -> float:
    """Seconds that one sample takes through the float network; measured on a small fixed sample."""
    study = subject.study
    _, size = study.sample()
    inputs = study.sample_inputs or study.example_inputs
    began = time.perf_counter()
    with torch.no_grad():
        Program.of(study.reference).run(inputs)
    return (time.perf_counter() - began) / size
