"""Cross-layer equalization: channels of very different range get along with one scale.

A channel whose weights are small beside the others' is rounded away where all share one scale.
Factors u > 0 per channel are moved from the layers that read a tensor to those that write it, so
that each channel's weights fill the same share of the range in both: with r and r' a channel's
largest weight in the writing and the reading layers, relative to the layer's own largest,
``u = sqrt(r' / r)``, repeated until nothing moves.

ReLU6 lets a factor through as long as the channel stays below 6. Kept, as is the default, channels
that calibration saw clipped stay as they are, and the others grow to at most 6. Replaced by ReLU,
as in the paper, all may move, but the network's function is no longer the same. Also with ReLU6
kept, and with biases absorbed, it is the same only as far as calibration saw: a larger value may be
clipped where it was not. The report says by how much it differs on the evaluation data.

Source: Nagel, van Baalen, Blankevoort, Welling: Data-Free Quantization Through Weight Equalization
and Bias Correction, 2019, arXiv 1906.04721, section 4.1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from qlab.algorithms.absorption import absorb
from qlab.algorithms.base import Change, Hooks, Layers, Outcome, Settings, Subject
from qlab.algorithms.frame import ensure_calibrated
from qlab.algorithms.same_function import difference_note, replaced_note
from qlab.algorithms.scale_groups import (
    GroupFinder,
    NoGroupError,
    ScaleGroup,
    input_rows,
    move_batch_norm,
    output_rows,
    ranges_of,
    scale_input,
    scale_output,
)
from qlab.algorithms.targets import copied
from qlab.analysis.study import Study
from qlab.errors import ArgumentError
from qlab.graph import Plan
from qlab.nn import intrinsic as nni
from qlab.nn.intrinsic.fold import core
from qlab.qconfig import QConfigMapping
from qlab.ranges import Fixed

_ROUNDS = 40
_SMALLEST_MOVE = 1e-3
_HEADROOM = 1.1  # what lies between the largest value seen and a clip, for data not seen
_WITHOUT_CLIP: dict[type[nn.Module], type[nn.Module]] = {
    nni.Conv1dReLU6: nni.ConvReLU1d,
    nni.Conv2dReLU6: nni.ConvReLU2d,
    nni.Conv3dReLU6: nni.ConvReLU3d,
    nni.LinearReLU6: nni.LinearReLU,
}


@dataclass(frozen=True)
class EqualizeSettings(Settings):
    """How channels are equalized.

    Attributes:
        relu6: ``"keep"`` leaves every ReLU6 and moves only what stays below its clip; ``"replace"``
            puts ReLU in its place, which changes the network's function: look at ``accuracy``.
        absorb: Whether biases that keep a channel above 0 for all calibration data move into the
            next layer ("bias absorption", section 4.1.3), which narrows activations.
    """

    relu6: str = "keep"
    absorb: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.relu6 not in ("keep", "replace"):
            raise ArgumentError(
                "Equalization either keeps ReLU6 or replaces it",
                expected="relu6='keep' or relu6='replace'",
                received=repr(self.relu6),
            )


@dataclass(eq=False)
class Scaled:
    """A group, the factors that it got so far, and what holds them back.

    Attributes:
        group: The layers.
        highest: The largest factor of each channel, (C,); 1 where it is held.
        held: Channels that must stay as they are, (C,) bool.
        factors: What the channels were multiplied with, (C,).
    """

    group: ScaleGroup
    highest: Tensor
    held: Tensor
    factors: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.factors = torch.ones_like(self.highest)


def equalize(
    subject: Subject,
    mapping: QConfigMapping,
    layers: Layers,
    settings: EqualizeSettings,
    hooks: Hooks,
) -> Change:
    """Cross-layer equalization of all groups whose layers were asked for; see the module."""
    study = subject.study
    plan, finder = study.plan(mapping), GroupFinder(study.graph)
    graph = copied(study.graph)
    graphs = [graph] if study.reference is study.graph else [graph, copied(study.reference)]
    groups, refused = _groups(finder, plan, layers)
    notes = _replace_clips(graphs, groups) if settings.relu6 == "replace" else ()
    if notes:
        study = _without_clips(subject, graphs, hooks)
        finder = GroupFinder(study.graph)
        groups, refused = _groups(finder, plan, layers)
    scaled = [_scaled(study, group) for group in groups]
    _equalize(graphs, finder, scaled, hooks)
    outcomes = {name: Outcome(name, False, reason) for name, reason in refused.items()}
    for entry in scaled:
        outcomes |= _outcomes(finder, entry)
    why, shifts = _clips_kept(scaled), dict[str, float | str]()
    for entry in scaled if settings.absorb else []:
        shift = absorb(study, finder, entry.group, entry.factors, graphs)
        why += ["absorbed biases"] if not isinstance(shift, str) and shift > 0 else []
        for node in entry.group.producers:
            shifts[finder.name(finder.nodes[node])] = shift
    outcomes |= {name: _with_absorbed(outcomes[name], shift) for name, shift in shifts.items()}
    outcomes = _with_inverses(finder, scaled, outcomes)
    order = [outcomes[name] for name in layers if name in outcomes]
    samples = study.calibration.samples if study.calibration is not None else 0
    if notes:
        notes = (*notes, replaced_note(subject, graphs[-1], hooks))
    elif why:
        notes = (difference_note(subject, graphs[-1], list(dict.fromkeys(why)), hooks),)
    return Change(graph, mapping, tuple(order), samples, graphs[-1], notes)


def _without_clips(subject: Subject, graphs: list[fx.GraphModule], hooks: Hooks) -> Study:
    """A study of the network whose clips are gone, calibrated: what follows them changed too."""
    graph, reference = copied(graphs[0]), copied(graphs[-1])
    study = subject.study.repaired(graph, reference)
    ensure_calibrated(Subject(study, subject.evaluation), hooks)
    return study


def _groups(
    finder: GroupFinder, plan: Plan, layers: Layers
) -> tuple[list[ScaleGroup], dict[str, str]]:
    """The groups to equalize, each once, and why other layers' outputs cannot be."""
    groups: dict[tuple[str, ...], ScaleGroup] = {}
    refused: dict[str, str] = {}
    for name in layers:
        try:
            group = _group(finder, plan, name, layers)
        except NoGroupError as reason:
            refused[name] = str(reason)
        else:
            groups[tuple(group.producers)] = group
    return list(groups.values()), refused


