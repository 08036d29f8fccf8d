"""Thresholds on what was measured, so that a job may fail where a model got too bad."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import pandas as pd

from qlab.analysis.report import Report
from qlab.errors import ArgumentError, UnknownNameError
from qlab.runs.measured import run_metrics

#: Kept in percent by the engine; shares from 0 to 1 on the command line and in its JSON.
SHARES = ("accuracy", "float_accuracy", "top1_agreement")
#: What a threshold may be set on, in words.
METRICS = {
    "sqnr": "SQNR of the network's output [dB]",
    "worst_sqnr": "lowest local SQNR of a layer [dB]",
    "nmse": "normalised mean squared error of the output",
    "cosine": "cosine of float and quantized output",
    "max_abs": "largest absolute error of the output",
    "accuracy": "share of right answers, 0 to 1",
    "float_accuracy": "that of the float model",
    "accuracy_drop": "float accuracy minus accuracy",
    "top1_agreement": "share of samples with the same answer as the float model, 0 to 1",
    "integer_share": "share of operators that compute on integers, 0 to 1",
    "float_bytes": "size of the float parameters",
    "quantized_bytes": "size of the quantized ones",
}


def report_metrics(report: Report) -> dict[str, float]:
    """The numbers of a report under the names of `METRICS`, and how many samples gave them."""
    return named_metrics(run_metrics(report), report.layers)


def named_metrics(
    numbers: Mapping[str, float], layers: pd.DataFrame | None = None
) -> dict[str, float]:
    """Metrics as a `qlab.Run` keeps them, with shares from 0 to 1.

    Args:
        numbers: The metrics.
        layers: One row per layer, for the lowest SQNR.
    """
    result = {n: v / 100 if n in SHARES else float(v) for n, v in numbers.items()}
    if "accuracy" in result and "float_accuracy" in result:
        result["accuracy_drop"] = result["float_accuracy"] - result["accuracy"]
    if layers is not None and len(layers):
        result["worst_sqnr"] = float(layers["sqnr_local"].to_numpy(float).min())
    return result


@dataclass(frozen=True)
class Gate:
    """One threshold.

    Attributes:
        metric: One of `METRICS`.
        side: Whether it fails ``"under"`` or ``"over"`` the bound.
        bound: In the metric's unit.
    """

    metric: str
    side: Literal["under", "over"]
    bound: float

    def passes(self, value: float) -> bool:
        """Whether a number passes; NaN never does."""
        return value >= self.bound if self.side == "under" else value <= self.bound


def parse_gate(text: str, side: Literal["under", "over"], *, change: bool = False) -> Gate:
    """A threshold from ``metric=number``; shares may be written ``0.95`` or ``95%``.

    Args:
        text: What was typed.
        side: On which side of the number it fails.
        change: Whether the number is the change of a metric, which may be negative.

    Raises:
        UnknownNameError: No such metric.
        ArgumentError: No number, or a share beyond 0 to 1.
    """
    metric, _, number = (part.strip() for part in text.partition("="))
    if metric not in METRICS:
        raise UnknownNameError.of("metric", metric, METRICS)
    try:
        bound = float(number[:-1]) / 100 if number.endswith("%") else float(number)
    except ValueError:
        bound = math.nan
    if math.isnan(bound):
        raise ArgumentError("Not a threshold", expected="metric=number", received=repr(text))
    least = -1 if change or metric == "accuracy_drop" else 0
    if metric in (*SHARES, "accuracy_drop", "integer_share") and not least <= bound <= 1:
        raise ArgumentError(
            f"{metric} is a share",
            expected=f"{least} to 1, such as 0.95 or 95%",
            received=number,
        )
    return Gate(metric, side, bound)


def check_gates(gates: Iterable[Gate], metrics: Mapping[str, float]) -> list[dict[str, Any]]:
    """Holds the thresholds against what was measured.

    Returns:
        One dict per gate: ``metric``, ``side``, ``bound``, ``value``, ``passed``.

    Raises:
        ArgumentError: A metric that was not measured.
    """
    results = []
    for gate in gates:
        if gate.metric not in metrics:
            needs = " (it needs labels)" if gate.metric.startswith(("acc", "float_acc")) else ""
            raise ArgumentError(
                f"{gate.metric} was not measured{needs}",
                expected="one of: " + ", ".join(name for name in METRICS if name in metrics),
            )
        value = metrics[gate.metric]
        results.append({**asdict(gate), "value": value, "passed": gate.passes(value)})
    return results
