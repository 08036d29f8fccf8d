"""Bias correction: the mean error that rounding the weights puts on each channel, taken back.

Rounded weights shift the mean of a layer's outputs: ``E[y'] - E[y] = (W' - W) E[x]``, which adds
up from layer to layer. Subtracting it from the bias costs nothing when the network runs.

Source: Nagel, van Baalen, Blankevoort, Welling: Data-Free Quantization Through Weight Equalization
and Bias Correction, 2019, arXiv 1906.04721, section 4.2 and appendix D.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from qlab.algorithms.base import Change, Hooks, Layers, Outcome, Settings, Subject
from qlab.algorithms.expected import UnknownMeanError, expected_values
from qlab.algorithms.scale_groups import response
from qlab.algorithms.targets import (
    Walk,
    add_to_bias,
    calibration_inputs,
    channel_means,
    copied,
    find_target,
    is_transposed,
    pass_seconds,
    simulation_of,
    stays_float,
)
from qlab.errors import ArgumentError
from qlab.execution import Program
from qlab.qconfig import QConfigMapping
from qlab.qparams import fake_quantize

PAPER = (
    "Nagel, van Baalen, Blankevoort, Welling: Data-Free Quantization Through Weight Equalization "
    "and Bias Correction, 2019, arXiv 1906.04721"
)


@dataclass(frozen=True)
class BiasSettings(Settings):
    """How biases are corrected.

    Attributes:
        how: ``"empirical"`` takes means over calibration data; ``"analytic"`` takes the means that
            batch norm tells, and looks at no data.
        samples: How many calibration samples the means are taken over.
    """

    how: str = "empirical"
    samples: int = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.how not in ("empirical", "analytic"):
            raise ArgumentError(
                "Bias correction is empirical or analytic",
                expected="how='empirical' or how='analytic'",
                received=repr(self.how),
            )
        if self.samples < 1:
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
    """Bias correction as the settings say; see `_empirical` and `_analytic`."""
    if settings.how == "analytic":
        return _analytic(subject, mapping, layers, hooks)
    return _empirical(subject, mapping, layers, settings, hooks)


def _empirical(
    subject: Subject,
    mapping: QConfigMapping,
    layers: Layers,
    settings: BiasSettings,
    hooks: Hooks,
) -> Change:
    """From the first layer to the last, over calibration data.

    Float and simulated network run side by side over the samples, once. In front of each layer,
    with all earlier ones corrected already, the means of what both give per output channel, before
    any activation, are compared, and their difference is subtracted from the bias.
    """
    study = subject.study
    plan = study.plan(mapping)
    found = {name: find_target(study, plan, name) for name in layers}
    inputs, samples = calibration_inputs(study, settings.samples)
    simulation = simulation_of(study, mapping)
    rounded = Walk(Program.of(simulation), inputs)
    floats = Walk(Program.of(study.reference), inputs)
    made, outcomes = copied(study.graph), list[Outcome]()
    for done, (name, target) in enumerate(found.items()):
        hooks.step(done, len(found), f"correcting {name}")
        if not isinstance(target, str) and target.step.weight is None:
            target = stays_float(target.step)
        if isinstance(target, str):
            outcomes.append(Outcome(name, False, target))
            continue
        rounded.before(target.node)
        floats.before(target.node)
        layers_now = target.inner_of(simulation), target.inner(study.reference)
        shift = _mean(rounded.inputs(target.node), layers_now[0])
        shift = shift - _mean(floats.inputs(target.node), layers_now[1])
        add_to_bias(target.inner(made), -shift)
        add_to_bias(target.inner_of(simulation), -shift)
        outcomes.append(_outcome(name, shift))
    hooks.step(len(found), len(found), "correcting biases")
    return Change(made, mapping, tuple(outcomes), samples)


def _analytic(subject: Subject, mapping: QConfigMapping, layers: Layers, hooks: Hooks) -> Change:
    """Each layer on its own: what its weights' errors make of the mean that it reads."""
    study = subject.study
    plan, made, outcomes = study.plan(mapping), copied(study.graph), list[Outcome]()
    for done, name in enumerate(layers):
        hooks.step(done, len(layers), f"correcting {name}")
        target = find_target(study, plan, name)
        if isinstance(target, str) or target.step.weight is None:
            reason = target if isinstance(target, str) else stays_float(target.step)
            outcomes.append(Outcome(name, False, reason))
            continue
        layer, before = target.inner(made), target.inner(study.reference)
        if is_transposed(layer):
            outcomes.append(Outcome(name, False, "what a transposed convolution reads differs"))
            continue
        try:
            mean = expected_values(study.reference, target.source)
        except UnknownMeanError as reason:
            outcomes.append(Outcome(name, False, str(reason)))
            continue
        qparams = study.weight_qparams(name, target.step.weight)[0]
        error = fake_quantize(layer.weight.detach().float(), qparams) - before.weight.detach()
        shift = response(layer, error.double(), mean.to(error.device))
        shift = shift + _bias(layer) - _bias(before)  # what an earlier correction took back
        add_to_bias(layer, -shift)
        outcomes.append(_outcome(name, shift))
    return Change(made, mapping, tuple(outcomes), 0)


def _bias(layer: nn.Conv2d | nn.Linear) -> Tensor:
    return torch.zeros(()) if layer.bias is None else layer.bias.detach().double()


@torch.no_grad()
def _mean(inputs: list[Tensor], layer: nn.Module) -> Tensor:
    """Mean of each channel of a layer's output over all inputs, float64 (C,)."""
    total, count = torch.zeros((), device=inputs[0].device), 0
    for x in inputs:
        output = layer(x)
        size = output.shape[0] if output.ndim > 1 else 1
        total, count = total + channel_means(output, layer) * size, count + size
    return total / count


def _outcome(name: str, shift: Tensor) -> Outcome:
    largest = float(shift.abs().max()) if shift.numel() else 0.0
    numbers = {"shift_mean": float(shift.abs().mean()), "shift_max": largest}
    return Outcome(name, True, f"means moved by up to {largest:.3g}", numbers)


def bias_seconds(
    subject: Subject, mapping: QConfigMapping, layers: Layers, settings: BiasSettings
) -> float:
    """Seconds: about five float passes over the samples, judged by one over the small sample."""
    if settings.how == "analytic":
        return 0.002 * len(layers) + 0.01
    return 5.0 * pass_seconds(subject) * settings.samples
