"""One weight under three granularities: what the shared scale has to cover, and what it costs."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import pandas as pd
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from pages.common import messages, source
from pages.common.format import count, number, size
from pages.common.frame import View
from pages.common.glossary import define
from pages.common.theme import THEME
from pages.figures.channels import channel_ranges
from pages.figures.layout import CONFIG
from pages.lessons import knobs
from qlab.analysis import grid

if TYPE_CHECKING:
    from torch import Tensor

    from qlab.analysis.formats import FormatCost

SENTENCE = (
    "Weights that share one scale share the range of the largest among them. More scales fit more "
    "closely and take more bytes."
)
MADE_UP = {
    "channels of unequal range": 100.0,
    "channels of equal range": 1.0,
    "one outlier in each channel": 0.0,
}
KINDS = ("per tensor", "per channel", "per group")
GROUPS = (4, 8, 9, 16, 32, 64)
CHANNELS, INPUTS, SEED = 32, 64, 0


def draw(view: View) -> None:
    """The weight's ranges against what its codes express, and all three in numbers."""
    left, right = st.columns([1, 3], gap="large")
    with left:
        chosen = source.pick(view, "granularity", list(MADE_UP), "Weight")
        if chosen == source.LAYER:
            weight = source.layer_weight(view, "granularity")
        else:
            weight = made_up(chosen)
    if weight is not None:
        _bench(view, weight.flatten(1), (left, right))


@lru_cache(maxsize=8)
def made_up(kind: str) -> Tensor:
    """A weight (32, 64): ranges spread evenly on a logarithmic axis, or one outlier a channel."""
    import torch

    weight = torch.randn(CHANNELS, INPUTS, generator=torch.Generator().manual_seed(SEED))
    spread = MADE_UP[kind]
    if not spread:
        places = torch.arange(CHANNELS)
        weight[places, places] = weight.abs().max() * 4
        return weight
    return weight * torch.logspace(0, -torch.tensor(spread).log10().item(), CHANNELS)[:, None]


@st.fragment
def _bench(view: View, weight: Tensor, places: tuple[DeltaGenerator, DeltaGenerator]) -> None:
    with messages.shown("granularity"):
        left, right = places
        with left:
            space = view.workspace
            bits = knobs.bits(space, "granularity", 4)
            sizes = [n for n in GROUPS if weight.shape[1] % n == 0 and n < weight.shape[1]]
            group = 1
            if sizes:
                key, at_first = f"granularity_group_of_{weight.shape[1]}", sizes[len(sizes) // 2]
                shown = [str(n) for n in sizes]
                chosen = knobs.choice(space, key, "Group of", shown, str(at_first), define("group"))
                group = int(chosen)
        costs = _costs(weight, bits, group)
        with right:
            kind = knobs.segmented(
                space, "granularity_shown", "One scale", KINDS, help=define("granularity")
            )
            _chart(weight, costs[kind])
            _table(costs, kind)


def _costs(weight: Tensor, bits: int, group: int) -> dict[str, FormatCost]:
    from qlab.analysis.formats import cost_of
    from qlab.dtypes import integer
    from qlab.granularity import PerAxis, PerGroup, PerTensor
    from qlab.ranges import TensorSpec

    kinds = zip(KINDS, (PerTensor(), PerAxis(0), PerGroup(group, 1)), strict=True)
    return {
        kind: cost_of(weight, TensorSpec(integer(bits, signed=True), True, granularity))
        for kind, granularity in kinds
    }


def _chart(weight: Tensor, cost: FormatCost) -> None:
    low, high = grid.extrema(weight, cost.qparams)
    noun = "groups" if len(low) > len(weight) else "channels"
    chart = channel_ranges(low, high, clip=grid.bounds(cost.qparams), noun=noun)
    chart.update_layout(height=300)
    st.plotly_chart(chart, key="granularity_ranges", theme=THEME, config=CONFIG)
    st.caption("Grey: what the weights take. Behind each in blue: what its codes can express.")


def _table(costs: dict[str, FormatCost], shown: str) -> None:
    rows = [
        {
            "one scale": f"▸ {kind}" if kind == shown else kind,
            "scales": count(cost.qparams.scale.numel()),
            "range": _range(cost),
            "SQNR": cost.error.sqnr_db,
            "of scales": size(cost.scale_bytes),
            "bits": cost.bits_per_value,
        }
        for kind, cost in costs.items()
    ]
    column = st.column_config
    st.dataframe(
        pd.DataFrame(rows),
        hide_index=True,
        key="granularity_table",
        column_config={
            "one scale": column.TextColumn("One scale", help=define("granularity")),
            "scales": column.TextColumn("Scales", help=define("scale")),
            "range": column.TextColumn("From … to", help=define("scale")),
            "SQNR": column.NumberColumn("SQNR [dB] ↑", format="%.1f", help=define("sqnr")),
            "of scales": column.TextColumn("Scales take", help=define("scale bytes")),
            "bits": column.NumberColumn(
                "Bits/value ↓", format="%.2f", help=define("bits per value")
            ),
        },
    )


def _range(cost: FormatCost) -> str:
    low, high = (float(end) for end in cost.qparams.scale.aminmax())
    return number(low) if low == high else f"{number(low)} … {number(high)}"
