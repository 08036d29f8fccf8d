"""The whole network in four numbers: what quantization cost, and what it gained."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st

from pages.common import models, stale
from pages.common.format import count, number, size
from pages.common.frame import View
from pages.common.glossary import define
from pages.common.loaded import Loaded, compare
from pages.common.stale import Standing
from pages.common.workspace import OUTCOME

if TYPE_CHECKING:
    from pages.common.models import OwnModel
    from qlab.analysis.report import Report
    from sample_models import SampleModel


def draw(report: Report, shown: Standing, sample: SampleModel | OwnModel) -> None:
    """Draws the numbers; stale ones are greyed and say so.

    Args:
        report: The comparison that they come from.
        shown: Whether the configuration has changed since.
        sample: The model, which says whether its accuracy means anything, and what its data are.
    """
    trained = sample.trained and not models.noise(sample)
    mark = shown.mark
    with shown.container("headline"):
        accuracy, sqnr, bytes_, operators = st.columns(4)
        scores = "top1_agreement" in report.output  # else the outputs rank no classes
        agreement = number(report.output["top1_agreement"], "%") if scores else "n/a"
        if trained and "accuracy" in report.output:
            before, after = report.output["float_accuracy"], report.output["accuracy"]
            accuracy.metric(
                f"Accuracy ↑{mark}",
                f"{number(before)} → {number(after, '%')}",
                delta=f"{number(after - before)} points",
                delta_arrow="off",
                delta_color="off" if after >= before else "red",
                help=define("accuracy"),
            )
        else:
            accuracy.metric(f"Same class ↑{mark}", agreement, help=define("top1 agreement"))
        sqnr.metric(
            f"Output SQNR ↑{mark}", number(report.output["sqnr"], "dB"), help=define("sqnr")
        )
        bytes_.metric(
            f"Size ↓{mark}",
            f"{size(report.size.float_bytes)} → {size(report.size.quantized_bytes)}",
            delta=f"{number(report.size.ratio)}× smaller",
            delta_arrow="off",
            delta_color="off",
            help=define("size"),
        )
        coverage = report.coverage
        operators.metric(
            f"Integer operators ↑{mark}",
            f"{coverage.integer} of {coverage.total}",
            delta=f"{coverage.simulated} simulated, {coverage.float_} float",
            delta_arrow="off",
            delta_color="off",
            help=define("integer"),
        )
    images = f"{count(report.samples)} {models.kind_of_data(sample)}"
    told = f"both networks choose the same class on {agreement}"
    told = told if scores else "the outputs are no scores of classes"
    st.caption(f"Measured on {images}: {told}.")


def network(view: View, loaded: Loaded) -> None:
    """The same numbers below another page, from the last comparison; computed only when asked."""
    st.subheader("Whole network", anchor=False)
    shown = stale.standing(view)
    if shown is None:
        st.caption("Not compared with the float network yet.")
        stale.ask(view, OUTCOME, "Compare", key="compare")
        return
    found = compare(loaded, shown.mapping, view.workspace)
    draw(found.report, shown, loaded.sample)
