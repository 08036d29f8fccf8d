"""Fine-tuning: the network learns on with its rounding in place, and the steps of the grid with it.

Weights and activations pass fake quantizers in every training step. Gradients go straight through
the rounding, and the scales are learned with the weights: for a value v, codes from n to p and
``q = rint(v / s)``, the gradient of the scale s is ``q - v / s`` inside the range and n or p
outside, times ``1 / sqrt(count · p)``. Zero points stay what calibration made them. Learning rates
are relative: to each scale, and to the size of each channel's weights.

Batch norm is folded before, so that its statistics are frozen: what is trained is what runs on
integers. Where one layer's rule decides about several tensors, such as the network's input and the
first output, the mapping has no place for their two scales: those stay what calibration makes them.
A rule for the input, by its name, makes that place.

Where labels are given and no loss, it is half the cross-entropy and half the distance from the
float network: with the softmax p of its output and q of the quantized one's, both divided by a
temperature T = 4, ``T² · KL(p ‖ q)``. Images that the float network was trained on have next to no
cross-entropy left to learn from; what it thinks of the wrong classes is what quantization blurs.

Source: Esser, McKinstry, Bablani, Appuswamy, Modha: Learned Step Size Quantization, 2020, arXiv
1902.08153, sections 2.1 and 2.2; straight-through gradients: Bengio, Léonard, Courville 2013, arXiv
1308.3432; distillation: Hinton, Vinyals, Dean 2015, arXiv 1503.02531, section 2.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import fx

from qlab.algorithms.base import (
    Algorithm,
    Change,
    Hooks,
    Outcome,
    Settings,
    Subject,
    check_positive,
)
from qlab.algorithms.finetune_net import Learned, LearnedLayer, Training, training_of
from qlab.algorithms.lesson import TITLE, Lesson, Loss, lesson_of
from qlab.algorithms.targets import copied, find_target, set_weight
from qlab.analysis.batches import Batch, Batches
from qlab.analysis.causes import SpecChange, Which
from qlab.analysis.study import Study
from qlab.errors import ArgumentError, NonFiniteError
from qlab.graph import Plan
from qlab.qconfig import Address, QConfig, QConfigMapping
from qlab.ranges import Fixed, TensorSpec

PAPER = (
    "Esser, McKinstry, Bablani, Appuswamy, Modha: Learned Step Size Quantization, 2020, arXiv "
    "1902.08153"
)
_CHECKS = 10
_WARM_UP = 0.1


@dataclass(frozen=True)
class FinetuneSettings(Settings):
    """How a network learns on.

    Attributes:
        steps: Of Adam, one batch each.
        rate: Adam's largest learning rate for weights, relative to the root mean square of each
            channel, and for biases; it rises over the first tenth of the steps and falls to 0 with
            a cosine.
        scale_rate: That of the scales, relative to each scale.
        distillation: Share of the distance from the float network in what is minimised where
            labels are given and no loss, 0 to 1.
        learn_scales: Whether scales are learned; else they stay what calibration made them.
        held_out: Share of the loader's batches that is not trained on. The state that is best on
            it, looked at ten times, is what is given.
        patience: After how many looks without a better one training ends.
    """

    steps: int = 500
    rate: float = 5e-3
    scale_rate: float = 1e-2
    distillation: float = 0.5
    learn_scales: bool = True
    held_out: float = 0.2
    patience: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(TITLE, self, ("steps", "patience"))
        for name in ("rate", "scale_rate"):
            if not getattr(self, name) > 0:
                raise ArgumentError(f"{TITLE}: {name} is positive", received=getattr(self, name))
        if not 0 <= self.distillation <= 1:
            raise ArgumentError(
                f"{TITLE}: distillation is a share",
                expected="0 <= distillation <= 1",
                received=self.distillation,
            )
        if not 0 < self.held_out < 1:
            raise ArgumentError(
                f"{TITLE}: a part of the batches is held out",
                expected="0 < held_out < 1",
                received=self.held_out,
            )


def finetune(
    subject: Subject,
    mapping: QConfigMapping,
    layers: tuple[str, ...],
    settings: FinetuneSettings,
    hooks: Hooks,
    lesson: Lesson,
) -> Change:
    """Trains the network of a configuration; see the module."""
    study = subject.study
    training = training_of(study, mapping, layers)
    train, held = lesson.split(settings.held_out)
    before, after, diverged = float("nan"), float("nan"), None
    if training.layers:
        before, after, diverged = _train(training, (train, held), lesson, settings, hooks)
    learned = bool(training.layers) and after < before
    made, plan = copied(study.graph), study.plan(mapping)
    if learned:
        for name, layer in training.layers.items():
            mapping = _written(study, plan, made, mapping, (name, layer))
        for name, grid in training.grids.items() if settings.learn_scales else ():
            value = next(v for v in plan.values if v.asked_by == name and v.observed)
            asked = (value.address, value.spec, value.requested)
            mapping = _fixed(mapping, "activation", asked, grid)
    said = f"loss on held-out batches {before:.4g} → {after:.4g}"
    reason = f"trained: {said}" if learned else f"nothing learned is better: {said}"
    outcomes = [
        Outcome(name, False, training.refused[name])
        if name in training.refused
        else Outcome(name, learned, reason, {"loss_before": before, "loss_after": after})
        for name in layers
    ]
    samples = sum(batch.samples for batch in lesson.batches)
    notes = () if diverged is None else (_diverged(diverged, settings),)
    return Change(made, mapping, tuple(outcomes), samples, notes=notes)


def _diverged(step: int, settings: FinetuneSettings) -> str:
    rates = f"rate={settings.rate:g} and scale_rate={settings.scale_rate:g}"
    return f"training diverged at step {step}: lower {rates}; what is given was the best before"


def _written(
    study: Study,
    plan: Plan,
    made: fx.GraphModule,
    mapping: QConfigMapping,
    trained: tuple[str, LearnedLayer],
) -> QConfigMapping:
    """Puts a layer's weights and bias into a graph; gives the mapping with the weight's grid."""
    name, layer = trained
    target = find_target(study, plan, name)
    assert not isinstance(target, str) and target.step.weight is not None
    into = target.module(made)
    with torch.no_grad():
        values = layer.values()
        for path, value in values.items():
            into.get_parameter(path).copy_(value)
    set_weight(target.inner(made), values[layer.weight_name])
    asked = (target.step.address, target.step.weight, target.step.requested)
    return _fixed(mapping, "weight", asked, layer.rounding)


def _fixed(
    mapping: QConfigMapping,
    which: Which,
    asked: tuple[Address, TensorSpec, QConfig | None],
    grid: Learned,
) -> QConfigMapping:
    address, spec, requested = asked
    assert requested is not None
    fixed = replace(spec, policy=Fixed.of(grid.qparams()))
    return SpecChange(address, which, fixed, requested)(mapping)


def _train(
    training: Training,
    data: tuple[list[Batch], list[Batch]],
    lesson: Lesson,
    settings: FinetuneSettings,
    hooks: Hooks,
) -> tuple[float, float, int | None]:
    """Trains in place, to the state that is best on what is held out.

    Returns:
        Its loss before and after, and the step at which the loss was no number any more.
    """
    train, held = data
    weights, scales = training.parameters(settings.learn_scales)
    groups = [{"params": weights, "lr": settings.rate}]
    groups += [{"params": scales, "lr": settings.scale_rate}] if scales else []
    optimizer = torch.optim.Adam(groups)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: _rate(n, settings.steps))
    parameters = [*weights, *scales]
    best = first = _first_loss(training.graph, held, lesson)
    state, worse, diverged = [p.detach().clone() for p in parameters], 0, None
    look = max(1, settings.steps // _CHECKS)
    order = _order(len(train), settings.seed)
    for step in range(settings.steps):
        hooks.step(step, settings.steps, f"training, held-out loss {best:.4g}")
        batch = train[next(order)]
        if not _learn(training, batch, lesson, optimizer):
            diverged = step
            break
        schedule.step()
        if (step + 1) % look and step + 1 < settings.steps:
            continue
        found = _loss(training.graph, held, lesson)
        if not math.isfinite(found):
            diverged = step
            break
        worse = 0 if found < best else worse + 1
        if not worse:
            best, state = found, [p.detach().clone() for p in parameters]
        elif worse == settings.patience:
            break
    with torch.no_grad():
        for parameter, value in zip(parameters, state, strict=True):
            parameter.copy_(value)
    hooks.step(settings.steps, settings.steps, "training")
    return first, best, diverged


def _learn(
    training: Training, batch: Batch, lesson: Lesson, optimizer: torch.optim.Optimizer
) -> bool:
    """One step; False, and nothing is learned, where the loss is no number."""
    loss = lesson.loss(training.graph(*batch.inputs), batch)
    if not bool(loss.isfinite()):
        return False
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return True


def _first_loss(graph: fx.GraphModule, held: list[Batch], lesson: Lesson) -> float:
    """What the held-out batches cost before anything is learned.

    Raises:
        NonFiniteError: It is no number.
    """
    first = _loss(graph, held, lesson)
    if not math.isfinite(first):
        raise NonFiniteError(
            f"{TITLE}: the loss on the held-out batches is no number before anything is learned",
            received=first,
            fix="Look for infinity in the images, or what the loss computes.",
        )
    return first


def _order(count: int, seed: int) -> Iterator[int]:
    """Numbers of batches, shuffled anew each time round."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield from torch.randperm(count, generator=generator).tolist()


