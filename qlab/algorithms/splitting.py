"""Outlier-channel splitting: a channel with large weights becomes two with half of them each.

One large weight stretches a scale and coarsens all that share it. Where what writes a layer's
input gives a channel twice, its weights can be halved, ``w x = w/2 x + w/2 x``, which leaves the
float function as it is and the range smaller; a channel may be split again. With the step Δ of the
smaller range, copy i of m holds ``w/m + Δ (i/m + 1/(2m) - 1/2)``: these sum to w, and their nearest
codes sum to the nearest code of w, so that halving costs no precision. Channels of the largest
weights are split first, and as many as serve the layer's output best, out of a few shares.

The layer and the one that writes its input grow by the channels split. Where other readers, a
residual or a norm fix the width in between, the layer is left as it is.

Source: Zhao, Hu, Dotzel, De Sa, Zhang: Improving Neural Network Quantization without Retraining
using Outlier Channel Splitting, 2019, arXiv 1901.09504 (weights; section 3.2 for Δ, with any m
here). Splitting channels of activations is not done.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.conv import _ConvNd

from qlab.algorithms.base import Change, Hooks, Layers, Outcome, Settings, Subject, check_positive
from qlab.algorithms.gptq import roundable
from qlab.algorithms.moments import Moments
from qlab.algorithms.targets import (
    Target,
    Walk,
    calibration_inputs,
    copied,
    find_target,
    moments_seconds,
    pass_seconds,
    set_weight,
)
from qlab.algorithms.writers import find_writer
from qlab.analysis.causes import SpecChange
from qlab.analysis.metrics import sqnr_db
from qlab.analysis.study import Study
from qlab.errors import ArgumentError
from qlab.execution import Program
from qlab.granularity import PerAxis, PerTensor
from qlab.graph import Plan
from qlab.nn.intrinsic.fold import core
from qlab.qconfig import QConfigMapping
from qlab.qparams import QParams, fake_quantize
from qlab.ranges import Fixed, TensorSpec

PAPER = (
    "Zhao, Hu, Dotzel, De Sa, Zhang: Improving Neural Network Quantization without Retraining "
    "using Outlier Channel Splitting, 2019, arXiv 1901.09504"
)


@dataclass(frozen=True)
class SplitSettings(Settings):
    """How many channels may be split. Nothing is drawn at random: every seed gives the same.

    Attributes:
        shares: Of a layer's input channels, how many are added; each is tried.
        samples: How many calibration samples are used.
    """

    shares: tuple[float, ...] = (0.01, 0.02, 0.05, 0.1)
    samples: int = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("Splitting", self, ("samples",))
        object.__setattr__(self, "shares", tuple(self.shares))
        if not self.shares or not all(0 < share <= 1 for share in self.shares):
            raise ArgumentError(
                "Splitting: shares lie between 0 and 1, 1 included", received=self.shares
            )


@dataclass(frozen=True, eq=False)
class Split:
    """A layer's input channels, some of them several times.

    Attributes:
        target: The layer.
        writer: Node of the layer that writes its input, which grows too.
        copies: How often there is each channel, (I,).
        qparams: The scales of the grown weight.
        errors: Squared error of the output before and after.
        signal: ``Σ y²``.
    """

    target: Target
    writer: str
    copies: Tensor
    qparams: QParams
    errors: tuple[float, float]
    signal: float


def split_outliers(
    subject: Subject,
    mapping: QConfigMapping,
    layers: Layers,
    settings: SplitSettings,
    hooks: Hooks,
) -> Change:
    """Splits the input channels of the largest weights; see the module."""
    study = subject.study
    plan = study.plan(mapping)
    batches, samples = calibration_inputs(study, settings.samples)
    walk, outcomes, splits = Walk(Program.of(study.reference), batches), list[Outcome](), {}
    doubled = dict[str, str]()  # the layer that reads, by the one whose channels it doubles
    for done, name in enumerate(layers):
        place = (done, len(layers), f"splitting channels of {name}")
        hooks.step(*place)
        target = _splittable(study, roundable(study, find_target(study, plan, name)))
        writer = target if isinstance(target, str) else find_writer(study, target, plan)
        if not isinstance(writer, str):
            writer = _not_asked(plan, writer, layers) or writer
        if isinstance(target, str) or isinstance(writer, str):
            outcomes.append(Outcome(name, False, str(writer)))
            continue
        walk.before(target.node)
        inputs = hooks.along(walk.inputs(target.node), *place)
        moments = Moments.of(target.module(study.graph), inputs)
        split = _best(study, target, writer.name, moments, settings.shares)
        called = str(writer.meta.get("name", writer.name))
        outcomes.append(_outcome(name, split, called))
        if split is not None:
            splits[target.node] = split
            doubled[called] = name
    graph = copied(study.graph)
    same = study.reference is study.graph
    reference = graph if same else copied(study.reference)
    for made in (graph,) if same else (graph, reference):
        for split in splits.values():
            grow(made, split)
    for split in splits.values():
        mapping = _with_scales(mapping, split, splits)
    hooks.step(len(layers), len(layers), "splitting channels")
    told = tuple(_with_doubled(outcome, doubled.get(outcome.layer)) for outcome in outcomes)
    return Change(graph, mapping, told, samples, reference if splits else None)


def _not_asked(plan: Plan, writer: fx.Node, layers: Layers) -> str | None:
    """Why a layer that is to be quantized, and was not asked for, may not grow."""
    name = str(writer.meta.get("name", writer.name))
    tied = plan.step(name).weight is not None and name not in layers
    return f"it is tied to {name!r}, which was not asked for" if tied else None


def _with_doubled(outcome: Outcome, reader: str | None) -> Outcome:
    """Says of a layer that writes what another one splits that it grows as well."""
    if reader is None:
        return outcome
    said = f"has the channels twice that {reader!r} splits"
    return replace(outcome, changed=True, reason=f"{said}; {outcome.reason}")


def _splittable(study: Study, target: Target | str) -> Target | str:
    if isinstance(target, str):
        return target
    if target.groups(study.graph) != 1:
        return "its input channels come in groups, which would have to grow together"
    spec = target.step.weight
    if spec is None or spec.granularity not in (PerTensor(), PerAxis(0)):
        return "its input channels do not share their scales"
    return target


def split_weight(weight: Tensor, copies: Tensor, qparams: QParams | None = None) -> Tensor:
    """A weight with some input channels several times; copies of one sum to what it was.

    Args:
        weight: float (O, I, …).
        copies: How often there shall be each channel, int (I,).
        qparams: The grid for which the copies' nearest codes shall sum to that of the original;
            equal copies if not given.

    Returns:
        (O, sum of copies, …).
    """
    index = source_channels(copies)
    first = copies.cumsum(0) - copies
    rank = torch.arange(len(index), device=index.device) - first[index]
    shape = (1, -1, *[1] * (weight.ndim - 2))
    count = copies[index].reshape(shape).to(weight.dtype)
    made = weight.index_select(1, index) / count
    if qparams is None:
        return made
    scale = qparams.granularity.expand(qparams.scale, made.shape)
    return made + scale * ((rank.reshape(shape) + 0.5) / count - 0.5)


def source_channels(copies: Tensor) -> Tensor:
    """Which of the original channels each grown one is a copy of."""
    return torch.arange(len(copies), device=copies.device).repeat_interleave(copies)


def copies_for(weight: Tensor, added: int) -> Tensor:
    """How often to have each input channel, so that the largest share of a weight is least."""
    reach = weight.detach().abs().transpose(0, 1).flatten(1).amax(1)
    copies = torch.ones(len(reach), dtype=torch.int64, device=weight.device)
    for _ in range(added):
        copies[(reach / copies).argmax()] += 1
    return copies


def _best(
    study: Study, target: Target, writer: str, moments: Moments, shares: Sequence[float]
) -> Split | None:
    """The share that serves the output best; None where none lowers its error."""
    spec = target.step.weight
    assert spec is not None
    weight = target.inner(study.graph).weight.detach()
    asked = study.weight_qparams(target.name, spec)[0]
    before = float(moments.errors(fake_quantize(weight, asked) - weight).sum())
    best, least = None, before
    for added in sorted({math.ceil(share * weight.shape[1]) for share in shares}):
        copies = copies_for(weight, added)
        qparams = _scales(weight, copies, spec)
        found = fake_quantize(split_weight(weight, copies, qparams), qparams)
        joined = torch.zeros_like(weight, dtype=found.dtype).index_add_(
            1, source_channels(copies), found
        )
        error = float(moments.errors(joined - weight).sum())
        if error < least:
            least = error
            errors, signal = (before, error), moments.signal(weight)
            best = Split(target, writer, copies, qparams, errors, signal)
    return best


def _scales(weight: Tensor, copies: Tensor, spec: TensorSpec) -> QParams:
    return spec.qparams_of(split_weight(weight, copies)).whole_range()


def grow(graph: fx.GraphModule, split: Split) -> None:
    """Puts a split into a graph: its layer reads more channels, and the one before writes them."""
    nodes = {node.name: node for node in graph.graph.nodes}
    index = source_channels(split.copies)
    reader: Any = split.target.inner(graph)
    set_weight(reader, split_weight(reader.weight.detach(), split.copies, split.qparams))
    writer: Any = core(graph.get_submodule(str(nodes[split.writer].target)))
    set_weight(writer, writer.weight.detach().index_select(0, index))
    if writer.bias is not None:
        writer.bias = nn.Parameter(writer.bias.detach()[index], writer.bias.requires_grad)
    inputs = "in_channels" if isinstance(reader, _ConvNd) else "in_features"
    outputs = "out_channels" if isinstance(writer, _ConvNd) else "out_features"
    setattr(reader, inputs, len(index))
    setattr(writer, outputs, len(index))
    meta = nodes[split.writer].meta
    if "batch_norm" in meta:
        meta["batch_norm"] = tuple(tuple(v[i] for i in index.tolist()) for v in meta["batch_norm"])
    for name in (split.writer, split.target.node):
        module = graph.get_submodule(str(nodes[name].target))
        nodes[name].meta["parameters"] = sum(p.numel() for p in module.parameters())


def _with_scales(mapping: QConfigMapping, split: Split, splits: dict[str, Split]) -> QConfigMapping:
    """The mapping with the scales of a grown weight, whose rows another split may have copied."""
    step, qparams = split.target.step, split.qparams
    behind = next((s for s in splits.values() if s.writer == split.target.node), None)
    if behind is not None and qparams.granularity == PerAxis(0):
        index = source_channels(behind.copies)
        qparams = replace(qparams, scale=qparams.scale[index], zero_point=qparams.zero_point[index])
    assert step.weight is not None and step.requested is not None
    spec = replace(step.weight, policy=Fixed.of(qparams))
    return SpecChange(step.address, "weight", spec, step.requested)(mapping)


def _outcome(name: str, split: Split | None, writer: str) -> Outcome:
    if split is None:
        return Outcome(name, False, "no split of its channels lowers the error", {"added": 0.0})
    added = int(split.copies.sum()) - len(split.copies)
    before, after = (sqnr_db(split.signal, error) for error in split.errors)
    numbers = {
        "added": float(added),
        "error_ratio": split.errors[1] / split.errors[0],
        "layer_sqnr_nearest": before,
        "layer_sqnr_learned": after,
    }
    said = f"{added} channels beside its {len(split.copies)}: {before:.1f} → {after:.1f} dB"
    return Outcome(name, True, f"{said} at its output; {writer!r} writes them", numbers)


def split_seconds(
    subject: Subject, mapping: QConfigMapping, layers: Layers, settings: SplitSettings
) -> float:
    """Seconds: a float pass, moments of the inputs, and each share tried."""
    study = subject.study
    total = settings.samples * pass_seconds(subject) + 0.01
    for name in layers:
        target = roundable(study, find_target(study, study.plan(mapping), name))
        if not isinstance(target, str):
            weight = target.inner(study.graph).weight
            each = weight.numel() * (1e-7 + 2e-10 * weight[0].numel()) + 0.005
            total += moments_seconds(study, target, settings.samples)
            total += (1 + len(settings.shares)) * each
    return total
