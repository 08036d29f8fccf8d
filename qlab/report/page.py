"""Gathers what a report says, and fills its template."""

from __future__ import annotations

import math
import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Protocol

import jinja2
import pandas as pd
import plotly.graph_objects as go
import torch
from markupsafe import Markup
from plotly.offline import get_plotlyjs
from torch import fx

from qlab.analysis.calibration import Calibration
from qlab.analysis.causes import Cause
from qlab.analysis.report import Report
from qlab.analysis.what_if import WhatIf
from qlab.qconfig import QConfigMapping
from qlab.report.figures import errors_chart, histogram_chart
from qlab.report.terms import NUMBERS, WORDS
from qlab.stats import TensorStats

#: For how many of the layers with the lowest local SQNR histograms and causes are shown.
WORST = 5
_COLUMNS = {
    "type": "type",
    "execution": "runs as",
    "sqnr_local": "local SQNR [dB]",
    "sqnr_accumulated": "accumulated SQNR [dB]",
    "sqnr_ideal": "ideal SQNR [dB]",
    "rmse_scale_local": "RMSE/scale",
    "clipped_share": "clipped [%]",
}
_PACKAGES = ("qlab", "torch", "numpy", "plotly")


class Reported(Protocol):
    """What a report asks of a `qlab.Lab`."""

    @property
    def graph(self) -> fx.GraphModule: ...

    @property
    def data(self) -> str: ...

    @property
    def subject(self) -> str: ...

    @property
    def device(self) -> torch.device: ...

    def calibrate(self) -> Calibration: ...

    def compare(self, mapping: QConfigMapping, /) -> Report: ...

    def causes(self, name: str, mapping: QConfigMapping, /) -> tuple[Cause, ...]: ...

    def what_if(self, name: str, /, *, mapping: QConfigMapping) -> WhatIf: ...

    def statistics(self, name: str, kind: str, mapping: QConfigMapping, /) -> TensorStats: ...


@dataclass(frozen=True)
class Shown:
    """One of the worst layers.

    Attributes:
        name: The layer.
        row: Its numbers, as in ``Report.layers``.
        causes: What the engine found.
        what: How its tensors are quantized and what that costs.
        charts: Histograms as HTML, by what they are of.
    """

    name: str
    row: dict[str, Any]
    causes: tuple[Cause, ...]
    what: WhatIf
    charts: dict[str, Markup]


def html_report(lab: Reported, mapping: QConfigMapping, origin: str | None = None) -> bytes:
    """The report: one HTML file that holds all it needs, scripts included.

    Args:
        lab: The Lab; it is calibrated and the mapping measured, which is kept among its runs.
        mapping: The configuration.
        origin: What the model is called.

    Returns:
        UTF-8, some 5 MB: nearly all of it is plotly.

    Raises:
        NonFiniteError: NaN or infinity in a layer.
        UnknownNameError: The mapping holds something unregistered.
    """
    calibration, report = lab.calibrate(), lab.compare(mapping)
    plan = report.plan.to_frame().reset_index()
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("qlab.report", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    page = environment.get_template("template.html").render(
        title=origin or "A network",
        created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        facts=_facts(lab, calibration, report),
        metrics=[(*term, report.output[term[0]]) for term in NUMBERS if term[0] in report.output],
        words=WORDS,
        plan=[list(plan.columns), plan.to_numpy().tolist()],
        unmatched=report.plan.unmatched,
        layers=[list(_COLUMNS.values()), _rows(report.layers)],
        errors=_chart(errors_chart(report.layers), "errors"),
        worst=[_shown(lab, mapping, report, str(name)) for name in report.worst(WORST).index],
        recipe=mapping.to_json(indent=2),
        plotly=Markup(get_plotlyjs().replace("</script", "<\\/script")),
    )
    return page.encode()


def number(value: float) -> str:
    """Four significant digits; ``n/a`` for NaN."""
    if math.isnan(value):
        return "n/a"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    return f"{value:.4g}".replace("-", "−")


def _facts(lab: Reported, calibration: Calibration, report: Report) -> dict[str, str]:
    size, coverage = report.size, report.coverage
    return {
        "Size": f"{size.float_bytes:,} bytes in float, {size.quantized_bytes:,} quantized: "
        f"{size.ratio:.2f} times smaller",
        "Integer share": f"{coverage.integer_share:.1%}: of {coverage.total} operators "
        f"{coverage.integer} integer, {coverage.simulated} simulated, {coverage.float_} float",
        "Measured on": f"{report.samples} samples",
        "Calibrated on": f"{calibration.samples} samples",
        "Fingerprint of the calibration data": lab.data,
        "Fingerprint of model and evaluation data": lab.subject,
        "Device": str(lab.device),
        "Machine": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "Versions": ", ".join(f"{name} {_version(name)}" for name in _PACKAGES),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def _rows(layers: pd.DataFrame) -> list[tuple[str, list[Any]]]:
    rows = layers[list(_COLUMNS)].to_numpy(dtype=object).tolist()
    return [(str(name), row) for name, row in zip(layers.index, rows, strict=True)]


def _shown(lab: Reported, mapping: QConfigMapping, report: Report, name: str) -> Shown:
    what = lab.what_if(name, mapping=mapping)
    charts = {}
    for kind, qparams in (("weight", what.weight_qparams), ("activation", what.activation_qparams)):
        if qparams is not None:
            stats = lab.statistics(name, kind, mapping)
            chart = histogram_chart(stats, qparams, f"{kind} value")
            charts[kind] = _chart(chart, f"{kind}-{len(charts)}-{name}")
    row: dict[str, Any] = report.layers.loc[name].to_dict()
    return Shown(name, row, lab.causes(name, mapping), what, charts)


def _chart(chart: go.Figure, id: str) -> Markup:
    """A chart as HTML that the page's own copy of plotly draws."""
    # Hexadecimal, since a layer may be called anything.
    return Markup(
        chart.to_html(
            full_html=False,
            include_plotlyjs=False,
            div_id=f"chart-{id.encode().hex()}",
            config={"displayModeBar": False, "responsive": True},
        )
    )
