"""What a Lab can do about accuracy that quantization lost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

from qlab.algorithms import (
    Hooks,
    Repaired,
    Subject,
    algorithm,
    estimate_seconds,
    run_repair,
)
from qlab.analysis.calibration import Progress, Stop
from qlab.errors import ArgumentError
from qlab.lab.base import LabBase, Mapping, resolve_mapping
from qlab.runs import record_report


class RepairableLab(LabBase):
    """A `LabBase` whose model can be repaired; see `Lab`."""

    def repair_with(
        self,
        name: str,
        mapping: Mapping = None,
        layers: Sequence[str] | None = None,
        *,
        on_progress: Progress | None = None,
        should_stop: Stop | None = None,
        **settings: Any,
    ) -> Repaired:
        """Runs an algorithm that wins accuracy back, and measures what it won; applies nothing.

        Args:
            name: A key of `qlab.algorithms.ALGORITHMS`, such as ``"equalize"``.
            mapping: The configuration to repair the model for.
            layers: The layers to repair; all that have a quantized weight if not given.
            on_progress: Called as ``(done, total, label)``.
            should_stop: Asked at each step; the result then says ``report.complete=False``, and
                its model and mapping are as before.
            **settings: The algorithm's own, and ``seed``.

        Raises:
            UnknownNameError: No such algorithm or layer.
            ArgumentError: No such setting, or a value that makes no sense.
            UnsupportedError: The model has no graph; says why.
        """
        hooks = Hooks(on_progress, should_stop)
        subject, resolved = self._subject(), resolve_mapping(mapping)
        with self._finding_the_first():
            return run_repair(
                algorithm(name), subject, resolved, layers, chosen=settings, hooks=hooks
            )

    def repair_seconds(
        self,
        name: str,
        mapping: Mapping = None,
        layers: Sequence[str] | None = None,
        **settings: Any,
    ) -> float:
        """How long `repair_with` will work here, about; measuring before and after not included."""
        subject, resolved = self._subject(), resolve_mapping(mapping)
        return estimate_seconds(name, subject, resolved, layers, settings)

    def _subject(self) -> Subject:
        return Subject(self._study, self._evaluation_data)

    def apply(self, repaired: Repaired) -> Self:
        """A Lab of the repaired model, whose reference stays the original one.

        This Lab stays as it is, and is the new one's `before`. What was measured becomes two runs,
        the latter the child of the former, so that ``lab.runs.undo()`` goes back.

        Args:
            repaired: What `repair_with` of this Lab gave.

        Raises:
            ArgumentError: It was stopped, or is of another model.
        """
        if repaired.base is not self._study.graph or repaired.measured is None:
            raise ArgumentError(
                "This repair cannot be applied here",
                expected="what repair_with of this Lab gave, run to its end",
                received="a repair that was stopped"
                if repaired.measured is None
                else "a repair of another model",
            )
        made = self.repaired(repaired.model, repaired.reference, (repaired.report,))
        made.mapping = repaired.mapping
        before, after = repaired.measured
        told: Any = {"seconds": 0.0, "subject": self.subject}
        first = record_report(self.runs, repaired.asked, before, **told)
        told = {"seconds": repaired.report.seconds, "subject": made.subject}
        told |= {"name": repaired.report.title, "parent": None if first is None else first.id}
        record_report(made.runs, repaired.mapping, after, **told)
        return made
