"""Bits and formats: what each code means, how finely it resolves, what it costs."""

from __future__ import annotations

from pages.common.frame import View, page
from pages.lessons import codes, knobs, memory

ABOUT = """
Integers of 2 to 8 bits lie evenly apart: the **absolute** error is the same everywhere. Float8
spends bits on an exponent: its levels lie close together near 0 and far apart beyond, so that the
**relative** error stays the same.

Which is better depends on the tensor: *Memory and error* tries every format on it. A dotted line
marks 6.02 dB for each bit, what evenly spread values would reach.
"""
LESSONS: dict[str, knobs.Lesson] = {
    "Codes": (codes.SENTENCE, codes.draw),
    "Resolution": (codes.RESOLUTION, codes.draw_resolution),
    "Memory and error": (memory.SENTENCE, memory.draw),
}


def draw(view: View) -> None:
    knobs.lessons(view, "formats_lesson", LESSONS)


page("Bits and formats", ABOUT, draw)
