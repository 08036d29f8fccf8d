"""Which output of which layer a lesson works out: made up, or of the loaded model."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from pages.common import source
from pages.common.frame import View
from pages.lessons import knobs

if TYPE_CHECKING:
    from qlab.analysis.worked_sums import WorkedSum

SUMS = ("Linear", "Conv1d", "Conv2d", "Conv3d")
TERMS, SEED = 16, 3


def pick(view: View, prefix: str, *, bright: bool = False) -> WorkedSum | None:
    """Draws the choice and returns the output, worked out.

    Args:
        view: What the page was given.
        prefix: Of the widgets' keys.
        bright: Whether the made-up numbers are large ones of equal sign.
    """
    made_up = "large numbers" if bright else "16 made-up numbers"
    if source.pick(view, prefix, [made_up], "Layer's numbers") != source.LAYER:
        return _made_up(bright)
    loaded = view.loaded()
    steps = {step.name for step in loaded.lab.plan(view.mapping).quantized_steps if step.weight}
    layers = {each.name: each for each in loaded.lab.layers if each.type in SUMS}
    name = source.layer(view, prefix, [name for name in layers if name in steps])
    if name is None:
        return None
    channels, places = _outputs(layers[name].type, layers[name].output_shape or (1, 1))
    space = view.workspace
    channel = knobs.place(space, f"{prefix}_channel", "Output channel", channels)
    position = 0
    if places > 1:
        limits = (0, places - 1, places // 2)
        position = knobs.slider(space, f"{prefix}_position", "Position", limits)
    return loaded.lab.worked_sum(name, channel, position, view.mapping)


def _outputs(kind: str, shape: tuple[int, ...]) -> tuple[int, int]:
    """Output channels, and the positions of one sample."""
    rest = shape[1:-1] if kind == "Linear" else shape[2:]
    places = 1
    for length in rest:
        places *= length
    return shape[-1] if kind == "Linear" else shape[1], places


@lru_cache(maxsize=2)
def _made_up(bright: bool) -> WorkedSum:
    import torch

    from qlab.analysis.worked_sums import Terms, worked_sum
    from qlab.dtypes import qint8
    from qlab.ranges import TensorSpec

    generator = torch.Generator().manual_seed(SEED)
    x, weight = (torch.rand(TERMS, generator=generator) for _ in range(2))
    if bright:
        x, weight = 0.5 + x / 2, 0.6 + weight * 0.4
        weight[::5] *= -1
    else:
        x, weight = x * 3 - 1, weight - 0.3
    terms = Terms(x, weight, bias=0.1, relu=True)
    activation = TensorSpec.uint8_activation()
    # Symmetric as kernels want it; or affine, to show what its zero point adds.
    weights = TensorSpec(qint8, symmetric=bright)
    ends = torch.tensor([0.0, 2 * terms.result])
    specs = (activation, x), (weights, weight), (activation, ends)
    x_qparams, w_qparams, y_qparams = (spec.qparams_of(values) for spec, values in specs)
    return worked_sum(terms, (x_qparams, w_qparams, y_qparams))
