"""Which algorithms help against a layer's causes, and how long they take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qlab import Lab
    from qlab.analysis.causes import Cause
    from qlab.qconfig import QConfigMapping

#: What helps against a cause, by its kind, the most telling first.
FITTING = {
    "channel spread": ("equalize",),
    "few bits": ("adaround", "ranges"),
    "clipping": ("ranges",),
    "heavy tail": ("ranges",),
}


def fitting(causes: Sequence[Cause]) -> tuple[str, ...]:
    """Names of the algorithms that help against some causes."""
    from qlab.algorithms import ALGORITHMS

    found = (name for cause in causes for name in FITTING.get(cause.kind, ()))
    return tuple(name for name in dict.fromkeys(found) if name in ALGORITHMS)


def estimates(lab: Lab, mapping: QConfigMapping, causes: Sequence[Cause]) -> dict[str, float]:
    """Seconds that each fitting algorithm will take on every layer; empty without a graph."""
    if not lab.traced:
        return {}
    return {name: lab.repair_seconds(name, mapping) for name in fitting(causes)}
