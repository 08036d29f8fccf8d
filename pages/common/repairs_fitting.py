"""Which algorithms help against a layer's causes, and how long they take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qlab import Lab
    from qlab.analysis.causes import Cause
    from qlab.qconfig import QConfigMapping


def fitting(causes: Sequence[Cause]) -> tuple[str, ...]:
    """Names of the algorithms that help against some causes, each once."""
    return tuple(dict.fromkeys(name for cause in causes for name in cause.algorithms))


def estimates(lab: Lab, mapping: QConfigMapping, causes: Sequence[Cause]) -> dict[str, float]:
    """Seconds that each fitting algorithm will take on every layer; empty without a graph."""
    if not lab.traced:
        return {}
    return {name: lab.repair_seconds(name, mapping) for name in fitting(causes)}
