"""The autopilot: the cheapest remedy that the causes suggest first, kept where it helps.

The network is measured, the causes of its layers' errors are looked for, and each remedy that they
suggest is tried: changes of the configuration, which take no time, then algorithms by the seconds
that they are expected to take. What brings the target nearer is kept, and causes are looked for
anew. A remedy builds on those of its own and earlier stages: where one of a later stage was kept
before, it starts from the state before that, and takes its place if it is better; what was taken
back may then be tried again. Last come 16-bit activations, 8 bits for layers that have fewer, and
layers in float, as few as reach the target; and training, where a person gave data for it.

Remedies are chosen by what they do on the evaluation data, as a person would who tries them; how
the result does on data that nobody looked at, only such data can tell.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

import torch

from qlab.algorithms.base import Algorithm, Hooks, Settings, StoppedError, Subject
from qlab.algorithms.frame import ensure_calibrated, measured_report, run_repair
from qlab.algorithms.remedies import (
    KEEP,
    MORE,
    REMEDIES,
    TRAIN,
    TRAINING,
    Remedy,
    Stage,
    Suggestion,
    chosen_remedies,
    diagnosed,
    suggestions,
)
from qlab.algorithms.repair_fewest import Fewest, State
from qlab.algorithms.repair_log import Attempt, AutoRepair, Target, told
from qlab.algorithms.table import ALGORITHMS, estimate_seconds
from qlab.errors import ArgumentError, DTypeError
from qlab.qconfig import QConfigMapping


@dataclass(frozen=True)
class Limits:
    """What a person allows.

    Attributes:
        allowed: Names of `qlab.algorithms.REMEDIES`; all if None.
        seconds: After which time nothing new is begun, and what runs is stopped; None for no limit.
        keep_size: Whether nothing may grow the model: no layer stays in float.
        seed: Of everything drawn at random.
        training: What trains the network, `qlab.algorithms.finetuning` of the data that a person
            gave for it; None where they gave none, and nothing is trained.
    """

    allowed: Collection[str] | None = None
    seconds: float | None = None
    keep_size: bool = False
    seed: int = 0
    training: Algorithm | None = None

    def __post_init__(self) -> None:
        number = isinstance(self.seconds, int | float) and not isinstance(self.seconds, bool)
        if self.seconds is not None and not (number and self.seconds > 0):
            raise ArgumentError(
                "A repair needs some time", expected="max_seconds > 0", received=repr(self.seconds)
            )
        if not isinstance(self.keep_size, bool):
            raise DTypeError("keep_size is True or False", received=repr(self.keep_size))
        Settings(self.seed)  # refuses what is no seed
        chosen_remedies(self.allowed, self.keep_size)  # refuses what is no remedy
        if self.training is None and TRAIN in (self.allowed or ()):
            raise ArgumentError(
                "Training is allowed, and there is no data for it",
                expected="train_on, batches of (inputs, labels)",
                received="none",
            )

    @property
    def trains(self) -> bool:
        """Whether the network may be trained."""
        return self.training is not None and (self.allowed is None or TRAIN in self.allowed)


@torch.inference_mode(False)
@torch.enable_grad()  # a caller may have turned gradients off
def repair(
    subject: Subject,
    mapping: QConfigMapping,
    target: float | Mapping[str, float],
    limits: Limits | None = None,
    hooks: Hooks | None = None,
) -> AutoRepair:
    """Looks for a repair that reaches a target; the subject stays as it is.

    Args:
        subject: The model and its data.
        mapping: The configuration to repair it for.
        target: The least accuracy [%], or output SQNR [dB] where the data has no labels; or least
            values by metric, all to be reached.
        limits: What may be done.
        hooks: For progress and to stop.

    Returns:
        The best found; with ``before`` empty where it was stopped before anything was measured.

    Raises:
        ArgumentError: A target that is no number of a metric measured here.
        UnknownNameError: A remedy that does not exist.
        UnsupportedError: The model has no graph; says why.
    """
    subject.study.whole_graph("Lab.repair")
    limits = limits or Limits()
    search = _Search(subject, mapping, limits, hooks or Hooks())
    return search.run(target)


class _Search:
    def __init__(
        self, subject: Subject, mapping: QConfigMapping, limits: Limits, hooks: Hooks
    ) -> None:
        self.subject, self.mapping, self.limits = subject, mapping, limits
        self.began, self.cancelled = time.monotonic(), False
        self.hooks = Hooks(hooks.on_progress, lambda: self._should_stop(hooks.should_stop))
        self.attempts: list[Attempt] = []
        self.tried: set[str] = set()
        self.states: list[State] = []
        self.target = Target({}, {})
        self.said: list[str] = []

    @property
    def state(self) -> State:
        return self.states[-1]

    @property
    def left(self) -> float:
        """Seconds that are left."""
        spent = time.monotonic() - self.began
        return float("inf") if self.limits.seconds is None else self.limits.seconds - spent

    def _should_stop(self, asked: Callable[[], bool] | None) -> bool:
        if asked is not None and asked():
            self.cancelled = True
        return self.cancelled or (bool(self.states) and self.left <= 0)

    def run(self, target: float | Mapping[str, float]) -> AutoRepair:
        try:
            ensure_calibrated(self.subject, self.hooks)
            report = measured_report(self.subject, self.mapping, self.hooks)
        except StoppedError:
            return self._result()
        self.target = Target.of(target, report.output)
        self.states.append(State(self.subject, self.mapping, report))
        with suppress(StoppedError):
            self._improve()
        return self._result()

    def _improve(self) -> None:
        remedies = chosen_remedies(self.limits.allowed, self.limits.keep_size)
        last = [remedies.pop(name) for name in (MORE, KEEP) if name in remedies]
        causes = None
        while not self.target.reached(self.state.output):
            state = self.state
            if causes is None:
                causes = diagnosed(state.subject, state.mapping, self.hooks)
            left = {n: r for n, r in remedies.items() if n not in self.tried}
            found = suggestions(state.subject, state.mapping, causes, left)
            if not found:
                if remedies and not self.attempts:
                    self.said.append("No cause that was found suggests a remedy that is allowed.")
                elif not (remedies or last or self.limits.trains):
                    self.said.append("No remedy was allowed.")
                break
            self.tried.add(found[0].remedy.name)
            self._try(found[0])
            if self.state is not state:
                causes = None
        for remedy in last:
            self._change_fewest(remedy)
        if self.limits.trains and not self.target.reached(self.state.output):
            self._try(Suggestion(TRAINING, (), None, None, math.nan))

    def _try(self, suggestion: Suggestion) -> None:
        remedy, began = suggestion.remedy, time.monotonic()
        start = self._start(remedy)
        attempt = Attempt(
            remedy.name, remedy.title, suggestion.why, "stopped", estimate=suggestion.seconds
        )
        if suggestion.seconds > self.left:
            self.attempts.append(replace(attempt, verdict=self._late(suggestion.seconds)))
            return
        try:
            made, attempt = self._made(start, suggestion, attempt)
        except StoppedError:
            self._note_stop(attempt)
            raise
        self._judge(start, made, replace(attempt, seconds=time.monotonic() - began))

    def _made(
        self, start: State, suggestion: Suggestion, attempt: Attempt
    ) -> tuple[State, Attempt]:
        """The state with a remedy in it, measured."""
        subject, name = start.subject, suggestion.remedy.name
        training = self.limits.training
        if suggestion.mapping is not None:
            report = measured_report(subject, suggestion.mapping, self.hooks)
            return State(subject, suggestion.mapping, report), attempt
        repaired = run_repair(
            training if name == TRAIN and training is not None else ALGORITHMS[name],
            subject,
            start.mapping,
            suggestion.layers,
            chosen={"seed": self.limits.seed},
            before=start.report,
            hooks=self.hooks,
        )
        if repaired.measured is None:
            raise StoppedError
        study = subject.study.repaired(repaired.model, repaired.reference, repaired.calibration)
        after = Subject(study, subject.evaluation)
        ensure_calibrated(after, self.hooks)
        made = State(after, repaired.mapping, repaired.measured[1])
        return made, replace(attempt, repaired=repaired)

    def _judge(self, start: State, made: State, attempt: Attempt) -> None:
        """Keeps a state where it is better than the present one, and says so either way."""
        assert start.report is not None and made.report is not None
        now, dropped = self.state, self.state.steps[len(start.steps) :]
        attempt = replace(
            attempt,
            mapping=made.mapping,
            measured=(start.report, made.report),
            replaces=tuple(step.title for step in dropped),
        )
        without = f" without {' and '.join(attempt.replaces)}" if dropped else ""
        said = f"{self.target.change(start.output, made.output)}{without}"
        repaired = attempt.repaired
        if repaired is not None and not bool(repaired.report.layers["changed"].any()):
            reasons = dict.fromkeys(repaired.report.refusals.values())
            verdict = f"changed nothing ({'; '.join(list(reasons)[:3])})"
            self.attempts.append(replace(attempt, verdict=verdict, replaces=()))
            return
        if not self.target.better(made.output, now.output):
            beside = f", no better than {told('sqnr', now.output['sqnr'])} with" if dropped else ""
            verdict = f"{said}{beside}, not kept"
            self.attempts.append(replace(attempt, verdict=verdict, replaces=()))
            return
        attempt = replace(attempt, verdict=f"{said}, kept", kept=True)
        self.attempts.append(attempt)
        self.tried -= {step.remedy for step in dropped}
        del self.states[len(start.steps) + 1 :]
        self.states.append(replace(made, steps=(*start.steps, attempt)))

    def _start(self, remedy: Remedy) -> State:
        """The last state that this remedy can build on: without steps of later stages."""
        if remedy.configures:  # its change is one of the present configuration
            return self.state
        steps = self.state.steps
        for number, step in enumerate(steps):
            stage = REMEDIES[step.remedy].stage
            alternative = stage == remedy.stage == Stage.ROUNDING
            if stage > remedy.stage or alternative:
                return self.states[number]
        return self.state

    def _note_stop(self, attempt: Attempt) -> None:
        why = "stopped" if self.cancelled else "stopped: the time that was allowed is over"
        self.attempts.append(replace(attempt, verdict=why))

    def _change_fewest(self, remedy: Remedy) -> None:
        """Changes the fewest layers that reach the target, or as many as may be.

        Weights that were rounded before are no others in more bits or in float, so where that does
        not do, it starts from the state before they were.
        """
        for start in dict.fromkeys((self.state, self._start(TRAINING))):
            if self.target.reached(self.state.output) or start not in self.states:
                return
            began = time.monotonic()
            plan = start.subject.study.plan(start.mapping)
            names = tuple(step.name for step in plan.steps if step.quantized)
            seconds = estimate_seconds(KEEP, start.subject, start.mapping, names)
            attempt = Attempt(remedy.name, remedy.title, "", "stopped", estimate=seconds)
            if seconds > self.left:
                self.attempts.append(replace(attempt, verdict=self._late(seconds)))
                return
            fewest = Fewest(start, remedy.name, self.target, self.limits.seed, self.hooks)
            try:
                fewest.search()
            except StoppedError:
                if not fewest.tried:
                    self._note_stop(attempt)
                raise
            finally:
                best = fewest.best()
                if best is not None:
                    why = f"{', '.join(best[0])} cost the network most, quantized alone."
                    attempt = replace(attempt, why=why, seconds=time.monotonic() - began)
                    self._judge(start, best[1], attempt)

    def _late(self, seconds: float) -> str:
        return f"not tried: about {seconds:.0f} s, of which {max(self.left, 0):.0f} s are left"

    def _result(self) -> AutoRepair:
        states = self.states or [State(self.subject, self.mapping, None)]
        first, best = states[0], states[-1]
        return AutoRepair(
            target=self.target,
            reached=best.report is not None and self.target.reached(best.output),
            complete=not self.cancelled,
            before=first.output,
            after=best.output,
            steps=best.steps,
            attempts=tuple(self.attempts),
            model=best.subject.study.graph,
            mapping=best.mapping,
            base=self.subject.study.graph,
            asked=self.mapping,
            seconds=time.monotonic() - self.began,
            notes=self._notes(first.output),
            late=self.left <= 0 and not self.cancelled,
        )

    def _notes(self, output: Mapping[str, float]) -> tuple[str, ...]:
        notes, reached = list(self.said), self.target.reached(self.state.output) if output else True
        wanted, real = self.target.least.get("accuracy"), output.get("float_accuracy")
        if wanted is not None and real is not None and wanted > real:
            notes.append(f"The float model itself has {told('accuracy', real)}.")
        if self.limits.training is None and self.limits.allowed is None and not reached:
            notes.append("It was not trained, since no data to train on was given.")
        if self.limits.training is not None and not self.limits.trains and not reached:
            notes.append(
                f"It was not trained, though data for it was given: {TRAIN!r} is not allowed."
            )
        return tuple(notes)
