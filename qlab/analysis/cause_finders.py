"""The causes of a layer's error: for each the number, the threshold, the sentence, the remedy."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from qlab.analysis.causes import (
    MSE_LABEL,
    Cause,
    Evidence,
    Quantized,
    Remedy,
    SpecChange,
    SpecChanges,
    can_search,
    fixed,
    searched,
)
from qlab.analysis.data_causes import dead_channels, moving_range, unsteady_batches
from qlab.granularity import PerAxis
from qlab.ranges import MinMax, TensorSpec

# Thresholds. A ratio of ranges r costs the smaller side log2(r) bits, as all share the codes.
CHANNEL_SPREAD = 8.0  # largest over smallest channel: three of eight bits lost to the smallest
OUTLIER_CHANNEL = 8.0  # largest over median channel: three bits lost to half of the channels
OPERAND_SPREAD = 8.0  # three bits lost to the smaller operand
HEAVY_TAIL = 4.0  # two of eight bits lost to 99.8 % of the values
UNUSED_SIDE = 0.95  # of one side; all of it costs one bit
CLIPPING_SHARE = 0.5  # of the squared error: more than rounding does
INPUT_SHARE = 0.5  # of the squared error: more than the layer's own weight and output do
SHIFT_SHARE = 0.2  # of the squared error: a bias could take back a fifth of it, 1 dB
FEW_BITS = 8  # below it, every bit less costs about 6 dB
MORE_BITS = 16


def find_causes(evidence: Evidence) -> Iterator[Cause]:
    """Every cause that applies to a layer, unmeasured, in the order of the table."""
    for finder in FINDERS:
        yield from finder(evidence)


def _largest_and_rest(ranges: Tensor) -> tuple[Tensor, Tensor]:
    """Ranges of the channels far above the others, and those of the other channels in use."""
    alive = ranges[ranges > 0]
    far = alive >= OUTLIER_CHANNEL * alive.median() if alive.numel() else alive.bool()
    return alive[far], alive[~far]


def _outlier_channels(evidence: Evidence, tensor: Quantized) -> Iterator[Cause]:
    far, rest = _largest_and_rest(tensor.channel_ranges)
    if not tensor.one_scale or not far.numel():
        return
    alive = torch.cat([far, rest])
    ratio = float(alive.max() / alive.median())
    channels = "channels reaches" if far.numel() == 1 else "channels reach"
    yield _spread(
        evidence,
        tensor,
        ("outlier channels", ratio, OUTLIER_CHANNEL),
        f"{far.numel()} of {alive.numel()} {tensor.kind} {channels} up to {ratio:.3g}× as far as "
        "the median one, and all share one scale: few codes are left for the others.",
    )


def _channel_spread(evidence: Evidence, tensor: Quantized) -> Iterator[Cause]:
    _, rest = _largest_and_rest(tensor.channel_ranges)  # outliers are a cause of their own
    ratio = float(rest.max() / rest.min()) if rest.numel() > 1 else 1.0
    if not tensor.one_scale or ratio < CHANNEL_SPREAD:
        return
    yield _spread(
        evidence,
        tensor,
        ("channel spread", ratio, CHANNEL_SPREAD),
        f"The {tensor.kind}s of {rest.numel()} channels share one scale; "
        f"their ranges differ {ratio:.3g}×.",
    )


def _spread(
    evidence: Evidence, tensor: Quantized, number: tuple[str, float, float], sentence: str
) -> Cause:
    """A cause that one scale per channel would avoid, which only a weight can have.

    An output has one scale whatever its channels do, so that its two causes share what a
    configuration can do: a range that weighs the channels by their squared errors, and where it has
    that already, more codes. Algorithms that change the channels themselves are named beside it.
    """
    if tensor.kind == "activation":
        sentence += " An output has one scale only: it takes another range, or more codes."
    remedy: Remedy | None = None
    label = "Even out the channels across layers (equalization)"
    if tensor.kind == "weight":
        spec = replace(tensor.spec, granularity=PerAxis(tensor.channel_axis))
        remedy, label = evidence.change("weight", spec), "Use one scale per channel"
    elif can_search(tensor.spec):
        remedy, label = evidence.change("activation", searched(tensor.spec)), MSE_LABEL
    elif _widened(tensor.spec) != tensor.spec:
        remedy = evidence.change("activation", _widened(tensor.spec))
        label = f"Use {MORE_BITS} bits for this output, or {label[0].lower()}{label[1:]}"
    kind, value, threshold = number
    return Cause(kind, evidence.name, tensor.kind, value, threshold, sentence, remedy, label)


def _unused_side(evidence: Evidence, tensor: Quantized) -> Iterator[Cause]:
    spec, stats = tensor.spec, tensor.stats
    if not spec.symmetric or tensor.kind == "weight" or spec.dtype.is_float or fixed(spec):
        return
    low, high = min(float(stats.min_val), 0.0), max(float(stats.max_val), 0.0)
    reach = max(-low, high)
    unused = 1.0 - min(-low, high) / reach if reach > 0 else 0.0
    if unused < UNUSED_SIDE:
        return
    yield Cause(
        "unused sign range",
        evidence.name,
        tensor.kind,
        unused,
        UNUSED_SIDE,
        f"The codes are symmetric around zero, but {100 * unused:.3g} % of one side is never used.",
        evidence.change(tensor.kind, replace(spec, symmetric=False)),
        "Use an affine range",
    )


def _heavy_tail(evidence: Evidence, tensor: Quantized) -> Iterator[Cause]:
    if not isinstance(tensor.spec.policy, MinMax) or not tensor.one_scale:
        return
    ratio = tensor.stats.tail_ratio
    if ratio < HEAVY_TAIL:
        return
    reach = max(-float(tensor.stats.min_val), float(tensor.stats.max_val))
    yield Cause(
        "heavy tail",
        evidence.name,
        tensor.kind,
        ratio,
        HEAVY_TAIL,
        f"Min-max stretches to {reach:.3g}, {ratio:.3g}× as far as 99.8 % of the values reach.",
        evidence.change(tensor.kind, searched(tensor.spec)),
        MSE_LABEL,
    )


def _clipping(evidence: Evidence, tensor: Quantized) -> Iterator[Cause]:
    error = tensor.error
    share = error.clipping / error.total if error.total > 0 else 0.0
    if share < CLIPPING_SHARE or not can_search(tensor.spec):
        return
    yield Cause(
        "clipping",
        evidence.name,
        tensor.kind,
        share,
        CLIPPING_SHARE,
        f"{100 * error.clipped_share:.3g} % of the {tensor.kind}'s values lie outside the range "
        f"and carry {100 * share:.3g} % of its squared error.",
        evidence.change(tensor.kind, searched(tensor.spec)),
        MSE_LABEL,
    )


def _few_bits(evidence: Evidence, tensor: Quantized) -> Iterator[Cause]:
    dtype, error = tensor.spec.dtype, tensor.error
    if dtype.bits >= FEW_BITS:
        return
    rounding = error.rounding / error.total if error.total > 0 else 1.0
    yield Cause(
        "few bits",
        evidence.name,
        tensor.kind,
        dtype.bits,
        FEW_BITS,
        f"The {tensor.kind} has {dtype.levels} codes ({dtype.bits} bits); rounding carries "
        f"{100 * rounding:.3g} % of its squared error.",
        evidence.change(tensor.kind, tensor.spec.with_bits(FEW_BITS)),
        f"Use {FEW_BITS} bits",
    )


_JOINS = {"add": "sum", "add_relu": "sum", "cat": "concatenation", "stack": "stack"}


def _uneven_operands(evidence: Evidence) -> Iterator[Cause]:
    joined = sorted((o for o in evidence.operands if o.reach > 0), key=lambda o: o.reach)
    output = next((t for t in evidence.tensors if t.kind == "activation"), None)
    if len(joined) < 2 or output is None or evidence.row not in _JOINS:
        return
    ratio = joined[-1].reach / joined[0].reach
    if ratio < OPERAND_SPREAD:
        return
    remedy: Remedy | None = None
    label = f"Even out the operands of the {_JOINS[evidence.row]} (equalization)"
    if output.spec.dtype.bits < MORE_BITS and not output.spec.dtype.is_float:
        remedy = evidence.change("activation", output.spec.with_bits(MORE_BITS))
        label = f"Use {MORE_BITS} bits for the {_JOINS[evidence.row]}"
    yield Cause(
        "uneven operands",
        evidence.name,
        "activation",
        ratio,
        OPERAND_SPREAD,
        f"The {_JOINS[evidence.row]} has one scale, but {joined[-1].name!r} reaches "
        f"{ratio:.3g}× as far as {joined[0].name!r}, which is left with "
        f"{max(0.0, output.spec.dtype.bits - math.log2(ratio)):.2g} of "
        f"{output.spec.dtype.bits} bits.",
        remedy,
        label,
    )


def _quantized_input(evidence: Evidence) -> Iterator[Cause]:
    share = evidence.input_share
    if share is None or share < INPUT_SHARE:
        return
    searchable = any(can_search(source.spec) for source in evidence.sources)
    changes = []
    for source in evidence.sources:
        spec = searched(source.spec) if searchable else _widened(source.spec)
        if spec != source.spec:
            changes.append(SpecChange(source.asker, "activation", spec, source.found))
    own = any(source.asker.name == evidence.name for source in evidence.sources)
    words = "input and output" if own else "input"
    label = f"{MSE_LABEL}, for its {words}" if searchable else f"{MORE_BITS} bits for its {words}"
    askers = ", ".join(dict.fromkeys(repr(source.asker.name) for source in evidence.sources))
    yield Cause(
        "quantized input",
        evidence.name,
        "input",
        share,
        INPUT_SHARE,
        f"{100 * min(share, 1.0):.3g} % of the squared error of its output comes in with its "
        f"input, which is quantized as {askers} {'asks' if ',' not in askers else 'ask'}.",
        SpecChanges(tuple(dict.fromkeys(changes))) if changes else None,
        label,
    )


def _mean_shift(evidence: Evidence) -> Iterator[Cause]:
    share = evidence.shift_share
    if share is None or share < SHIFT_SHARE:
        return
    yield Cause(
        "mean shift",
        evidence.name,
        "activation",
        share,
        SHIFT_SHARE,
        f"{100 * share:.3g} % of the squared error of its output is a constant of each channel, "
        "which its bias could take back.",
        None,
        "Correct the biases",
    )


def _widened(spec: TensorSpec) -> TensorSpec:
    whole = spec.dtype.bits < MORE_BITS and not spec.dtype.is_float and not fixed(spec)
    return spec.with_bits(MORE_BITS) if whole else spec


def _each_tensor(
    finder: Callable[[Evidence, Quantized], Iterable[Cause]],
) -> Callable[[Evidence], Iterator[Cause]]:
    def find(evidence: Evidence) -> Iterator[Cause]:
        for tensor in evidence.tensors:
            yield from finder(evidence, tensor)

    return find


#: The table of causes: each looks at what is known of a layer and gives what it finds there.
FINDERS: tuple[Callable[[Evidence], Iterator[Cause]], ...] = (
    _each_tensor(_channel_spread),
    _each_tensor(_outlier_channels),
    _each_tensor(_unused_side),
    _each_tensor(_heavy_tail),
    _each_tensor(_clipping),
    _each_tensor(_few_bits),
    _each_tensor(dead_channels),
    _each_tensor(unsteady_batches),
    _each_tensor(moving_range),
    _uneven_operands,
    _quantized_input,
    _mean_shift,
)
