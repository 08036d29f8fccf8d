"""AdaRound: which way each weight is rounded is learned, so that the layer's output keeps close.

Rounding to nearest is best for each weight on its own and not for the sum that they go into. With
``W' = s·clip(⌊W/s⌋ + h(V), n, p)`` and the rectified sigmoid ``h(V) = clip(σ(V)·(ζ-γ) + γ, 0, 1)``,
ζ = 1.1, γ = -0.1, the layer's V minimises

    mean over samples of ‖f(x W) - f(x' W')‖² + λ Σ (1 - |2 h(V) - 1|^β)

where f is the activation fused behind it, x what the float network feeds it and x' what the
quantized one does, its earlier layers rounded already. β falls from 20 to 2, which drives h to 0
or 1; λ acts after a fifth of the steps. A layer that comes out no better than rounded to nearest
on all the data keeps that.

Source: Nagel, Amjad, van Baalen, Louizos, Blankevoort: Up or Down? Adaptive Rounding for
Post-Training Quantization, 2020, arXiv 2004.10568, sections 3.3 and 3.4.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from qlab.algorithms.base import Change, Hooks, Layers, Outcome, Settings, Subject
from qlab.algorithms.targets import (
    Walk,
    calibration_inputs,
    copied,
    find_target,
    grid_obstacle,
    inner_name,
    pass_seconds,
    set_weight,
    simulation_of,
)
from qlab.analysis.causes import SpecChange
from qlab.analysis.metrics import sqnr_db
from qlab.errors import ArgumentError
from qlab.execution import Program
from qlab.qconfig import QConfigMapping
from qlab.qparams import QParams, dequantize, quantize
from qlab.ranges import Fixed

PAPER = (
    "Nagel, Amjad, van Baalen, Louizos, Blankevoort: Up or Down? Adaptive Rounding for "
    "Post-Training Quantization, 2020, arXiv 2004.10568"
)
_ZETA, _GAMMA = 1.1, -0.1
_BETAS = (20.0, 2.0)
_WARM_UP = 0.2
_ASK_EVERY = 20


@dataclass(frozen=True)
class AdaRoundSettings(Settings):
    """How roundings are learned.

    Attributes:
        steps: Of Adam, per layer.
        samples: How many calibration samples are used.
        batch: How many of them each step sees.
        rate: Adam's learning rate.
        strength: λ, how hard h is driven to 0 or 1, relative to the error of rounding to nearest.
    """

    steps: int = 1000
    samples: int = 256
    batch: int = 32
    rate: float = 0.01
    strength: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("steps", "samples", "batch", "rate", "strength"):
            if not getattr(self, name) > 0:
                raise ArgumentError(
                    f"AdaRound: {name} must be positive", received=getattr(self, name)
                )


@dataclass(frozen=True, eq=False)
class Task:
    """One layer to round.

    Attributes:
        layer: The float layer with the activation fused behind it.
        weight_name: Name of its weight's parameter.
        qparams: The grid.
        inputs: What the quantized network feeds it, (N, …).
        outputs: What it is to give: the float layer's output on the float network's inputs.
    """

    layer: nn.Module
    weight_name: str
    qparams: QParams
    inputs: Tensor
    outputs: Tensor

    @property
    def weight(self) -> Tensor:
        """The float weight."""
        return self.layer.get_parameter(self.weight_name).detach()

    def run(self, weight: Tensor, x: Tensor) -> Tensor:
        """The layer's output with another weight."""
        return functional_call(self.layer, {self.weight_name: weight}, (x,))

    def error(self, weight: Tensor, batch: int) -> float:
        """Sum of squared errors over all the data."""
        with torch.no_grad():
            parts = zip(self.inputs.split(batch), self.outputs.split(batch), strict=True)
            return sum(float((self.run(weight, x) - y).double().square().sum()) for x, y in parts)


def adaround(
    subject: Subject,
    mapping: QConfigMapping,
    layers: Layers,
    settings: AdaRoundSettings,
    hooks: Hooks,
) -> Change:
    """Learns the rounding of each layer's weights, from the first layer to the last."""
    study = subject.study
    plan = study.plan(mapping)
    found = {name: find_target(study, plan, name) for name in layers}
    batches, samples = calibration_inputs(study, settings.samples)
    simulation = simulation_of(study, mapping)
    rounded = Walk(Program.of(simulation), batches)
    floats = Walk(Program.of(study.reference), batches)
    made, outcomes = copied(study.graph), list[Outcome]()
    for done, (name, target) in enumerate(found.items()):
        if not isinstance(target, str):
            target = grid_obstacle(target.step) or target
        if isinstance(target, str):
            outcomes.append(Outcome(name, False, target))
            continue
        rounded.before(target.node)
        floats.before(target.node)
        assert target.step.weight is not None and target.step.requested is not None
        qparams = study.weight_qparams(name, target.step.weight)[0]
        layer = target.module(study.graph)
        with torch.no_grad():
            wanted = [target.module(study.reference)(x) for x in floats.inputs(target.node)]
        task = Task(
            copy.deepcopy(layer).requires_grad_(False),
            inner_name(layer),
            qparams,
            torch.cat(rounded.inputs(target.node)),
            torch.cat(wanted),
        )
        learner = Learner(task, settings, hooks, (done, len(found), name))
        weight, numbers = learner.run()
        set_weight(target.inner(made), weight)
        set_weight(target.inner_of(simulation), weight)
        spec = replace(target.step.weight, policy=Fixed.of(qparams))
        mapping = SpecChange(target.step.address, "weight", spec, target.step.requested)(mapping)
        outcomes.append(_outcome(name, numbers))
    total = len(found) * settings.steps
    hooks.step(total, total, "learning roundings")
    return Change(made, mapping, tuple(outcomes), samples)


