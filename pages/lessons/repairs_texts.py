"""What each repair does, and on what it is shown: one row for each algorithm of the engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

DEPTHWISE, TRANSFORMER = "depthwise", "vit"


@dataclass(frozen=True)
class Text:
    """A repair explained.

    Attributes:
        idea: What goes wrong and what the algorithm does, in a few sentences.
        formulas: The rule, a line each.
        figure: What its own figure shows: `"weights"` or `"inputs"`, channel by channel, before
            and after; `"codes"`, how far each weight was moved; or one of its numbers by layer.
        seen: What to look for in that figure.
        model: The sample that it is shown on.
        preset: Its configuration.
        beyond: What is said of a share of the weights: of those that were moved by more than half
            a step, or that training gave another code.
        layer: Whose numbers the figure shows, where it is about one layer.
        settings: The algorithm's own.
        unit: Of the number by layer.
        outliers: Whether three channels behind each norm are made 60 times louder first, and the
            weights that read them as much smaller, which leaves the function as it is.
    """

    idea: str
    formulas: tuple[str, ...]
    figure: str
    seen: str
    model: str = DEPTHWISE
    preset: str = "int8-per-tensor"
    beyond: str = "not rounded to nearest"
    layer: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    unit: str = ""
    outliers: bool = False


TEXTS: dict[str, Text] = {
    "equalize": Text(
        "Where all channels of a weight share one scale, the widest channel sets it and the others "
        "are left with a few codes. Between two layers a ReLU lets a positive factor pass, so a "
        "channel can be made smaller in one layer and larger in the next: the function stays, the "
        "ranges become alike.",
        ("sᵢ = √(r₁ᵢ · r₂ᵢ) / r₂ᵢ", "W₁' = S⁻¹ · W₁ &nbsp; b₁' = S⁻¹ · b₁ &nbsp; W₂' = W₂ · S"),
        "weights",
        "One bar for each output channel of the layer, with one scale for all of them. Channels "
        "that ReLU6 was seen to clip stay as they are; on images that drive others beyond what "
        "calibration saw, the function is not quite the same.",
        layer="block2.dw.conv",
    ),
    "bias_correction": Text(
        "Rounded weights do not only add noise: a channel's errors can have a mean, which every "
        "later layer reads as a shift. The mean is known from calibration data, or from batch norm "
        "alone, so the bias can take it back.",
        ("b' = b − E[Ŵ·x̂ − W·x]",),
        "shift_max",
        "The largest mean error of a channel in each layer, which its bias now takes back.",
        unit="output's units",
    ),
    "adaround": Text(
        "Rounding each weight to its nearest level is best for the weight, not for the output: "
        "errors of neighbours can cancel. AdaRound learns for each weight whether it goes down or "
        "up, so that the layer's output stays closest on calibration data.",
        (
            "W' = s · clamp(⌊W / s⌋ + h(V), q_min, q_max)",
            "min over V of ‖f(W·x) − f(W'·x̂)‖² + λ · Σ(1 − |2·h(V) − 1|^β)",
        ),
        "codes",
        "How far each weight moved, in steps. To nearest, none would leave ±½: those beyond were "
        "rounded the other way.",
        preset="int4-weights",
        layer="block4.pw.conv",
        settings={"steps": 100, "samples": 64},
    ),
    "gptq": Text(
        "Once a weight is rounded its error is known, and the weights of the same row that are not "
        "rounded yet can make up for it. How, the inputs tell: weights whose inputs go together "
        "can stand in for each other. No training; each layer takes one matrix and one pass.",
        (
            "H = 2·X·Xᵀ + damping &nbsp; eⱼ = (wⱼ − ŵⱼ) / [H⁻¹]ⱼⱼ",
            "w_rest ← w_rest − eⱼ · [H⁻¹]ⱼ,rest",
        ),
        "error_ratio",
        "Squared error of each layer's output over that of rounding to nearest, lower is better.",
        model=TRANSFORMER,
        preset="int4-weights",
        settings={"samples": 64},
        unit="× nearest",
    ),
    "awq": Text(
        "A weight matters as much as the input that it is multiplied with. Columns that read loud "
        "inputs are scaled up before rounding, so that their relative error becomes smaller, and "
        "the layer before is scaled down; ranges are cut where that lowers the output's error.",
        ("Q(W · diag(s)) · (diag(s)⁻¹ · x) &nbsp; s = mean|x|^α, α searched",),
        "error_ratio",
        "Squared error of each layer's output over that of rounding to nearest, lower is better.",
        model=TRANSFORMER,
        preset="int4-weights",
        settings={"samples": 32, "tries": 10, "rows": 512},
        unit="× nearest",
    ),
    "smoothquant": Text(
        "Behind a norm of a transformer a few channels can be a hundred times louder than the "
        "rest, and an activation has one scale for all. The norm's weights can divide them, the "
        "weights of the layers that read them multiply: the difficulty moves to where each "
        "channel can have its own scale.",
        ("sⱼ = max|xⱼ|^α / max|Wⱼ|^(1−α)", "Y = (x · diag(s)⁻¹) · (diag(s) · W)"),
        "inputs",
        "One bar for each channel that the layer reads, with one scale for all of them. The sample "
        "has no such outliers, so three channels behind each norm were made 60 times louder and "
        "the weights that read them as much smaller, which changes no output.",
        model=TRANSFORMER,
        preset="int8",
        layer="blocks.0.attn.q",
        settings={"samples": 64},
        outliers=True,
    ),
    "split": Text(
        "One large weight stretches the scale that all others share. If the layer before gives a "
        "channel twice, its weights can be halved: the function stays, the range shrinks, and the "
        "model grows by the channels that were doubled. Where a residual, a norm or a group fixes "
        "the width, the layer is left as it is.",
        ("w·x = (w/2)·x + (w/2)·x", "copy i of m holds w/m + Δ·(i/m + 1/(2m) − 1/2)"),
        "error_ratio",
        "Squared error of each layer's output over that of rounding to nearest, lower is better; "
        "no bar where the width is fixed.",
        model=TRANSFORMER,
        preset="int4-weights",
        unit="× nearest",
    ),
    "ranges": Text(
        "An observer chooses a range that keeps the tensor close. What counts is the layer's "
        "output: a clipped weight that always meets small inputs costs nothing. Each range is "
        "tried at a grid of widths on calibration data, and the one kept that leaves the output "
        "closest.",
        ("θ* = argmin over θ of ‖f(W, x) − f(Q(W; θ), x̂)‖²",),
        "layer_sqnr_weight",
        "SQNR of each layer's output under the range that was found for its weight.",
        preset="int4-weights",
        unit="dB",
    ),
    "keep_in_float": Text(
        "What no algorithm repairs need not be quantized. Each layer alone is quantized and the "
        "network's output compared with the float one; the layers that cost most stay in float, at "
        "the price of their size and speed.",
        ("cost(l) = ‖y − y with layer l alone quantized‖²",),
        "noise_share",
        "What each layer costs alone, as a share of all: the largest stay in float.",
        preset="int4-weights",
        settings={"count": 2},
        unit="share",
    ),
    "finetune": Text(
        "Quantization-aware training: the network learns on while its weights and activations are "
        "rounded. Rounding has no slope, so gradients go straight through it; the step of each "
        "grid is learned along with the weights. Nobody gave it labels here: it learns to answer "
        "as the float network does.",
        (
            "x̂ = s · q &nbsp; q = clamp(round(x / s), q_min, q_max)",
            "∂x̂/∂x = 1 inside the range, 0 outside",
            "∂x̂/∂s = q − x/s inside, q_min or q_max outside &nbsp; · 1/√(count · q_max)",
        ),
        "codes",
        "How far training moved each weight, in steps of the learned scale. A small move can be "
        "enough to give it the code next door, and the scales moved too.",
        preset="int4-weights",
        beyond="have another code than before",
        layer="block4.pw.conv",
        settings={"steps": 60},
    ),
}
