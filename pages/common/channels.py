"""The error of each channel of a layer's output, measured when somebody asks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import streamlit as st

from pages.common import address
from pages.common.engine import wait_for
from pages.common.format import number
from pages.common.frame import View
from pages.common.glossary import define
from pages.common.jobs import Progress
from pages.common.loaded import Loaded
from pages.common.theme import THEME
from pages.figures.channels import channel_errors
from pages.figures.layout import CONFIG

if TYPE_CHECKING:
    import pandas as pd


def draw(view: View, loaded: Loaded, name: str) -> None:
    """Draws the switch, and below it one bar per channel, the worst first."""
    if not loaded.lab.plan(view.mapping).step(name).quantized:
        return
    address.keep(view.workspace, "channel_error", False, (True, False))
    wanted = st.toggle(
        "Error of each channel",
        key="channel_error",
        persist_state="session",
        help=define("channel sqnr"),
    )
    if not wanted:
        return
    table = _measured(view, loaded, name)
    sqnr = table["sqnr"].to_numpy(float)
    worst = int(sqnr.argmin())
    st.caption(
        f"Channel {worst} is the worst at {number(sqnr[worst], 'dB')}; half of the {len(sqnr)} "
        f"channels lie above {number(float(np.median(sqnr)), 'dB')}. As configured: knobs that are "
        "not applied are not in it."
    )
    st.plotly_chart(channel_errors(table), key="channel_errors", theme=THEME, config=CONFIG)


def _measured(view: View, loaded: Loaded, name: str) -> pd.DataFrame:
    mapping = view.mapping

    def work(progress: Progress) -> pd.DataFrame:
        progress.report(0, 0, "running the layer")
        return loaded.lab.channels(name, mapping)

    key = ("channels", *loaded.key, mapping, name)
    title = "Measuring the error of each channel"
    return wait_for(key, title, work, view.workspace, part="channels")
