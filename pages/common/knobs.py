"""Knobs for one tensor's quantization: widgets in, `TensorSpec` out."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import streamlit as st

from pages.common import words
from pages.common.glossary import define

if TYPE_CHECKING:
    from qlab.granularity import Granularity
    from qlab.ranges import RangePolicy, TensorSpec

PERCENTS = (90.0, 95.0, 98.0, 99.0, 99.5, 99.9, 99.95, 99.99, 99.999, 100.0)
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
    left.select_slider("Bits", words.WIDTHS, key=f"{kind}_bits", help=define("bits"))
    right.segmented_control(
        "Scheme",
        words.SCHEMES,
        key=f"{kind}_scheme",
        required=True,
        disabled=st.session_state[f"{kind}_bits"] in words.FLOAT8,
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
    others = (knobs.spec.granularity, knobs.start.granularity)
    return words.granularities(knobs.shape, others)


def _policies(knobs: Knobs) -> dict[str, RangePolicy]:
    """Every observer that chooses from data, and what the configuration has, by label."""
    from qlab.ranges import Percentile

    offered = words.policies([PERCENT], (knobs.spec.policy, knobs.start.policy))
    return {
        "percentile" if isinstance(policy, Percentile) else label: policy
        for label, policy in offered.items()
    }


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
        *words.words_of(start)[:3],
        "percentile" if isinstance(policy, Percentile) else policy.label,
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
    from qlab.ranges import Percentile

    bits, scheme, granularity, policy, percent = (
        st.session_state[f"{knobs.kind}_{part}"] for part in PARTS
    )
    return words.altered(
        knobs.spec,
        knobs.kind,
        bits,
        scheme == "symmetric",
        granularity=granularities[granularity],
        policy=Percentile(percent) if policy == "percentile" else policies[policy],
    )
