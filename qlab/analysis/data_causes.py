"""Causes that lie in the data that calibration saw: dead channels, batches that differ, too few."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from qlab.analysis.causes import (
    MSE_LABEL,
    Cause,
    Evidence,
    Quantized,
    SpecChange,
    can_search,
    fixed,
    searched,
)
from qlab.analysis.stability import THRESHOLD_DB, range_change
from qlab.ranges import MSE, Entropy, MinMax, Percentile, RangePolicy

DEAD_CHANNELS = 1
DRIFT = 1.5  # typical batch after over before a moment, all of them apart; half a bit
JUMP = 8.0  # largest over typical batch; 1 % of sets of 8 batches of Student's t with 3 degrees
FEWEST_BATCHES = 8  # four on either side of a moment: all apart by chance in 2 of 70 cases

MORE_DATA = "Calibrate on more data, in several batches"
REMOVE_LABEL = "Remove them from the model"
WHOLE_LABEL = "Take the range of all values (min-max)"


def dead_channels(evidence: Evidence, tensor: Quantized) -> Iterator[Cause]:
    """Channels that are always 0; the counterfactual is a range that does not count them.

    A policy that counts values lets zeros have a say. Extrema and squared errors do not: 0 is in
    every range and has a code of its own, so there the gain is 0 and nothing is offered.
    """
    ranges = tensor.channel_ranges
    dead, costs, saved = int((ranges == 0).sum()), "they cost time and no precision.", ""
    if dead < DEAD_CHANNELS:
        return
    if tensor.channel_size:
        saved = f" Removing them saves {dead * tensor.channel_size:,} weights of this layer."
    remedy, label = None, REMOVE_LABEL
    policy = tensor.spec.policy
    if isinstance(policy, Percentile | Entropy) and tensor.one_scale and dead < ranges.numel():
        without: RangePolicy = MSE()
        if isinstance(policy, Percentile):  # what lies beyond it is the same number of values
            without = Percentile(100 - (100 - policy.percent) * (1 - dead / ranges.numel()))
        remedy = evidence.change(tensor.kind, replace(tensor.spec, policy=without))
        label = f"Choose the range without them ({without.label})"
        costs = "the range counts their zeros as values."
    yield Cause(
        "dead channels",
        evidence.name,
        tensor.kind,
        dead,
        DEAD_CHANNELS,
        f"{dead} of {ranges.numel()} channels of the {tensor.kind} "
        f"{'is' if dead == 1 else 'are'} always 0: {costs}{saved}",
        remedy,
        label,
        None if remedy else 0.0,
    )


def unsteady_batches(evidence: Evidence, tensor: Quantized) -> Iterator[Cause]:
    """Batches that differ; the counterfactual is another range of all of them together."""
    stats, spec = tensor.stats, tensor.spec
    reach = torch.maximum(stats.batch_min.abs(), stats.batch_max.abs())
    if tensor.kind == "weight" or reach.numel() < FEWEST_BATCHES or fixed(spec):
        return
    typical, largest = float(reach.median()), float(reach.max())
    jump = largest / typical if typical > 0 else 1.0
    drift, at = _drift(reach)
    if drift >= DRIFT:
        value, threshold = drift, DRIFT
        seen = f"From batch {at} on, the batches reach {drift:.3g}× as far as those before"
        if float(reach[at:].median()) < float(reach[:at].median()):
            seen = f"Until batch {at}, the batches reach {drift:.3g}× as far as those after it"
    elif jump >= JUMP:
        value, threshold = jump, JUMP
        batch = int(stats.batch_index[int(reach.argmax())])
        seen = f"Batch {batch} reaches {jump:.3g}× as far as a typical batch"
    else:
        return
    remedy, label = _other_range(evidence, tensor)  # of all batches, whatever their order
    yield Cause(
        "non-stationary batches",
        evidence.name,
        tensor.kind,
        value,
        threshold,
        f"{seen}: the range depends on which data calibration saw, and in which order.",
        remedy,
        label,
    )


def _drift(reach: Tensor) -> tuple[float, int]:
    """Largest ratio of the medians before and after a batch where all before and after differ.

    Args:
        reach: Largest magnitude of each batch, in their order, float32 (B,).

    Returns:
        The ratio, 1 where there is no such batch, and the first batch after the change.
    """
    best, at = 1.0, 0
    for split in range(FEWEST_BATCHES // 2, reach.numel() - FEWEST_BATCHES // 2 + 1):
        low, high = sorted((reach[:split], reach[split:]), key=lambda part: float(part.median()))
        apart = float(low.max()) < float(high.min())
        ratio = float(high.median() / low.median()) if apart and float(low.median()) > 0 else 1.0
        if ratio > best:
            best, at = ratio, split
    return best, at


def moving_range(evidence: Evidence, tensor: Quantized) -> Iterator[Cause]:
    """Too few samples, by the number of `Stability`; the counterfactual is the other range."""
    if tensor.kind == "weight" or fixed(tensor.spec):
        return
    batches, change = tensor.stats.batch_index.numel(), range_change(tensor.stats)
    if not batches or change <= THRESHOLD_DB:
        return
    remedy, label = _other_range(evidence, tensor)
    sentence = (
        f"Half of the {batches} batches would have given a range whose error differs by "
        f"{change:.3g} dB: calibration has not seen enough."
    )
    if batches < 2:
        remedy, label = None, MORE_DATA
        sentence = (
            "Cannot tell from 1 batch whether calibration has seen enough: how much a range moves "
            "shows between batches."
        )
    yield Cause(
        "too few samples",
        evidence.name,
        tensor.kind,
        change,
        THRESHOLD_DB,
        sentence,
        remedy,
        label,
    )


def _other_range(evidence: Evidence, tensor: Quantized) -> tuple[SpecChange | None, str]:
    """The range of least squared error over all that was seen; where that is it, of all values.

    The counterfactual to a range that the order or the number of batches had a say in.
    """
    if fixed(tensor.spec):
        return None, "Shuffle the calibration data and check where it comes from"
    if can_search(tensor.spec):
        return evidence.change(tensor.kind, searched(tensor.spec)), MSE_LABEL
    return evidence.change(tensor.kind, replace(tensor.spec, policy=MinMax())), WHOLE_LABEL
