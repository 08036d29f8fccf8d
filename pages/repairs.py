"""Repairs: each algorithm that wins accuracy back, explained and at work on a sample."""

from __future__ import annotations

from functools import partial

from pages.common.frame import View, page
from pages.lessons import knobs, repairs
from pages.lessons.repairs_texts import TEXTS

ABOUT = """
Algorithms that win back what quantization lost. Each is shown at work on a sample model, computed
by the engine while you wait: what it does, the rule, what it bought, and where.

To repair the model in the sidebar, open *Overview* or one of its bad layers on *Layer*: where an
algorithm fits a cause it is offered there, tried first and applied only if you say so.
"""


def draw(view: View) -> None:
    from qlab.algorithms import ALGORITHMS

    lessons: dict[str, knobs.Lesson] = {
        row.title: (TEXTS[name].idea, partial(repairs.draw, name=name))
        for name, row in ALGORITHMS.items()
        if name in TEXTS
    }
    knobs.lessons(view, "repairs_lesson", lessons)


page("Repairs", ABOUT, draw, of_model=False)
