"""A sample model in the lab, and what comparing it with its quantized self found."""

from __future__ import annotations

import time
from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pages.common import repairs_fitting, tried
from pages.common.engine import wait_for
from pages.common.format import number
from pages.common.jobs import CancelledError, Key, Parts, Progress, Work
from pages.common.recipes import Chain
from pages.common.store import store
from pages.common.workspace import Draft, Workspace

if TYPE_CHECKING:
    from pages.common.models import OwnModel
    from qlab import Lab
    from qlab.algorithms import Repaired
    from qlab.analysis.causes import Cause
    from qlab.analysis.report import Report
    from qlab.analysis.what_if import WhatIf
    from qlab.graph.plan import Step
    from qlab.qconfig import QConfigMapping
    from qlab.ranges import QuantizationError, TensorSpec
    from sample_models import SampleModel

WORST = 5
CAUSES = "looking for causes"
MOST_KEPT = 256
#: Width that is all but exact, to tell which tensor of a layer its error comes from.
MORE_BITS = 16
#: A gain below this many dB is less than half a bit.
LITTLE = 3


@dataclass(frozen=True, eq=False)
class Loaded:
    """A model with its calibrated lab; read-only, shared by all sessions.

    Attributes:
        sample: The original model and its data.
        samples: How many of them calibration saw.
        lab: Of the model in use, which may be a repaired one.
        chain: How it was repaired.
        made: The last repair with what it bought; None for an original model.
        parts: How many had been seen each time that more were added; empty where none were.
        steps: Seconds that a step of training takes, by configuration, where that was asked.
    """

    sample: SampleModel | OwnModel
    samples: int
    lab: Lab
    chain: Chain = ()
    made: Repaired | None = None
    parts: tuple[int, ...] = ()
    steps: dict[QConfigMapping, float] = field(default_factory=dict, repr=False)
    _policies: dict[tuple[str, TensorSpec, str], dict[str, QuantizationError]] = field(
        default_factory=dict, repr=False
    )
    _sqnr: dict[tuple[str, Draft, QConfigMapping], float] = field(default_factory=dict, repr=False)

    @property
    def key(self) -> tuple[Hashable, ...]:
        """Names what jobs are about: model, calibration data, device and repairs."""
        seen = self.parts or self.samples
        return (self.sample.name, seen, str(self.lab.device), self.chain)

    def parameters(self) -> int:
        """How many parameters the fused network has, those that no layer owns included."""
        if not self.lab.traced:
            return sum(layer.parameters for layer in self.lab.layers)
        return sum(parameter.numel() for parameter in self.lab.graph.parameters())

    def float_bytes(self) -> int:
        """Bytes of the fused float network, as a comparison counts them."""
        if not self.lab.traced:
            return 4 * self.parameters()
        return sum(x.numel() * x.element_size() for x in self.lab.graph.state_dict().values())

    def has_weight(self, name: str) -> bool:
        """Whether a layer has a weight that can be quantized."""
        from qlab.errors import UnknownNameError

        try:
            self.lab.weight(name)
        except UnknownNameError:
            return False
        return True

    def configured(self, step: Step) -> Draft:
        """A layer's knobs as its configuration has them; the usual ones where it stays in float."""
        from qlab.ranges import TensorSpec

        weight = None
        if self.has_weight(step.name):
            weight = step.weight or TensorSpec.int8_weight()
        activation = step.output or TensorSpec.uint8_activation()
        return Draft(weight, activation, in_float=not step.quantized)

    def what_if(self, name: str, draft: Draft, mapping: QConfigMapping) -> WhatIf:
        """What a layer loses as the knobs stand, its inputs as the configuration has them."""
        return self.lab.what_if(
            name, weight=draft.weight, activation=draft.activation, mapping=mapping
        )

    def configured_sqnr(self, name: str, draft: Draft, mapping: QConfigMapping) -> float:
        """Output SQNR [dB] of a layer as it is configured, which every knob asks for again."""
        key = (name, draft, mapping)
        if key not in self._sqnr:
            if len(self._sqnr) >= MOST_KEPT:
                self._sqnr.clear()
            self._sqnr[key] = self.what_if(name, draft, mapping).output_sqnr
        return self._sqnr[key]

    @property
    def called(self) -> str:
        """What people call the model."""
        return getattr(self.sample, "called", self.sample.name)

    def batch(self, most: int | None = None) -> Any:
        """Inputs of one call to try a model on: test data where there are any.

        Args:
            most: Samples at most, where the model takes any number.
        """
        from qlab.cli.batches import head

        evaluation = self.sample.evaluation()
        batch = evaluation[0] if evaluation else self.sample.calibration(self.samples)[0]
        fixed = self.at_once is not None
        return batch if most is None or fixed else head(batch, most)

    @property
    def at_once(self) -> int | None:
        """How many samples the model takes at once; None for any number."""
        subject = getattr(self.sample, "subject", None)
        return None if subject is None else subject.batch

    def policies(self, name: str, spec: TensorSpec, kind: str) -> dict[str, QuantizationError]:
        """What every observer would cost on one tensor, whichever the spec names itself."""
        from qlab.ranges import MinMax

        key = (name, replace(spec, policy=MinMax()), kind)
        if key not in self._policies:
            self._policies[key] = self.lab.policies(name, spec, kind)
        return self._policies[key]


