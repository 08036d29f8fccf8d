"""Keeping the most sensitive layers in float: what no algorithm repairs need not be quantized.

Each layer alone is quantized, and the network's output compared with the float one's on
calibration data; the layers that cost most stay in float, as many as asked for.

Source: mixed precision by sensitivity, as in Nagel et al.: A White Paper on Neural Network
Quantization, 2021, arXiv 2106.08295, section 3.7.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from qlab.algorithms.base import Change, Hooks, Layers, Outcome, Settings, StoppedError, Subject
from qlab.algorithms.targets import copied, pass_seconds
from qlab.analysis.sensitivity import kept_in_float
from qlab.errors import ArgumentError
from qlab.qconfig import QConfigMapping

PAPER = (
    "Nagel, Fournarakis, Amjad, Bondarenko, van Baalen, Blankevoort: A White Paper on Neural "
    "Network Quantization, 2021, arXiv 2106.08295"
)
_NAME = "asked"
_FLOAT = "it is not quantized"


@dataclass(frozen=True)
class KeepSettings(Settings):
    """How many layers stay in float.

    Attributes:
        count: How many, those that cost most.
    """

    count: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.count < 1:
            raise ArgumentError(
                "At least one layer is to stay in float", expected="count >= 1", received=self.count
            )


def keep_in_float(
    subject: Subject, mapping: QConfigMapping, layers: Layers, settings: KeepSettings, hooks: Hooks
) -> Change:
    """The mapping with the layers that cost most left in float; the graph stays the same."""
    study = subject.study
    if not any(step.quantized for step in study.plan(mapping).steps):
        nothing = tuple(Outcome(name, False, _FLOAT) for name in layers)
        return Change(copied(study.graph), mapping, nothing)
    asked: Any = {"on_progress": hooks.on_progress, "should_stop": hooks.should_stop}
    found = study.sensitivity({_NAME: mapping}, study.sources[0], ("on",), **asked)
    if not found.complete:
        raise StoppedError
    column: Any = found.table.xs(_NAME, level="config")["noise_on"]
    costs = {str(name): float(noise) for name, noise in column.items()}
    known = [name for name in layers if name in costs]
    worst = sorted(known, key=lambda name: -costs[name])[: settings.count]
    plan, made, outcomes, total = study.plan(mapping), mapping, [], sum(costs.values()) or 1.0
    for name in layers:
        if name not in known:
            outcomes.append(Outcome(name, False, _FLOAT))
            continue
        share = costs[name] / total
        numbers = {"noise_share": share}
        said = f"alone it causes {100 * share:.0f} % of what all layers cost one by one"
        if name in worst:
            made = kept_in_float(made, plan.step(name))
            outcomes.append(Outcome(name, True, f"in float: {said}", numbers))
        else:
            outcomes.append(Outcome(name, False, f"quantized: {said}", numbers))
    return Change(copied(study.graph), made, tuple(outcomes), found.samples)


def keep_seconds(
    subject: Subject, mapping: QConfigMapping, layers: Layers, settings: KeepSettings
) -> float:
    """Seconds: for each layer, what follows it runs once over the calibration data."""
    seen = subject.study.calibration
    samples = 256 if seen is None else seen.samples
    steps = len(subject.study.plan(mapping).steps)
    return (2 + 0.7 * steps) * samples * pass_seconds(subject)