class Learner:
    """Learns one layer's roundings.

    Args:
        task: The layer and its data.
        settings: See there.
        hooks: Asked every few steps.
        place: How many layers are done, of how many, and this one's name.
    """

    def __init__(
        self, task: Task, settings: AdaRoundSettings, hooks: Hooks, place: tuple[int, int, str]
    ) -> None:
        self.task, self.settings, self.hooks, self.place = task, settings, hooks, place
        qparams, weight = task.qparams, task.weight.float()
        full = qparams.granularity.expand
        self.scale = full(qparams.scale, weight.shape).expand(weight.shape)
        zero_point = full(qparams.zero_point, weight.shape).expand(weight.shape).float()
        self.lowest, self.highest = qparams.quant_min - zero_point, qparams.quant_max - zero_point
        self.floor = (weight / self.scale).floor()
        share = weight / self.scale - self.floor
        start = -torch.log((_ZETA - _GAMMA) / (share - _GAMMA) - 1)  # h(start) = share
        self.v = start.requires_grad_()

    def soft(self) -> Tensor:
        """h(V)."""
        return (torch.sigmoid(self.v) * (_ZETA - _GAMMA) + _GAMMA).clamp(0.0, 1.0)

    def weights(self, up: Tensor) -> Tensor:
        """The weights where so much of a step is added to each that was rounded down."""
        steps = torch.minimum(torch.maximum(self.floor + up, self.lowest), self.highest)
        return (steps * self.scale).to(self.task.weight.dtype)

    def run(self) -> tuple[Tensor, dict[str, float]]:
        """The rounded weights on the grid, and what was gained."""
        task, batch = self.task, self.settings.batch
        nearest = dequantize(quantize(task.weight.float(), task.qparams), task.qparams)
        nearest = nearest.to(task.weight.dtype)
        before = task.error(nearest, batch)
        if before > 0:
            self._learn(before / task.outputs.numel())
        learned = self.weights((self.soft() >= 0.5).float()).detach()
        codes = quantize(learned.float(), task.qparams)
        learned = dequantize(codes, task.qparams).to(task.weight.dtype)
        after = task.error(learned, batch)
        kept = not after < before
        weight = nearest if kept else learned
        signal = float(task.outputs.double().square().sum())
        flipped = float((weight != nearest).double().mean()) if weight.numel() else 0.0
        return weight, {
            "flipped": flipped,
            "layer_sqnr_nearest": sqnr_db(signal, before),
            "layer_sqnr_learned": sqnr_db(signal, before if kept else after),
        }

    def _learn(self, error: float) -> None:
        settings, task = self.settings, self.task
        generator = torch.Generator().manual_seed(settings.seed)
        optimizer = torch.optim.Adam([self.v], lr=settings.rate)
        warm_up = int(_WARM_UP * settings.steps)
        done, layers, name = self.place
        for step in range(settings.steps):
            if step % _ASK_EVERY == 0:
                total = layers * settings.steps
                self.hooks.step(done * settings.steps + step, total, f"rounding {name}")
            size = min(settings.batch, len(task.inputs))
            chosen = torch.randint(len(task.inputs), (size,), generator=generator)
            chosen = chosen.to(task.inputs.device)
            up = self.soft()
            output = task.run(self.weights(up), task.inputs[chosen])
            loss = F.mse_loss(output, task.outputs[chosen]) / error
            if step >= warm_up:
                share = (step - warm_up) / max(1, settings.steps - warm_up)
                loss = loss + settings.strength * self._indecision(up, share)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

    def _indecision(self, up: Tensor, share: float) -> Tensor:
        """Mean of ``1 - |2h - 1|^β``, with β by how much of the annealing is done (0 to 1)."""
        high, low = _BETAS
        beta = low + 0.5 * (high - low) * (1 + math.cos(share * math.pi))
        return (1 - (2 * up - 1).abs().pow(beta)).mean()


def _outcome(name: str, numbers: dict[str, float]) -> Outcome:
    nearest, learned = numbers["layer_sqnr_nearest"], numbers["layer_sqnr_learned"]
    if not numbers["flipped"]:
        return Outcome(name, True, "rounded to nearest, which nothing learned improved", numbers)
    said = f"{100 * numbers['flipped']:.1f} % of its weights rounded the other way: "
    said += f"{nearest:.1f} → {learned:.1f} dB at its output"
    return Outcome(name, True, said, numbers)


def adaround_seconds(
    subject: Subject, mapping: QConfigMapping, layers: Layers, settings: AdaRoundSettings
) -> float:
    """Seconds: each step runs a layer on a batch, there and back, and updates its weights."""
    study: Any = subject.study
    weights = sum(study.probe(n).weight().numel() for n in layers if study.probe(n).has_weight)
    batch = min(settings.batch, settings.samples)
    per_step = 3.0 * batch * pass_seconds(subject) + 3e-8 * weights + 1e-3 * len(layers)
    return settings.steps * per_step + 3 * settings.samples * pass_seconds(subject)
