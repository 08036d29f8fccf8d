"""What `Lab.repair` tried, what it kept and why, as data and as an explanation in sentences."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import fx

from qlab.algorithms.base import Repaired
from qlab.analysis.report import Report
from qlab.errors import ArgumentError, DTypeError
from qlab.qconfig import QConfigMapping

TARGETS = {"accuracy": " %", "top1_agreement": " %", "sqnr": " dB", "cosine": ""}
_MOST = {"accuracy": 100.0, "top1_agreement": 100.0, "cosine": 1.0}
_LABELS = {"sqnr": "SQNR", "top1_agreement": "top-1 agreement"}


@dataclass(frozen=True)
class Target:
    """How good a network is to become.

    Attributes:
        least: The least value of each metric that counts.
        missing: What each lacked at the start, in its unit.
    """

    least: Mapping[str, float]
    missing: Mapping[str, float]

    @classmethod
    def of(cls, target: float | Mapping[str, float], output: Mapping[str, float]) -> Target:
        """A target for a network whose metrics are ``output`` now.

        Raises:
            ArgumentError: A metric that is not measured here, or no number.
            DTypeError: Neither a number nor a mapping.
        """
        if isinstance(target, bool) or not isinstance(target, int | float | Mapping):
            raise DTypeError(
                "A repair needs a target",
                expected="a number, or numbers by metric such as {'sqnr': 20}",
                received=type(target).__name__,
            )
        if not isinstance(target, Mapping):
            target = {"accuracy" if "accuracy" in output else "sqnr": target}
        known = [name for name in TARGETS if name in output]
        for name, value in target.items():
            if name not in known or isinstance(value, bool) or not isinstance(value, int | float):
                raise ArgumentError(
                    "A target is a number for a metric that is measured here",
                    expected=" or ".join(known),
                    received=f"{name}={value!r}",
                )
        if not target or not all(
            0 <= value <= _MOST.get(name, math.inf) and math.isfinite(value)
            for name, value in target.items()
        ):
            most = (f" to {_MOST[n]:g}{TARGETS[n]}" if n in _MOST else " on" for n in known)
            raise ArgumentError(
                "A target needs a number to reach, which is finite",
                expected=" or ".join(f"{n} from 0{m}" for n, m in zip(known, most, strict=True)),
                received=repr(dict(target)),
            )
        least = {name: float(value) for name, value in target.items()}
        return cls(least, {name: _short(value, output[name]) for name, value in least.items()})

    def reached(self, output: Mapping[str, float]) -> bool:
        """Whether every metric is where it is to be."""
        return all(output[name] >= value for name, value in self.least.items())

    def shortfall(self, output: Mapping[str, float]) -> float:
        """What is missing, as a share of what was missing at the start, summed over metrics."""
        total = 0.0
        for name, value in self.least.items():
            short = _short(value, output[name])
            total += short / (self.missing[name] or 1.0) if math.isfinite(short) else math.inf
        return total

    def better(self, now: Mapping[str, float], before: Mapping[str, float]) -> bool:
        """Whether less is missing, or as much, and the output is closer to the float one's."""
        a, b = self.shortfall(now), self.shortfall(before)
        return a < b if a != b else now["sqnr"] > before["sqnr"] + _AUDIBLE

    def describe(self) -> str:
        """The target in words."""
        return " and ".join(told(name, value) for name, value in self.least.items())

    def change(self, before: Mapping[str, float], after: Mapping[str, float]) -> str:
        """The metrics that count, and SQNR, before and after, in words."""
        names = dict.fromkeys([*self.least, "sqnr"])
        return ", ".join(
            f"{_LABELS.get(n, n)} {before[n]:.4g} → {after[n]:.4g}{TARGETS[n]}" for n in names
        )


_AUDIBLE = 0.1  # dB; less is as good as nothing


def _short(least: float, value: float) -> float:
    return math.inf if math.isnan(value) else max(0.0, least - value)


def told(metric: str, value: float) -> str:
    """A metric and its value with the unit, in words."""
    return f"{_LABELS.get(metric, metric)} {value:.4g}{TARGETS[metric]}"


@dataclass(frozen=True, eq=False)
class Attempt:
    """One remedy that was tried, or why it was not.

    Attributes:
        remedy: A key of `qlab.algorithms.REMEDIES`.
        title: Its name for people.
        why: What suggested it, with the number.
        verdict: What became of it, in words.
        kept: Whether it helped and was kept; a later step may have replaced it.
        mapping: The configuration that it made; None where it was not run to its end.
        measured: What was measured before and after it; None likewise. Before is the state that it
            started from, which lacks the steps in ``replaces``.
        repaired: What the algorithm made; None for a change of the configuration.
        replaces: Titles of the steps that were taken back for it.
        seconds: What it took, measuring included.
        estimate: What its algorithm was expected to take.
    """

    remedy: str
    title: str
    why: str
    verdict: str
    kept: bool = False
    mapping: QConfigMapping | None = None
    measured: tuple[Report, Report] | None = None
    repaired: Repaired | None = None
    replaces: tuple[str, ...] = ()
    seconds: float = 0.0
    estimate: float = 0.0

    def describe(self) -> str:
        """The attempt in a sentence or two, for people."""
        why = f"{self.why} " if self.why else ""
        return f"{why}{self.title}: {self.verdict}."


@dataclass(frozen=True, eq=False)
class AutoRepair:
    """What `Lab.repair` found, ready for `Lab.apply`; a Lab stays as it is until then.

    Attributes:
        target: What was to be reached.
        reached: Whether it was.
        complete: False where a person stopped it; the best until then is what there is.
        before: The network's metrics at the start, as ``Report.output``; empty where it was stopped
            before they were known.
        after: The same of the best found.
        steps: What the best is made of, in order; empty where nothing helped.
        attempts: Everything that was tried or passed over, in order.
        model: The float graph of the best, which is quantized from now on.
        mapping: The configuration of the best.
        base: The graph that was repaired.
        asked: The configuration that it was repaired for.
        seconds: What all took.
        notes: What a person must know of the target.
        late: Whether the time that was allowed ended the search.
    """

    target: Target
    reached: bool
    complete: bool
    before: dict[str, float]
    after: dict[str, float]
    steps: tuple[Attempt, ...]
    attempts: tuple[Attempt, ...]
    model: fx.GraphModule
    mapping: QConfigMapping
    base: fx.GraphModule
    asked: QConfigMapping
    seconds: float
    notes: tuple[str, ...] = ()
    late: bool = False

    @property
    def log(self) -> tuple[str, ...]:
        """What was found, tried and decided, one sentence or two for each step."""
        if not self.before:
            return ("Stopped before anything was measured.",)
        now = ", ".join(told(name, self.before[name]) for name in self.target.least)
        start = f"At the start {now}; wanted: {self.target.describe()}."
        return (start, *self.notes, *(a.describe() for a in self.attempts), self._end())

    def describe(self) -> str:
        """The log as one text."""
        return "\n".join(self.log)

    def _end(self) -> str:
        found = ", ".join(told(name, self.after[name]) for name in self.target.least)
        made = ", then ".join(step.title for step in self.steps) or "no change"
        took = f"{self.seconds:.1f} s"
        if self.reached:
            return f"Reached in {took}: {found} with {made}."
        if not self.complete:
            return f"Stopped after {took}: the best until then is {found} with {made}."
        if self.late:
            took = f"the time that was allowed ({took})"
        return f"Not reached in {took}: the best found is {found} with {made}."
