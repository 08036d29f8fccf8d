"""The whole network in four numbers: what quantization cost, and what it gained."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st

from pages.common import stale
from pages.common.format import count, number, size
from pages.common.frame import View
from pages.common.glossary import define
from pages.common.loaded import Loaded, compare
from pages.common.stale import Standing
from pages.common.workspace import OUTCOME

if TYPE_CHECKING:
    from qlab.analysis.report import Report


def draw(report: Report, shown: Standing, *, trained: bool) -> None:
    """Draws the numbers; stale ones are greyed and say so.

    Args:
        report: The comparison that they come from.
        shown: Whether the configuration has changed since.
        trained: Whether the model's accuracy means anything.
    """
    mark = shown.mark
    with shown.container("headline"):
        accuracy, sqnr, bytes_, operators = st.columns(4)
        agreement = number(report.output["top1_agreement"], "%")
        if trained and "accuracy" in report.output:
            before, after = report.output["float_accuracy"], report.output["accuracy"]
            accuracy.metric(
                f"Accuracy{mark}",
                f"{number(before)} → {number(after, '%')}",
                delta=f"{number(after - before)} points",
                delta_arrow="off",
                delta_color="off" if after >= before else "red",
                help=define("accuracy"),
            )
        else:
            accuracy.metric(f"Same class{mark}", agreement, help=define("top1 agreement"))
        sqnr.metric(
            f"Output SQNR ↑{mark}", number(report.output["sqnr"], "dB"), help=define("sqnr")
        )
        bytes_.metric(
            f"Size{mark}",
            f"{size(report.size.float_bytes)} → {size(report.size.quantized_bytes)}",
            delta=f"{number(report.size.ratio)}× smaller",
            delta_arrow="off",
            delta_color="off",
            help=define("size"),
        )
        coverage = report.coverage
        operators.metric(
            f"Integer operators{mark}",
            f"{coverage.integer} of {coverage.total}",
            delta=f"{coverage.simulated} simulated, {coverage.float_} float",
            delta_arrow="off",
            delta_color="off",
            help=define("integer"),
        )
    images = f"{count(report.samples)} {'test' if trained else 'noise'} images"
    st.caption(f"Measured on {images}: both networks choose the same class on {agreement}.")


def network(view: View, loaded: Loaded) -> None:
    """The same numbers below another page, from the last comparison; computed only when asked."""
    st.subheader("Whole network", anchor=False)
    shown = stale.standing(view)
    if shown is None:
        st.caption("Not compared with the float network yet.")
        stale.ask(view, OUTCOME, "Compare", key="compare")
        return
    found = compare(loaded, shown.mapping, view.workspace)
    draw(found.report, shown, trained=loaded.sample.trained)