def _group(finder: GroupFinder, plan: Plan, name: str, layers: Layers) -> ScaleGroup:
    node = plan.step(name).node
    if finder.layer(finder.nodes[node]) is None:
        raise NoGroupError("it is no linear layer or convolution")
    group = finder.group_of(node)
    for other in (*group.producers, *group.consumers):
        called = finder.name(finder.nodes[other])
        if called not in layers:
            raise NoGroupError(f"it is tied to {called!r}, which was not asked for")
        spec = plan.step(called).weight
        if spec is not None and isinstance(spec.policy, Fixed):
            raise NoGroupError(f"the weights of {called!r} lie on a fixed grid already")
    return group


def _scaled(study: Study, group: ScaleGroup) -> Scaled:
    """A group with the factors that ReLU6 leaves it, by the largest values that were seen."""
    highest = torch.full((group.channels,), math.inf)
    held = torch.zeros(group.channels, dtype=torch.bool)
    for node in group.clips:
        largest = study.stats(node).channel_max
        largest = largest.reshape(group.channels, -1).amax(1)
        held |= largest * _HEADROOM >= 6.0
        highest = torch.minimum(highest, 6.0 / (largest * _HEADROOM).clamp_min(1e-30))
    return Scaled(group, torch.where(held, 1.0, highest), held)


def _clips_kept(scaled: list[Scaled]) -> list[str]:
    """A reason why the function may differ for data not seen, where a channel below a clip moved"""
    moved = any(entry.group.clips and bool((entry.factors != 1).any()) for entry in scaled)
    return ["ReLU6 kept"] if moved else []


def _equalize(
    graphs: list[fx.GraphModule], finder: GroupFinder, scaled: list[Scaled], hooks: Hooks
) -> None:
    for done in range(_ROUNDS):
        hooks.step(done, _ROUNDS, "equalizing")
        moved = 0.0
        for entry in scaled:
            factors = _step(graphs[0], finder, entry)
            for graph in graphs:
                _apply(graph, finder, entry.group, factors)
            entry.factors = entry.factors * factors
            moved = max(moved, float(factors.log().abs().max()))
        if moved < _SMALLEST_MOVE:
            break
    hooks.step(_ROUNDS, _ROUNDS, "equalizing")


def _inner(graph: fx.GraphModule, finder: GroupFinder, node: str) -> Any:
    return core(graph.get_submodule(str(finder.nodes[node].target)))


