"""What people call the parts of a `TensorSpec`, both ways."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from qlab.granularity import Granularity
    from qlab.ranges import RangePolicy, TensorSpec

WIDTHS = ("2", "3", "4", "5", "6", "7", "8", "16", "float8 e4m3", "float8 e5m2")
FLOAT8 = {"float8 e4m3": "float8_e4m3fn", "float8 e5m2": "float8_e5m2"}
SCHEMES = ("affine", "symmetric")
GROUPS = (8, 16, 32, 64)


class Words(NamedTuple):
    """A spec in words."""

    bits: str
    scheme: str
    granularity: str
    observer: str


def words_of(spec: TensorSpec) -> Words:
    """A spec in words, each of which is one option of its widget."""
    scheme = "symmetric" if spec.symmetric or spec.dtype.is_float else "affine"
    return Words(width(spec), scheme, granularity_words(spec.granularity), spec.policy.label)


def width(spec: TensorSpec) -> str:
    """The width of a spec's codes: `"8"`, `"float8 e4m3"`."""
    names = {dtype: words for words, dtype in FLOAT8.items()}
    return names.get(spec.dtype.name, str(spec.dtype.bits))


def granularity_words(granularity: Granularity) -> str:
    """Who shares a scale, such as `"per channel"`."""
    from qlab.granularity import PerAxis, PerGroup

    match granularity:
        case PerAxis(axis):
            return "per channel" if axis == 0 else f"per index of axis {axis}"
        case PerGroup(size):
            return f"per group of {size}"
    return "per tensor"


def granularities(shape: tuple[int, ...] | None, others: Iterable[Granularity] = ()) -> dict:
    """Granularities by their words.

    Args:
        shape: Of a weight, which says how many inputs a group may have; None for an activation,
            which integer kernels read with one scale.
        others: What is to be on offer besides.
    """
    from qlab.granularity import PerAxis, PerGroup, PerTensor

    options: list[Granularity] = []
    if shape is not None:
        inputs = shape[1] if len(shape) > 1 else 1
        options = [PerTensor(), PerAxis(0)]
        options += [PerGroup(g, 1) for g in GROUPS if g < inputs and inputs % g == 0]
    return {granularity_words(option): option for option in (*options, *others)}


def policies(percents: Iterable[float], others: Iterable[RangePolicy] = ()) -> dict:
    """Every observer that chooses from data, by its label.

    Args:
        percents: Percentiles on offer.
        others: What is to be on offer besides.
    """
    from qlab.ranges import MSE, Entropy, MinMax, MovingAverage, Percentile

    known = (MinMax(), MovingAverage(), *map(Percentile, percents), MSE(), Entropy())
    return {policy.label: policy for policy in (*known, *others)}


def altered(spec: TensorSpec, kind: str, bits: str, symmetric: bool, **changed: Any) -> TensorSpec:
    """A spec with other parts; whatever is not named stays as it is.

    Args:
        spec: The spec.
        kind: `"weight"`, whose integers are signed where float8 was before, or `"activation"`.
        bits: One of `WIDTHS`.
        symmetric: The scheme.
        changed: Fields of `TensorSpec`: granularity and policy.

    Raises:
        QlabError: The parts do not fit each other.
    """
    from qlab.dtypes import as_qdtype

    changed["symmetric"] = symmetric
    if bits == width(spec):
        return replace(spec, **changed)
    signed = spec.dtype.signed if not spec.dtype.is_float else kind == "weight"
    dtype = as_qdtype(FLOAT8.get(bits, f"q{'' if signed else 'u'}int{bits}"))
    return replace(spec, dtype=dtype, quant_min=None, quant_max=None, reduce_range=False, **changed)