@dataclass(frozen=True)
class Finding:
    """One of the worst layers, and why it is bad.

    Attributes:
        name: The layer.
        sqnr: Its local SQNR [dB].
        reason: One sentence.
        causes: What the engine found, the most rewarding remedy first.
    """

    name: str
    sqnr: float
    reason: str
    causes: tuple[Cause, ...]

    @property
    def stated(self) -> tuple[Cause, ...]:
        """The cause that the reason tells of: the first that costs precision; none where none."""
        return tuple(c for c in self.causes if c.kind != "dead channels")[:1]


@dataclass(frozen=True)
class Outcome:
    """A comparison and what it says about the worst layers.

    Attributes:
        report: The comparison.
        worst: The worst layers, the worst one first.
        seconds: How long comparing took.
        repairs: How long each algorithm takes that fits one of their causes.
    """

    report: Report
    worst: tuple[Finding, ...]
    seconds: float
    repairs: dict[str, float] = field(default_factory=dict)


def outcome_key(loaded: Loaded, mapping: QConfigMapping) -> Key:
    """Names the comparison under a configuration on the board."""
    return ("outcome", *loaded.key, mapping)


def compare(loaded: Loaded, mapping: QConfigMapping, workspace: Workspace) -> Outcome:
    """The comparison under a configuration; ends the page's run while it is being made."""
    outcome = wait_for(*comparison(loaded, mapping), workspace)
    _record(loaded, mapping, outcome, workspace)
    return outcome


def _record(
    loaded: Loaded, mapping: QConfigMapping, outcome: Outcome, workspace: Workspace
) -> None:
    """Keeps a comparison among the workspace's runs, once."""
    from qlab.runs import record_report

    tried.note_model(workspace, loaded.lab.subject, loaded.called)
    key = outcome_key(loaded, mapping)
    if key not in workspace.recorded:
        workspace.recorded.add(key)
        record_report(
            store().runs(workspace),
            mapping,
            outcome.report,
            subject=loaded.lab.subject,
            seconds=outcome.seconds,
            calibration=loaded.lab.calibrated,
        )


def comparison(loaded: Loaded, mapping: QConfigMapping) -> tuple[Key, str, Work]:
    """The job that compares the float network with its quantized self."""

    def work(progress: Progress) -> Outcome:
        began, parts = time.monotonic(), Parts(progress, ((), (CAUSES,)), (0.6, 0.4))
        report = loaded.lab.compare(
            mapping, on_progress=parts.report, should_stop=progress.should_stop
        )
        seconds = time.monotonic() - began
        rows, worst = report.worst(WORST), []
        columns = ("sqnr_local", "sqnr_ideal")
        numbers = zip(*(rows[column].to_numpy(float) for column in columns), strict=True)
        for name, (sqnr, bound) in zip(rows.index, numbers, strict=True):
            if progress.should_stop():
                raise CancelledError
            parts.report(len(worst), len(rows), CAUSES)
            worst.append(_finding(loaded, str(name), (float(sqnr), float(bound)), mapping))
        found = [cause for finding in worst for cause in finding.stated]
        repairs = repairs_fitting.estimates(loaded.lab, mapping, found)
        return Outcome(report, tuple(worst), seconds, repairs)

    title = "Comparing the quantized network with the float one"
    return outcome_key(loaded, mapping), title, work


def _finding(
    loaded: Loaded, name: str, measured: tuple[float, float], mapping: QConfigMapping
) -> Finding:
    """Why a layer of that local and ideal SQNR [dB] is bad."""
    sqnr, bound = measured
    causes = loaded.lab.causes(name, mapping)
    finding = Finding(name, sqnr, "", causes)
    for cause in finding.stated:
        return replace(finding, reason=cause.sentence)
    below = f"{number(bound - sqnr, 'dB')} below the ideal"
    return replace(finding, reason=without_cause(loaded, name, mapping, f"; {below}"))


def without_cause(loaded: Loaded, name: str, mapping: QConfigMapping, told: str = "") -> str:
    """What there is to say of a quantized layer for whose error no single cause was found."""
    gains = _gains_of_more_bits(loaded, name, mapping)
    words = ", ".join(f"in its {tensor} {number(gain, 'dB')}" for tensor, gain in gains)
    reason = f"No single cause{told}. {MORE_BITS} bits would gain {words}"
    if all(gain < LITTLE for _, gain in gains):
        reason += ": the error comes in with its quantized input"
    return f"{reason}."


def _gains_of_more_bits(
    loaded: Loaded, name: str, mapping: QConfigMapping
) -> list[tuple[str, float]]:
    """How much output SQNR [dB] a layer would win if one of its tensors were all but exact."""
    now = loaded.lab.what_if(name, mapping=mapping)
    tensors: dict[str, dict[str, TensorSpec]] = {}
    if now.weight is not None:
        tensors["weight"] = {"weight": now.weight.with_bits(MORE_BITS)}
    if now.activation is not None:
        tensors["output"] = {"activation": now.activation.with_bits(MORE_BITS)}
    return [
        (tensor, loaded.lab.what_if(name, mapping=mapping, **spec).output_sqnr - now.output_sqnr)
        for tensor, spec in tensors.items()
    ]
