"""The fewest layers that reach a target: with more bits than asked for, or in float."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from qlab.algorithms.base import Hooks, Subject
from qlab.algorithms.frame import measured_report
from qlab.algorithms.keep_float import KeepSettings, keep_in_float
from qlab.algorithms.remedies import MORE, with_more_bits
from qlab.algorithms.repair_log import Attempt, Target
from qlab.analysis.causes import Cause
from qlab.analysis.report import Report
from qlab.analysis.sensitivity import kept_in_float
from qlab.qconfig import QConfigMapping


@dataclass(frozen=True, eq=False)
class State:
    """A model and a configuration on the way, what was measured of them, and how they came."""

    subject: Subject
    mapping: QConfigMapping
    report: Report | None
    steps: tuple[Attempt, ...] = ()

    @property
    def output(self) -> dict[str, float]:
        """The network's metrics; empty before they were measured."""
        return {} if self.report is None else dict(self.report.output)


class Fewest:
    """Looks for the fewest layers, those first that cost the network most when quantized alone.

    Args:
        start: What it starts from; it stays as it is.
        remedy: `MORE` for 8 bits, else layers are left in float.
        target: What is to be reached.
        seed: Of everything drawn at random.
        hooks: For progress and to stop.

    Attributes:
        tried: What was measured, by the number of layers.
    """

    def __init__(self, start: State, remedy: str, target: Target, seed: int, hooks: Hooks) -> None:
        self.start, self.target, self.seed, self.hooks = start, target, seed, hooks
        self.few: Mapping[str, tuple[Cause, ...]] | None = None
        self.widens = remedy == MORE
        self.ranked: tuple[str, ...] = ()
        self.tried: dict[int, State] = {}

    def search(self) -> None:
        """Measures 1, 2, 4, … layers until the target is reached, then halves the gap.

        Raises:
            StoppedError: It was asked to stop; what was measured until then is in ``tried``.
        """
        plan = self.start.subject.study.plan(self.start.mapping)
        names = tuple(step.name for step in plan.steps if step.quantized)
        self.ranked = self._ranked(names)
        # With more than half of the layers it would be another configuration altogether.
        most = min(len(names) // 2, len(self.ranked))
        low, count = 0, 1
        while count <= most and not self._reaches(count):
            low, count = count, 2 * count if count == most else min(2 * count, most)
        if count > most:
            return
        while count - low > 1:
            middle = (low + count) // 2
            low, count = (low, middle) if self._reaches(middle) else (middle, count)

    def best(self) -> tuple[tuple[str, ...], State] | None:
        """The fewest layers that reach the target, or those that come nearest to it."""
        best: tuple[tuple[str, ...], State] | None = None
        for count, state in sorted(self.tried.items()):
            if self.target.reached(state.output):
                return self.ranked[:count], state
            if best is None or self.target.better(state.output, best[1].output):
                best = self.ranked[:count], state
        return best

    def _ranked(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """The layers of these that can be changed, the worst first."""
        start = self.start
        if self.widens:
            self.few = with_more_bits(start.subject, start.mapping, self.hooks)
            names = tuple(name for name in names if name in self.few)
        if not names:
            return ()
        settings = KeepSettings(seed=self.seed)
        change = keep_in_float(start.subject, start.mapping, names, settings, self.hooks)
        shares = {o.layer: o.numbers["noise_share"] for o in change.outcomes if o.numbers}
        return tuple(sorted(shares, key=lambda name: -shares[name]))

    def _reaches(self, count: int) -> bool:
        start = self.start
        mapping, plan = start.mapping, start.subject.study.plan(start.mapping)
        for name in self.ranked[:count]:
            if self.few is None:
                mapping = kept_in_float(mapping, plan.step(name))
            else:
                for cause in self.few[name]:
                    mapping = cause.apply(mapping)
        report = measured_report(start.subject, mapping, self.hooks)
        self.tried[count] = State(start.subject, mapping, report)
        return self.target.reached(report.output)
