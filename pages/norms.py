"""Norms and fusions: what folds into the layer before it, and what stays a step of its own."""

from __future__ import annotations

from pages.common.frame import View, page
from pages.lessons import activation, fold, knobs, normalizing, unfolded

ABOUT = """
A quantized network has fewer steps than the float one: a **batch norm** after a convolution is a
multiplication and an addition with fixed numbers, so it becomes part of the convolution's weights;
a **ReLU** is a limit of the range. Each step that is left out is one rounding less.

**Layer, group and instance norm** compute mean and variance anew for each input. They stay steps of
their own: codes become real numbers, are normalized, and become codes again.
"""
LESSONS: dict[str, knobs.Lesson] = {
    "Batch norm folds": (fold.SENTENCE, fold.draw),
    "ReLU and clamp": (activation.SENTENCE, activation.draw),
    "Inside a norm": (normalizing.SENTENCE, normalizing.draw),
    "What cannot fold": (unfolded.SENTENCE, unfolded.draw),
}


def draw(view: View) -> None:
    knobs.lessons(view, "norms_lesson", LESSONS)


page("Norms and fusions", ABOUT, draw)
