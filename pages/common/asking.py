"""What *Sensitivity* is asked: which configurations, and what the heat map shows of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st

from pages.common import address, stale
from pages.common.frame import View
from pages.common.glossary import define
from pages.common.loaded import Loaded
from pages.common.sensitivities import (
    ACCURACY,
    ALONE,
    ESTIMATE,
    KINDS,
    SQNR,
    WIDTHS,
    YOURS,
    Candidates,
    candidates,
)
from pages.common.workspace import Workspace

if TYPE_CHECKING:
    from qlab.analysis.sensitivity import Sensitivity

KIND = "sensitivity"
ORDERS = ("graph order", "most sensitive first")


def configurations(view: View, loaded: Loaded) -> tuple[Candidates, bool]:
    """Draws the choice of configurations.

    Returns:
        Them by name, and whether one of them is an older state of the configuration in force.
    """
    from qlab.presets import PRESETS

    own = [YOURS] if view.workspace.changes(view.choice) else []
    names, widths = st.columns([3, 2], vertical_alignment="top")
    _keep_many(view.workspace, "sensitivity_presets", view.choice.preset, [*own, *PRESETS])
    chosen = names.multiselect(
        "Configurations",
        [*own, *PRESETS],
        key="sensitivity_presets",
        help=f"{define('candidates')} *{YOURS}* is the preset with your changes.",
        persist_state="session",
    )
    _keep_many(view.workspace, "sensitivity_bits", "4", WIDTHS)
    bits = widths.pills(
        "Weight bits",
        WIDTHS,
        selection_mode="multi",
        key="sensitivity_bits",
        help="The preset of the sidebar with weights of so many bits, as candidates w2 to w8.",
        persist_state="session",
    )
    standing = stale.at_once(view, KIND) if YOURS in chosen else None
    presets = [name for name in chosen if name != YOURS]
    asked = candidates(
        loaded, view.choice.preset, presets, sorted(bits), standing and standing.mapping
    )
    return asked, bool(standing and standing.stale)


def _keep_many(space: Workspace, key: str, default: str, options: object) -> None:
    """As `address.keep`, for a widget with several choices."""
    held = st.session_state.get(key)
    given = str(space.settings.get(key, default)).split(",") if held is None else list(held)
    known = [value for value in given if value in options]  # pyright: ignore[reportOperatorIssue]
    if held != known:
        st.session_state[key] = known
    if space.settings.get(key, default) != ",".join(known):
        space.set(key, ",".join(known))


def shown(view: View, found: Sensitivity, *, measured: bool) -> tuple[str, str, str]:
    """Draws the choice of what the heat map shows.

    Args:
        view: What the page was given.
        found: What is known.
        measured: Whether there is more than an estimate.

    Returns:
        The kind, the measure and the order.
    """
    kinds, measures, orders = st.columns([3, 2, 3], vertical_alignment="bottom")
    kind: str | None = ESTIMATE
    if measured:
        address.keep(view.workspace, "sensitivity_kind", ALONE, KINDS)
        kind = kinds.segmented_control(
            "Quantized",
            KINDS,
            required=True,
            key="sensitivity_kind",
            persist_state="session",
            help=f"**On alone:** {define('on alone')} **Off alone:** {define('off alone')} "
            f"**Estimate:** {define('sensitivity estimate')}",
        )
    else:
        kinds.markdown("Estimate of *on alone*", help=define("sensitivity estimate"))
    measure: str | None = SQNR
    if found.metric == "accuracy" and kind != ESTIMATE:
        address.keep(view.workspace, "sensitivity_measure", ACCURACY, (ACCURACY, SQNR))
        measure = measures.segmented_control(
            "By",
            (ACCURACY, SQNR),
            required=True,
            key="sensitivity_measure",
            persist_state="session",
            help=f"{define('sqnr')} {define('accuracy')}",
        )
    address.keep(view.workspace, "sensitivity_order", ORDERS[0], ORDERS)
    order = orders.segmented_control(
        "Layers in", ORDERS, required=True, key="sensitivity_order", persist_state="session"
    )
    return str(kind), str(measure), str(order)
