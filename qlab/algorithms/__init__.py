"""Repairs: algorithms that win back the accuracy that quantization lost, with the gain measured.

A repair is a pure transformation of a `Subject` (a float graph with its calibration), a
configuration and the names of layers into a `Repaired`: a changed copy of the graph, the
configuration that goes with it, and a `RepairReport` of what was won and what it cost. Nothing is
applied until `Lab.apply` makes a new Lab of it, whose *reference stays the original model*: its
outputs are compared with the original's, its layers with the same layers in float.

    repaired = lab.repair_with("bias_correction", mapping)
    print(repaired.report.describe())
    better = lab.apply(repaired)        # a Lab: compare, what_if, fidelity, convert, export, save
    better.before                       # the Lab before, to undo

**Adding an algorithm.** One row in `qlab.algorithms.table.ALGORITHMS`, and a function
``run(subject, mapping, layers, settings, hooks) -> Change``:

- ``subject.study`` has the float graph (``study.graph``: a copy of it may be changed, see
  `qlab.algorithms.targets.copied`), the float values that count (``study.reference``), statistics,
  ``study.plan(mapping)`` and ``study.sources``, the calibration data. The evaluation data is for
  the frame alone.
- ``layers`` are names; what cannot be done for one is an `Outcome` with ``changed=False`` and the
  reason in words. No layer is left out silently.
- ``settings`` is a frozen subclass of `Settings`; everything random comes from ``settings.seed``
  through a generator of its own.
- ``hooks.step(done, total, label)`` at least every second; it raises where a person cancelled.
- Weights that lie on a grid go into the copy as real numbers, and their scales into the mapping as
  the `Fixed` policy, for one scale or for many (``Fixed.of(qparams)``), so that converting gives
  exactly these integers.
- A function that scales inner tensors also returns ``Change.reference``: the same transformation
  without anything that is not equivalent. The frame then calibrates anew, one float pass. Without
  it, statistics are kept: ranges stay those of the float model.
- ``estimate(subject, mapping, layers, settings)``: the seconds that ``run`` will take.
"""

from qlab.algorithms.base import (
    Algorithm,
    Change,
    Hooks,
    Outcome,
    Repaired,
    RepairReport,
    Settings,
    Subject,
)
from qlab.algorithms.finetune import algorithm_of as finetuning
from qlab.algorithms.frame import run_repair
from qlab.algorithms.remedies import REMEDIES, Remedy, Stage, with_algorithms
from qlab.algorithms.repair_log import Attempt, AutoRepair, Target
from qlab.algorithms.repair_search import Limits, repair
from qlab.algorithms.table import ALGORITHMS, algorithm, estimate_seconds, recipe_of

__all__ = [
    "ALGORITHMS",
    "REMEDIES",
    "Algorithm",
    "Attempt",
    "AutoRepair",
    "Change",
    "Hooks",
    "Limits",
    "Outcome",
    "Remedy",
    "RepairReport",
    "Repaired",
    "Settings",
    "Stage",
    "Subject",
    "Target",
    "algorithm",
    "estimate_seconds",
    "finetuning",
    "recipe_of",
    "repair",
    "run_repair",
    "with_algorithms",
]
