"""Knobs for one tensor's quantization: widgets in, `TensorSpec` out."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import streamlit as st

from pages.common.glossary import define

if TYPE_CHECKING:
    from qlab.granularity import Granularity
    from qlab.ranges import RangePolicy, TensorSpec

WIDTHS = ("2", "3", "4", "5", "6", "7", "8", "16", "float8 e4m3", "float8 e5m2")
FLOAT8 = {"float8 e4m3": "float8_e4m3fn", "float8 e5m2": "float8_e5m2"}
SCHEMES = ("affine", "symmetric")
PERCENTS = (90.0, 95.0, 98.0, 99.0, 99.5, 99.9, 99.95, 99.99, 99.999, 100.0)
GROUPS = (8, 16, 32, 64)
PERCENT = 99.99
TITLES = {"weight": "Weight", "activation": "Output activation"}
PARTS = ("bits", "scheme", "granularity", "policy", "percent")


@dataclass(frozen=True)
class Knobs:
    """The knobs of one tensor.

    Attributes:
        kind: `"weight"` or `"activation"`; prefix of the widgets' keys.
        spec: What the configuration says; what no knob shows stays as it is here.
        start: How the knobs stand at first.
        token: Names what they belong to; when it changes they are set to `start` anew.
        shape: The weight's shape, which says what granularities fit; None for an activation,
            which integer kernels read with one scale.
    """

    kind: str
    spec: TensorSpec
    start: TensorSpec
    token: Hashable
    shape: tuple[int, ...] | None = None


def keep_in_float(start: bool, token: Hashable) -> bool:
    """Draws the switch that takes a whole layer out of quantization."""
    state = st.session_state
    if state.get("in_float_token") != token or "in_float" not in state:
        state["in_float"] = start
    state["in_float_token"] = token
    return st.toggle(
        "Keep in float",
        key="in_float",
        help="The layer computes in float32, as in the original model.",
    )


def draw(knobs: Knobs) -> TensorSpec:
    """Draws the knobs and returns the spec that they describe.

    Raises:
        QlabError: They do not fit each other; the message says which.
    """
    kind, granularities, policies = knobs.kind, _granularities(knobs), _policies(knobs)
    percent = _seed(knobs, granularities, policies)
    st.subheader(TITLES[kind], anchor=False)
    (left, right), (below_left, below_right) = st.columns(2), st.columns(2)
    left.select_slider("Bits", WIDTHS, key=f"{kind}_bits", help=define("bits"))
    right.segmented_control(
        "Scheme",
        SCHEMES,
        key=f"{kind}_scheme",
        required=True,
        disabled=st.session_state[f"{kind}_bits"] in FLOAT8,
        help=define("scheme"),
    )
    below_left.selectbox(
        "Granularity",
        list(granularities),
        key=f"{kind}_granularity",
        disabled=len(granularities) == 1,
        help=define("granularity" if len(granularities) > 1 else "one scale"),
    )
    below_right.selectbox("Observer", list(policies), key=f"{kind}_policy", help=define("observer"))
    if st.session_state[f"{kind}_policy"] == "percentile":
        percents = sorted({*PERCENTS, percent})
        st.select_slider("Percentile", percents, key=f"{kind}_percent", help=define("percentile"))
    return _read(knobs, granularities, policies)


def _granularities(knobs: Knobs) -> dict[str, Granularity]:
    """What fits the tensor, by what people call it."""
    from qlab.granularity import PerAxis, PerGroup, PerTensor

    options: list[Granularity] = []
    if knobs.shape is not None:
        inputs = knobs.shape[1] if len(knobs.shape) > 1 else 1
        options = [PerTensor(), PerAxis(0)]
        options += [PerGroup(g, 1) for g in GROUPS if g < inputs and inputs % g == 0]
    options += [knobs.spec.granularity, knobs.start.granularity]
    return {_words(option): option for option in options}


def _words(granularity: Granularity) -> str:
    from qlab.granularity import PerAxis, PerGroup

    match granularity:
        case PerAxis(axis):
            return "per channel" if axis == 0 else f"per index of axis {axis}"
        case PerGroup(size):
            return f"per group of {size}"
    return "per tensor"


def _policies(knobs: Knobs) -> dict[str, RangePolicy]:
    """Every observer that chooses from data, and what the configuration has, by label."""
    from qlab.ranges import MSE, Entropy, MinMax, MovingAverage, Percentile

    known = (MinMax(), MovingAverage(), Percentile(), MSE(), Entropy())
    return {_label(policy): policy for policy in (*known, knobs.spec.policy, knobs.start.policy)}


def _label(policy: RangePolicy) -> str:
    return "percentile" if policy.name == "percentile" else policy.label


def _width(spec: TensorSpec) -> str:
    names = {dtype: width for width, dtype in FLOAT8.items()}
    return names.get(spec.dtype.name, str(spec.dtype.bits))


def _seed(
    knobs: Knobs, granularities: dict[str, Granularity], policies: dict[str, RangePolicy]
) -> float:
    """Sets the widgets where they belong to something else or were not drawn lately.

    Returns:
        The percentile that the widgets stand at, whether it is drawn or not.
    """
    from qlab.ranges import Percentile

    state, start, kind = st.session_state, knobs.start, knobs.kind
    policy = start.policy
    values = (
        _width(start),
        "symmetric" if start.symmetric or start.dtype.is_float else "affine",
        next(name for name, option in granularities.items() if option == start.granularity),
        next(name for name, option in policies.items() if option == policy),
        policy.percent if isinstance(policy, Percentile) else PERCENT,
    )
    other = state.get(f"{kind}_token") != knobs.token
    for part, value in zip(PARTS, values, strict=True):
        if other or f"{kind}_{part}" not in state:
            state[f"{kind}_{part}"] = value
    state[f"{kind}_token"] = knobs.token
    return state[f"{kind}_percent"]


def _read(
    knobs: Knobs, granularities: dict[str, Granularity], policies: dict[str, RangePolicy]
) -> TensorSpec:
    """The spec that the widgets describe; what they do not show stays as it is."""
    from qlab.dtypes import as_qdtype
    from qlab.ranges import Percentile

    spec = knobs.spec
    width, scheme, granularity, policy, percent = (
        st.session_state[f"{knobs.kind}_{part}"] for part in PARTS
    )
    changed: dict[str, Any] = {
        "symmetric": scheme == "symmetric",
        "granularity": granularities[granularity],
        "policy": Percentile(percent) if policy == "percentile" else policies[policy],
    }
    if width == _width(spec):
        return replace(spec, **changed)
    signed = spec.dtype.signed if not spec.dtype.is_float else knobs.kind == "weight"
    dtype = as_qdtype(FLOAT8.get(width, f"q{'' if signed else 'u'}int{width}"))
    return replace(spec, dtype=dtype, quant_min=None, quant_max=None, reduce_range=False, **changed)
