"""AWQ: weights that meet loud inputs are scaled up before they are rounded, and ranges are cut.

With ``s_j = mean|x_j|^α`` an input channel is divided by s and its weights multiplied, which makes
their rounding finer by s beside the others that share their scale. What makes the input (a norm,
or a linear layer with or without ReLU) takes the factors up, so that nothing is computed in
addition. α is searched for each such group by the error of the layers' outputs; α = 0 is among the
candidates. Then each scale's range is cut where that lowers the error further (``clip``), for
convolutions and layers whose inputs cannot be scaled too.

Source: Lin, Tang, Tang, Yang, Chen, Wang, Xiao, Dang, Gan, Han: AWQ: Activation-aware Weight
Quantization for LLM Compression and Acceleration, 2023, arXiv 2306.00978, section 3.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx

from qlab.algorithms.base import Change, Hooks, Layers, Outcome, Settings, Subject, check_positive
from qlab.algorithms.channel_scales import Scaling, search_activation_aware, search_clip
from qlab.algorithms.foldable import (
    Scalable,
    find_scalable,
    input_rows,
    scaled_graphs,
    scaling_outcomes,
    search_seconds,
    strengths,
)
from qlab.algorithms.folding import Fold
from qlab.algorithms.gptq import roundable
from qlab.algorithms.moments import Moments
from qlab.algorithms.targets import (
    Target,
    Walk,
    calibration_inputs,
    find_target,
    moments_seconds,
    pass_seconds,
)
from qlab.analysis.causes import SpecChange
from qlab.analysis.metrics import sqnr_db
from qlab.analysis.study import Study
from qlab.errors import UnsupportedError
from qlab.execution import Program
from qlab.qconfig import QConfigMapping
from qlab.qparams import QParams, fake_quantize
from qlab.ranges import Fixed

PAPER = (
    "Lin, Tang, Tang, Yang, Chen, Wang, Xiao, Dang, Gan, Han: AWQ: Activation-aware Weight "
    "Quantization for LLM Compression and Acceleration, 2023, arXiv 2306.00978"
)


@dataclass(frozen=True)
class AWQSettings(Settings):
    """How factors and ranges are searched.

    Attributes:
        tries: How many strengths are tried for each group of layers.
        clip: Cut ranges where that lowers the error.
        samples: How many calibration samples are used.
        rows: How many of their tokens the search looks at where the input is quantized too, drawn
            with ``seed``.
    """

    tries: int = 20
    clip: bool = True
    samples: int = 256
    rows: int = 4096

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("AWQ", self, ("tries", "samples", "rows"))


@dataclass(frozen=True, eq=False)
class _Cut:
    """The ranges of one layer, and the errors that they go with."""

    qparams: QParams | None
    signal: float
    before: float
    after: float


def awq(
    subject: Subject, mapping: QConfigMapping, layers: Layers, settings: AWQSettings, hooks: Hooks
) -> Change:
    """Scales inputs of linear layers and cuts ranges of weights; see the module."""
    study = subject.study
    plan = study.plan(mapping)
    batches, samples = calibration_inputs(study, settings.samples)
    found, refused = find_scalable(study, plan, layers, linear_sources=True)
    total = len(found) + len(layers) * settings.clip
    walk = Walk(Program.of(study.reference), batches)
    scalings = list[tuple[Scalable, Scaling]]()
    for done, entry in enumerate(found):
        hooks.step(done, total, f"scaling the input of {entry.fold.readers[0]}")
        walk.before(entry.node)
        scalings.append((entry, _search(study, entry, walk, settings)))
    chosen = {entry.fold: s.factors for entry, s in scalings if s.strength is not None}
    outcomes = {name: Outcome(name, False, reason) for name, reason in refused.items()}
    for entry, scaling in scalings:
        outcomes |= scaling_outcomes(entry, scaling)
    graph, reference = scaled_graphs(study, chosen)
    walk = Walk(Program.of(reference), batches)
    for done, name in enumerate(layers if settings.clip else ()):
        place = (len(found) + done, total, f"cutting ranges of {name}")
        hooks.step(*place)
        target = roundable(study, find_target(study, plan, name))
        if isinstance(target, str):
            known = outcomes[name]
            outcomes[name] = known if known.changed else replace(known, reason=target)
            continue
        walk.before(target.node)
        inputs = hooks.along(walk.inputs(target.node), *place)
        moments = Moments.of(target.module(graph), inputs)
        cut = _cut(study, graph, target, moments, chosen)
        outcomes[name] = _outcome(outcomes[name], cut)
        if cut.qparams is not None:
            assert target.step.weight is not None and target.step.requested is not None
            spec = replace(target.step.weight, policy=Fixed.of(cut.qparams))
            mapping = SpecChange(target.step.address, "weight", spec, target.step.requested)(
                mapping
            )
    hooks.step(total, total, "searching factors and ranges")
    ordered = tuple(outcomes[name] for name in layers)
    return Change(graph, mapping, ordered, samples, reference if chosen else None)


def _search(study: Study, entry: Scalable, walk: Walk, settings: AWQSettings) -> Scaling:
    """The factors of one group of layers."""
    moments = Moments.of(study.probe(entry.fold.readers[0]).module, walk.inputs(entry.node))
    quantized = None
    if entry.input_spec is not None:
        rows = input_rows(walk, entry.node, settings.rows, settings.seed)[0]
        quantized = rows, entry.input_spec
    tried = strengths(settings.tries)
    return search_activation_aware(
        moments, entry.weights, entry.specs, tried, quantized_input=quantized
    )


def _cut(
    study: Study,
    graph: fx.GraphModule,
    target: Target,
    moments: Moments,
    chosen: dict[Fold, Tensor],
) -> _Cut:
    """Ranges for a layer of the scaled graph; errors are in the units of the unscaled one.

    Without ranges where those that were asked for are as good.
    """
    spec = target.step.weight
    assert spec is not None
    plain = target.inner(study.graph).weight.detach()
    weight = target.inner(graph).weight.detach()
    rows = torch.ones(weight.shape[0], dtype=torch.float64, device=weight.device)
    unscaled = moments
    for fold, factors in chosen.items():
        if target.name in fold.readers:
            unscaled = moments.scaled(factors)
        if fold.source == target.node:
            rows = factors.to(rows)
    nearest = study.weight_qparams(target.name, spec)[0]
    before = float(unscaled.errors(fake_quantize(plain, nearest) - plain).sum())

    def error(qparams: QParams) -> float:
        change = fake_quantize(weight, qparams) - weight
        return float((moments.errors(change) * rows.square()).sum())

    asked = spec.qparams_of(weight).whole_range()
    signal, after, found = unscaled.signal(plain), error(asked), None
    try:
        cut = search_clip(weight, moments, spec)
    except UnsupportedError:  # scales laid out in a way that it does not know
        return _Cut(None, signal, before, after)
    if (lower := error(cut)) < after:
        after, found = lower, cut
    return _Cut(found, signal, before, after)


def _outcome(known: Outcome, cut: _Cut) -> Outcome:
    ratio = cut.after / cut.before if cut.before > 0 else 1.0
    nearest, after = sqnr_db(cut.signal, cut.before), sqnr_db(cut.signal, cut.after)
    numbers = {
        **known.numbers,
        "error_ratio": ratio,
        "layer_sqnr_nearest": nearest,
        "layer_sqnr_learned": after,
    }
    changed = known.changed or cut.qparams is not None
    said = "ranges cut" if cut.qparams is not None else "no cut of its ranges lowers the error"
    if changed:
        said += f": {nearest:.1f} → {after:.1f} dB at its output"
    return Outcome(known.layer, changed, f"{known.reason}; {said}", numbers)


def awq_seconds(
    subject: Subject, mapping: QConfigMapping, layers: Layers, settings: AWQSettings
) -> float:
    """Seconds: two float passes, moments of the inputs twice, and the searches."""
    study = subject.study
    plan = study.plan(mapping)
    found, _ = find_scalable(study, plan, layers, linear_sources=True)
    total = 2.0 * settings.samples * pass_seconds(subject) + 0.01
    total += search_seconds(found, settings.rows, settings.tries)
    for name in layers:
        target = roundable(study, find_target(study, plan, name))
        if not isinstance(target, str):
            weight = target.inner(study.graph).weight
            each = moments_seconds(study, target, settings.samples)
            total += 2 * each + 21 * weight.numel() * (2e-8 + 2e-10 * weight[0].numel()) + 0.01
    return total