def _rate(step: int, steps: int) -> float:
    """How much of the learning rate a step has: it rises, and falls with a cosine."""
    warm = max(1, round(_WARM_UP * steps))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def _loss(graph: fx.GraphModule, batches: list[Batch], lesson: Lesson) -> float:
    with torch.no_grad():
        losses = [float(lesson.loss(graph(*b.inputs), b)) * b.samples for b in batches]
    return sum(losses) / sum(b.samples for b in batches)


def algorithm_of(loader: Batches, loss: Loss | None) -> Algorithm:
    """Fine-tuning on a loader, as a repair that the frame runs."""

    def run(
        subject: Subject,
        mapping: QConfigMapping,
        layers: tuple[str, ...],
        settings: FinetuneSettings,
        hooks: Hooks,
    ) -> Change:
        lesson = _lesson(loader, loss, subject.study, settings)
        return finetune(subject, mapping, layers, settings, hooks, lesson)

    def estimate(
        subject: Subject,
        mapping: QConfigMapping,
        layers: tuple[str, ...],
        settings: FinetuneSettings,
    ) -> float:
        lesson = lesson_of(loader, loss, subject.study, 2, settings.distillation)
        batch = lesson.split(settings.held_out)[0][0]
        training = training_of(subject.study, mapping, layers)
        return settings.steps * _step_seconds(training, batch, lesson)

    about = "trains weights and scales with the rounding in place"
    return Algorithm("finetune", TITLE, about, PAPER, run, estimate, FinetuneSettings)


def _step_seconds(training: Training, batch: Batch, lesson: Lesson) -> float:
    """What one step takes: the second of two that are thrown away."""
    if not training.layers:
        return 0.0
    optimizer = torch.optim.Adam([p for group in training.parameters(True) for p in group])
    _learn(training, batch, lesson, optimizer)
    began = time.perf_counter()
    _learn(training, batch, lesson, optimizer)
    return time.perf_counter() - began


def check_lesson(loader: Batches, loss: Loss | None, study: Study) -> None:
    """Refuses at once what training would refuse after a long search.

    Raises:
        ArgumentError: Fewer than two batches, one that does not fit, or a loss that fails.
        NonFiniteError: NaN in a batch; names it.
    """
    settings = FinetuneSettings()
    lesson = _lesson(loader, loss, study, settings)
    lesson.split(settings.held_out)
    with torch.no_grad():
        lesson.loss(study.reference(*lesson.batches[0].inputs), lesson.batches[0])


def _lesson(loader: Batches, loss: Loss | None, study: Study, settings: FinetuneSettings) -> Lesson:
    most = math.ceil(settings.steps / (1 - settings.held_out)) + 1
    return lesson_of(loader, loss, study, most, settings.distillation)
