"""The layers of a model as a table: what they are, what feeds them, what quantization costs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from pages.common.format import shape

if TYPE_CHECKING:
    from qlab import Lab
    from qlab.analysis.report import Report

#: Column of the report, by the name of the error.
ERRORS = {"local": "sqnr_local", "accumulated": "sqnr_accumulated"}


@dataclass(frozen=True, eq=False)
class Described:
    """Every layer of a model under a configuration.

    Attributes:
        rows: Indexed by layer name in graph order, with `type`, `execution`, `inputs`, `in` and
            `out` (shapes as text), `parameters`, `fused`, `reason`, and the columns of `ERRORS`
            in dB, NaN where a layer is not quantized.
    """

    rows: pd.DataFrame

    @classmethod
    def of(cls, lab: Lab, report: Report) -> Described:
        """Describes the model of a lab under the configuration of a report."""
        # Layers that nothing called have no step; the engine says of the layer itself why.
        steps = {step.name: step for step in report.plan.steps}
        runs = [steps.get(layer.name) for layer in lab.layers]
        rows = pd.DataFrame(
            {
                "type": [layer.type for layer in lab.layers],
                "execution": ["float" if step is None else step.execution for step in runs],
                "inputs": [layer.inputs for layer in lab.layers],
                "in": [shape(layer.input_shape) for layer in lab.layers],
                "out": [shape(layer.output_shape) for layer in lab.layers],
                "parameters": [layer.parameters for layer in lab.layers],
                "fused": [", ".join(layer.fused) for layer in lab.layers],
                "reason": [
                    layer.reason if step is None else step.reason
                    for layer, step in zip(lab.layers, runs, strict=True)
                ],
            },
            index=[layer.name for layer in lab.layers],
        )
        return cls(rows.join(report.layers[list(ERRORS.values())]))

    @property
    def names(self) -> list[str]:
        """Names of the layers in graph order."""
        return [str(name) for name in self.rows.index]

    def coloured_by(self, error: str) -> pd.DataFrame:
        """The rows with one of `ERRORS` as their `sqnr`."""
        return self.rows.assign(sqnr=self.rows[ERRORS[error]])

    def table(self) -> pd.DataFrame:
        """What people read, one row per layer; what they compare first, for a narrow screen."""
        first = ["type", "execution", *ERRORS.values(), "parameters"]
        rest = self.rows.columns.difference([*first, "inputs", "reason"], sort=False)
        return self.rows.reindex(columns=[*first, *rest]).rename_axis("layer")

    def errors_of(self, name: str) -> dict[str, float]:
        """SQNR [dB] of one layer by the name of the error; nothing if it is not quantized."""
        row = self.rows.loc[name]
        found = {term: float(row[column]) for term, column in ERRORS.items()}
        return {term: value for term, value in found.items() if not math.isnan(value)}

    def in_words(self, name: str) -> str:
        """One layer in a line: type, shapes, how it runs."""
        row = self.rows.loc[name]
        return f"{row['type']} {row['in']} → {row['out']}, runs as {row['execution']}"

    def left_in_float(self) -> tuple[pd.DataFrame, int]:
        """What computes in float, with the engine's reason; how many only move elements."""
        rows = self.rows
        left = pd.DataFrame(
            {"Type": rows["type"], "Why": rows["reason"]}, index=rows.index.rename("Layer")
        )
        return left.loc[rows["execution"] == "float", :], sum(rows["execution"] == "shared")
