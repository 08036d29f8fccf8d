"""Learn: the arithmetic of quantization, one idea at a time."""

from __future__ import annotations

from pages.common.frame import View, page
from pages.lessons import affine, clipping, granularity, knobs, saturation, schemes, sums

ABOUT = """
How real numbers become integers, and how a network computes with those. Choose an idea above; each
has a sentence, a figure that moves with the knobs, and the worked numbers. All numbers come from
the same engine that quantizes models.

- **Affine map**: a value, its code, what comes back. Inside the range of codes the error is
  *rounding*, at most half a scale; outside it the value is *clipped*.
- **Symmetric or affine**: where the codes lie on one tensor.
- **Granularity**: one scale for the tensor, for each channel, for each group.
- **Rounding and clipping**: what a narrower range wins and loses.
- **Integer sum**: one output of a layer, from codes through the 32-bit accumulator to a code.
- **Reduced range**: why some kernels want one bit less.

Most work on made-up numbers and on any layer of the loaded model.
"""
LESSONS: dict[str, knobs.Lesson] = {
    "Affine map": (affine.SENTENCE, affine.draw),
    "Symmetric or affine": (schemes.SENTENCE, schemes.draw),
    "Granularity": (granularity.SENTENCE, granularity.draw),
    "Rounding and clipping": (clipping.SENTENCE, clipping.draw),
    "Integer sum": (sums.SENTENCE, sums.draw),
    "Reduced range": (saturation.SENTENCE, saturation.draw),
}


def draw(view: View) -> None:
    knobs.lessons(view, "learn_lesson", LESSONS)


page("Quantization math", ABOUT, draw)
