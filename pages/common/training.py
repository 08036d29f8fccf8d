"""Fine-tuning on the pages: what a model is trained on, and how long that takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pages.common.loaded import Loaded
from pages.common.recipes import Recipe

if TYPE_CHECKING:
    from qlab.algorithms import Algorithm
    from qlab.qconfig import QConfigMapping

NAME = "finetune"
#: Steps to choose from; the engine's own number is the middle one.
STEPS = (100, 500, 2000)
#: Samples of one step at most; fewer where there would be too few batches to hold some out.
BATCH, BATCHES = 32, 8


def row() -> Algorithm:
    """What the engine says of it, as of the algorithms in its table."""
    from qlab.algorithms import finetuning

    nothing: Any = ()
    return finetuning(nothing, None)


def recipe(mapping: QConfigMapping, steps: int) -> Recipe:
    """How to train a model for a configuration."""
    return Recipe(NAME, mapping, None, (("seed", 0), ("steps", steps)), row().title)


def batches(loaded: Loaded) -> list[Any]:
    """What is trained on: the calibration data, with labels only where a person's own have them.

    The evaluation data is never trained on: accuracy is measured on it.
    """
    size = max(1, min(BATCH, loaded.samples // BATCHES))
    return list(loaded.sample.calibration(loaded.samples, size))


def seconds(loaded: Loaded, mapping: QConfigMapping) -> float:
    """Seconds that one step takes here; one is timed the first time that this is asked."""
    if mapping not in loaded.steps:
        loaded.steps[mapping] = loaded.lab.finetune_seconds(mapping, batches(loaded), steps=1)
    return loaded.steps[mapping]
