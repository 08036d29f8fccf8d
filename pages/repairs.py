"""Repairs: each algorithm that wins accuracy back, explained and at work on a sample."""

from __future__ import annotations

from functools import partial

from pages.common.frame import View, page
from pages.lessons import automatic, knobs, repairs
from pages.lessons.repairs_texts import TEXTS

ABOUT = """
Algorithms that win back what quantization lost. Each is shown at work on a sample model, computed
by the engine while you wait: what it does, the rule, what it bought, and where.

To repair the model in the sidebar, open *Overview* or one of its bad layers on *Layer*: where an
algorithm fits a cause it is offered there, tried first and applied only if you say so. Training on
and the automatic repair are offered there, too.
"""


def draw(view: View) -> None:
    lessons: dict[str, knobs.Lesson] = {
        row.title: (TEXTS[name].idea, partial(repairs.draw, name=name))
        for name, row in repairs.rows().items()
        if name in TEXTS
    }
    lessons[automatic.TITLE] = (automatic.IDEA, automatic.draw)
    knobs.lessons(view, "repairs_lesson", lessons)


page("Repairs", ABOUT, draw, of_model=False)
