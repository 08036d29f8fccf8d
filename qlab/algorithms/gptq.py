"""GPTQ: weights are rounded one input at a time, and those still to come make up for each error.

The layers are done from the first to the last. Of each, ``H = Σ x xᵀ`` is taken over what the
network with all earlier layers quantized feeds it, which gives the squared error ``dᵀ H d`` of an
output channel whose weights change by d, exactly; `qlab.algorithms.second_order` rounds by it.
Before that, ranges are cut where that alone lowers this error (``clip``). An output channel, or a
whole layer, that comes out no better than rounded to nearest with the ranges that were asked for
keeps those.

Source: Frantar, Ashkboos, Hoefler, Alistarh: GPTQ: Accurate Post-Training Quantization for
Generative Pre-trained Transformers, 2022, arXiv 2210.17323. The cut ranges are those of AWQ, see
`qlab.algorithms.awq`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from qlab.algorithms.base import Change, Hooks, Layers, Outcome, Settings, Subject
from qlab.algorithms.channel_scales import search_clip
from qlab.algorithms.moments import Moments, linear_map
from qlab.algorithms.second_order import Rounding, round_second_order
from qlab.algorithms.targets import (
    Target,
    Walk,
    calibration_inputs,
    copied,
    find_target,
    grid_obstacle,
    moments_seconds,
    pass_seconds,
    set_weight,
    simulation_of,
)
from qlab.analysis.causes import SpecChange
from qlab.analysis.metrics import sqnr_db
from qlab.analysis.study import Study
from qlab.errors import ArgumentError, NonFiniteError, UnsupportedError
from qlab.execution import Program
from qlab.qconfig import QConfigMapping
from qlab.qparams import QParams
from qlab.ranges import Fixed, TensorSpec

PAPER = (
    "Frantar, Ashkboos, Hoefler, Alistarh: GPTQ: Accurate Post-Training Quantization for "
    "Generative Pre-trained Transformers, 2022, arXiv 2210.17323"
)


@dataclass(frozen=True)
class GPTQSettings(Settings):
    """How weights are rounded. Nothing is drawn at random: every seed gives the same.

    Attributes:
        samples: How many calibration samples are used.
        act_order: Begin with the inputs of the largest ``Σ x²``.
        damping: What is added to H's diagonal, relative to its mean.
        clip: Cut ranges first, where that lowers the error of the output.
    """

    samples: int = 256
    act_order: bool = True
    damping: float = 0.01
    clip: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("samples", "damping"):
            if not getattr(self, name) > 0:
                raise ArgumentError(f"GPTQ: {name} must be positive", received=getattr(self, name))


def gptq(
    subject: Subject,
    mapping: QConfigMapping,
    layers: Layers,
    settings: GPTQSettings,
    hooks: Hooks,
) -> Change:
    """Rounds each layer's weights, from the first layer to the last; see the module."""
    study = subject.study
    plan = study.plan(mapping)
    batches, samples = calibration_inputs(study, settings.samples)
    simulation = simulation_of(study, mapping)
    walk = Walk(Program.of(simulation), batches)
    made, outcomes = copied(study.graph), list[Outcome]()
    for done, name in enumerate(layers):
        hooks.step(done, len(layers), f"rounding {name}")
        target = roundable(study, find_target(study, plan, name))
        if isinstance(target, str):
            outcomes.append(Outcome(name, False, target))
            continue
        walk.before(target.node)
        place = (done, len(layers), f"rounding {name}")
        inputs = hooks.along(walk.inputs(target.node), *place)
        moments = Moments.of(target.module(study.graph), inputs)
        hooks.step(*place)
        try:
            qparams, rounding, before = _round(study, target, moments, settings)
        except NonFiniteError as reason:
            outcomes.append(Outcome(name, False, str(reason)))
            continue
        set_weight(target.inner(made), rounding.weight)
        set_weight(target.inner_of(simulation), rounding.weight)
        assert target.step.weight is not None and target.step.requested is not None
        spec = replace(target.step.weight, policy=Fixed.of(qparams))
        mapping = SpecChange(target.step.address, "weight", spec, target.step.requested)(mapping)
        signal = moments.signal(target.inner(study.graph).weight)
        outcomes.append(_outcome(name, rounding, before, signal))
    hooks.step(len(layers), len(layers), "rounding")
    return Change(made, mapping, tuple(outcomes), samples)


def roundable(study: Study, target: Target | str) -> Target | str:
    """A layer whose weight's codes can be chosen by moments, or why it is none, in words."""
    if isinstance(target, str):
        return target
    if reason := grid_obstacle(target.step):
        return reason
    try:
        linear_map(target.module(study.graph))
    except UnsupportedError:
        return "the moments of a transposed convolution's inputs do not give its output's error"
    return target


def _round(
    study: Study, target: Target, moments: Moments, settings: GPTQSettings
) -> tuple[QParams, Rounding, Tensor]:
    """The grid, the weight on it, and the errors of the nearest codes on the grid asked for."""
    spec = target.step.weight
    assert spec is not None
    weight = target.inner(study.graph).weight.detach()
    asked = study.weight_qparams(target.name, spec)[0]
    given: Any = {"act_order": settings.act_order, "damping": settings.damping}
    best = round_second_order(weight, moments, asked, **given)
    before, qparams = best.nearest_errors, asked
    cut = _cut(weight, moments, spec) if settings.clip else None
    if cut is not None:
        found = round_second_order(weight, moments, cut, **given)
        if float(found.errors.sum()) < float(best.errors.sum()):
            best, qparams = found, cut
    return qparams, best, before


def _cut(weight: Tensor, moments: Moments, spec: TensorSpec) -> QParams | None:
    """Cut ranges; None where scales are laid out in a way that the search does not know."""
    try:
        return search_clip(weight, moments, spec)
    except UnsupportedError:
        return None


def _outcome(name: str, rounding: Rounding, before: Tensor, signal: float) -> Outcome:
    nearest, after = float(before.sum()), float(rounding.errors.sum())
    kept = float(rounding.kept_nearest.double().mean()) if len(before) else 1.0
    numbers = {
        "error_ratio": after / nearest if nearest > 0 else 1.0,
        "layer_sqnr_nearest": sqnr_db(signal, nearest),
        "layer_sqnr_learned": sqnr_db(signal, after),
        "kept_nearest": kept,
    }
    if not after < nearest:
        return Outcome(name, True, "rounded to nearest, which nothing found improved", numbers)
    low, high = numbers["layer_sqnr_nearest"], numbers["layer_sqnr_learned"]
    said = f"{low:.1f} → {high:.1f} dB at its output"
    if kept:
        said += f"; {100 * kept:.0f} % of its channels stay rounded to nearest"
    return Outcome(name, True, said, numbers)


def gptq_seconds(
    subject: Subject, mapping: QConfigMapping, layers: Layers, settings: GPTQSettings
) -> float:
    """Seconds: moments of the inputs, inverting them, and two sweeps over every weight."""
    study = subject.study
    total = 2.0 * settings.samples * pass_seconds(subject)
    for name in layers:
        target = roundable(study, find_target(study, study.plan(mapping), name))
        if not isinstance(target, str):
            total += moments_seconds(study, target, settings.samples)
            weight = target.inner(study.graph).weight
            length = weight[0].numel()
            total += 2 * length * (3e-4 + 4e-9 * weight.shape[0] * min(length, 128))
            total += 2e-10 * target.groups(study.graph) * length**3
    return total
