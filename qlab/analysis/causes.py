"""Why a layer loses precision: each cause with its number, its threshold and a remedy to try."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from qlab.granularity import PerAxis, PerTensor
from qlab.ranges import MSE, QuantizationError, TensorSpec
from qlab.stats import TensorStats

CHANNEL_SPREAD = 8.0  # times: three of eight bits lost to the smallest channel
HEAVY_TAIL = 4.0  # times: two of eight bits lost to the tail
ONE_SIDED_SHARE = 0.05  # of the range below zero
CLIPPING_SHARE = 0.5  # of the squared error
FEW_BITS = 8


@dataclass(frozen=True)
class Quantized:
    """One tensor of a layer together with how it is quantized.

    Attributes:
        kind: ``"weight"`` or ``"activation"``.
        spec: How it is quantized.
        stats: What it looks like.
        error: What quantizing it costs.
        channel_ranges: Largest magnitude per channel, shape (C,), where it is known.
    """

    kind: str
    spec: TensorSpec
    stats: TensorStats
    error: QuantizationError
    channel_ranges: Tensor | None = None


@dataclass(frozen=True)
class Cause:
    """One reason for a layer's error.

    Attributes:
        kind: Short name of the cause, such as ``"channel spread"``.
        tensor: ``"weight"`` or ``"activation"``.
        value: The measured number.
        threshold: From which value on it counts as a cause.
        sentence: The cause in words, with its number.
        remedy: The spec that would avoid it, or None.
        remedy_label: What the remedy does, as a button would say.
        gain_db: Measured change of the layer's output SQNR under the remedy [dB], once measured.
    """

    kind: str
    tensor: str
    value: float
    threshold: float
    sentence: str
    remedy: TensorSpec | None
    remedy_label: str
    gain_db: float | None = None


def find_causes(tensor: Quantized) -> Iterator[Cause]:
    """Every cause that applies to one tensor under its spec, unmeasured."""
    for finder in (_channel_spread, _one_sided, _heavy_tail, _clipping, _few_bits):
        cause = finder(tensor)
        if cause is not None:
            yield cause


def channel_ratio(channel_ranges: Tensor) -> float:
    """Largest over smallest non-zero channel range; 1 where fewer than two channels live."""
    alive = channel_ranges[channel_ranges > 0]
    return float(alive.max() / alive.min()) if alive.numel() > 1 else 1.0


def _channel_spread(tensor: Quantized) -> Cause | None:
    if tensor.channel_ranges is None or not isinstance(tensor.spec.granularity, PerTensor):
        return None
    ratio = channel_ratio(tensor.channel_ranges)
    if ratio < CHANNEL_SPREAD:
        return None
    remedy = None
    if tensor.kind == "weight":
        remedy = replace(tensor.spec, granularity=PerAxis(0))
    return Cause(
        "channel spread",
        tensor.kind,
        ratio,
        CHANNEL_SPREAD,
        f"The {tensor.kind}s of {tensor.channel_ranges.numel()} channels share one scale; "
        f"their ranges differ {ratio:.3g}×.",
        remedy,
        "Use one scale per channel",
    )


def _one_sided(tensor: Quantized) -> Cause | None:
    spec, stats = tensor.spec, tensor.stats
    if not spec.symmetric or tensor.kind == "weight" or spec.dtype.is_float:
        return None
    low, high = float(stats.min_val), float(stats.max_val)
    reach = max(-low, high)
    unused = 1.0 - min(-min(low, 0.0), max(high, 0.0)) / reach if reach > 0 else 0.0
    if unused < 1.0 - ONE_SIDED_SHARE:
        return None
    return Cause(
        "unused sign range",
        tensor.kind,
        unused,
        1.0 - ONE_SIDED_SHARE,
        f"The codes are symmetric around zero, but {100 * unused:.3g} % of one side is never used.",
        replace(spec, symmetric=False),
        "Use an affine range",
    )


def _heavy_tail(tensor: Quantized) -> Cause | None:
    stats = tensor.stats
    if tensor.spec.policy.name != "minmax" or not isinstance(tensor.spec.granularity, PerTensor):
        return None
    bulk = max(-float(stats.quantile(0.001)), float(stats.quantile(0.999)))
    reach = max(-float(stats.min_val), float(stats.max_val))
    ratio = reach / bulk if bulk > 0 else 1.0
    if ratio < HEAVY_TAIL:
        return None
    return Cause(
        "heavy tail",
        tensor.kind,
        ratio,
        HEAVY_TAIL,
        f"Min-max stretches to {reach:.3g}, {ratio:.3g}× beyond 99.8 % of the values.",
        replace(tensor.spec, policy=MSE()),
        "Choose the range by least squared error",
    )


def _clipping(tensor: Quantized) -> Cause | None:
    error = tensor.error
    share = error.clipping / error.total if error.total > 0 else 0.0
    if share < CLIPPING_SHARE or tensor.spec.policy.name == "mse":
        return None
    return Cause(
        "clipping",
        tensor.kind,
        share,
        CLIPPING_SHARE,
        f"{100 * error.clipped_share:.3g} % of the {tensor.kind}'s values lie outside the range "
        f"and carry {100 * share:.3g} % of the squared error.",
        replace(tensor.spec, policy=MSE()),
        "Choose the range by least squared error",
    )


def _few_bits(tensor: Quantized) -> Cause | None:
    dtype = tensor.spec.dtype
    if dtype.bits >= FEW_BITS:
        return None
    return Cause(
        "few bits",
        tensor.kind,
        dtype.bits,
        FEW_BITS,
        f"The {tensor.kind} has {dtype.levels} codes ({dtype.bits} bits); rounding carries "
        f"{100 * _rounding_share(tensor.error):.3g} % of its squared error.",
        tensor.spec.with_bits(FEW_BITS),
        "Use 8 bits",
    )


def _rounding_share(error: QuantizationError) -> float:
    return error.rounding / error.total if error.total > 0 else 1.0


def weight_channel_ranges(weight: Tensor) -> Tensor:
    """Largest magnitude of each output channel (axis 0), shape (C,)."""
    return torch.amax(weight.detach().abs().flatten(1), dim=1) if weight.ndim > 1 else weight.abs()