def _step(graph: fx.GraphModule, finder: GroupFinder, entry: Scaled) -> Tensor:
    """The factors that balance a group once, within what holds them back, on the CPU."""
    group, channels = entry.group, entry.group.channels
    writing = (output_rows(_inner(graph, finder, n)) for n in group.producers)
    reading = (input_rows(_inner(graph, finder, n)) for n in group.consumers)
    r, other = ranges_of(writing, channels).cpu(), ranges_of(reading, channels).cpu()
    alive = (r > 0) & (other > 0) & ~entry.held
    factors = torch.where(alive, (other / r.clamp_min(1e-30)).sqrt(), 1.0)
    return torch.minimum(factors, entry.highest / entry.factors)


def _apply(graph: fx.GraphModule, finder: GroupFinder, group: ScaleGroup, factors: Tensor) -> None:
    for node in group.producers:
        layer = _inner(graph, finder, node)
        scale_output(layer, factors.to(layer.weight))
        move_batch_norm(graph, node, factors=factors)
    for node in group.consumers:
        layer = _inner(graph, finder, node)
        scale_input(layer, 1.0 / factors.to(layer.weight))


def _replace_clips(graphs: list[fx.GraphModule], groups: list[ScaleGroup]) -> tuple[str, ...]:
    """Puts ReLU in place of every ReLU6 of the groups; says where."""
    names = list(dict.fromkeys(node for group in groups for node in group.clips))
    if not names:
        return ()
    for graph in graphs:
        nodes = {node.name: node for node in graph.graph.nodes}
        for name in names:
            path = str(nodes[name].target)
            module: Any = graph.get_submodule(path)
            if type(module) in _WITHOUT_CLIP:
                made = _WITHOUT_CLIP[type(module)](module[0], nn.ReLU())
            else:
                made = nn.ReLU()
                nodes[name].meta["kind"] = nn.ReLU
            graph.add_submodule(path, made.train(module.training))
    called = [str(node.meta["name"]) for node in graphs[0].graph.nodes if node.name in names]
    return (f"ReLU6 became ReLU, which is another function, in {', '.join(called)}",)


def _outcomes(finder: GroupFinder, entry: Scaled) -> Mapping[str, Outcome]:
    group, factors = entry.group, entry.factors
    readers = ", ".join(finder.name(finder.nodes[n]) for n in group.consumers)
    low, high = float(factors.min()), float(factors.max())
    reason = f"balanced with {readers}: factors from {low:.3g} to {high:.3g}"
    if held := int(entry.held.sum()):
        reason += f"; {held} of {group.channels} channels stay, since ReLU6 clips them"
    numbers = {"factor_min": low, "factor_max": high, "held": float(held)}
    changed = bool((factors != 1).any())
    names = [finder.name(finder.nodes[n]) for n in group.producers]
    return {name: Outcome(name, changed, reason, numbers) for name in names}


def _with_absorbed(outcome: Outcome, shift: float | str) -> Outcome:
    said = shift if isinstance(shift, str) else f"biases of up to {shift:.3g} absorbed"
    absorbed = 0.0 if isinstance(shift, str) else shift
    numbers, changed = {**outcome.numbers, "absorbed": absorbed}, outcome.changed or absorbed > 0
    return Outcome(outcome.layer, changed, f"{outcome.reason}; {said}", numbers)


def _with_inverses(
    finder: GroupFinder, scaled: list[Scaled], outcomes: Mapping[str, Outcome]
) -> dict[str, Outcome]:
    """Says of layers that only read a changed group, such as the last, that they changed too."""
    made = dict(outcomes)
    for entry in scaled:
        writers = [finder.name(finder.nodes[n]) for n in entry.group.producers]
        if not any(outcomes[name].changed for name in writers):
            continue
        moved = bool((entry.factors != 1).any())
        taken = "the inverse factors" if moved else "the absorbed biases"
        for name in (finder.name(finder.nodes[n]) for n in entry.group.consumers):
            own = made[name]
            if not own.changed:
                reason = f"takes {taken} of {', '.join(writers)}; its output stays: {own.reason}"
                made[name] = Outcome(name, True, reason, own.numbers)
    return made


def equalize_seconds(
    subject: Subject, mapping: QConfigMapping, layers: Layers, settings: EqualizeSettings
) -> float:
    """Seconds: each round reads and writes every weight a few times, at about 1 ns per number."""
    weights = sum(p.numel() for p in subject.study.graph.parameters())
    return _ROUNDS * (6e-9 * weights + 2e-4 * len(layers)) + 0.01
