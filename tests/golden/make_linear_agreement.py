"""Counts the codes in which qlab and torch 2.13, engine onednn, differ: linear and convolution.

Never run by the suite: ``python -m tests.golden.make_linear_agreement`` prints how many of some 15
million outputs of random layers, every other one with ReLU, differ from those of
``torch.ops.quantized``. All of qlab's kernels compute ``f32(acc) · (s_x · s_w)``; the reference's
multiply by one scale after the other where shape and CPU make them, so no order gives 0.

Then the same with one round scale for input, weight and output, as in examples and unit tests:
there many results lie on a tie, and the order decides about those.
"""

import warnings

import torch
from torch import Tensor

from qlab import ops
from qlab.dtypes import qint8, quint8
from qlab.granularity import PerAxis
from qlab.qparams import QParams

OUTPUTS, SAMPLES, LAYERS = 256, 512, 120
ROUND, ROUND_LAYERS = (0.1, 0.05, 0.037), 10

#: Codes of input and weight, their parameters, a bias, the output's parameters.
Made = tuple[Tensor, Tensor, QParams, QParams, Tensor, QParams]


def layer() -> Made:
    """A random linear layer, its parameters and data."""
    features = int(torch.randint(16, 400, ()))
    x = torch.randint(0, 256, (SAMPLES, features), dtype=torch.uint8)
    weight = torch.randint(-128, 128, (OUTPUTS, features), dtype=torch.int8)
    x_qparams = QParams.per_tensor(float(torch.rand(()) * 0.1 + 1e-3), 128, quint8)
    scales, zeros = torch.rand(OUTPUTS) * 0.02 + 1e-4, torch.zeros(OUTPUTS, dtype=torch.int32)
    w_qparams = QParams(scales, zeros, qint8, PerAxis(0))
    real = (x.double() - 128) @ weight.double().T * x_qparams.scale.double() * scales.double()
    bias = torch.randn(OUTPUTS) * float(real.std())
    return x, weight, x_qparams, w_qparams, bias, QParams.per_tensor(real.std() / 40, 128, quint8)


def convolution() -> Made:
    """The same of a 3×3 convolution: images of 20×20, 64 channels out."""
    channels = int(torch.randint(3, 48, ()))
    x = torch.randint(0, 256, (8, channels, 20, 20), dtype=torch.uint8)
    weight = torch.randint(-128, 128, (64, channels, 3, 3), dtype=torch.int8)
    x_qparams = QParams.per_tensor(float(torch.rand(()) * 0.1 + 1e-3), 128, quint8)
    scales, zeros = torch.rand(64) * 0.02 + 1e-4, torch.zeros(64, dtype=torch.int32)
    w_qparams = QParams(scales, zeros, qint8, PerAxis(0))
    real = torch.conv2d((x.double() - 128) * x_qparams.scale.double(), weight.double())
    real *= scales.double().reshape(-1, 1, 1)
    bias = torch.randn(64) * float(real.std())
    return x, weight, x_qparams, w_qparams, bias, QParams.per_tensor(real.std() / 40, 128, quint8)


def rounded(made: Made, scale: float) -> Made:
    """The layer with one scale for all, without a bias, on codes near their zero points."""
    x, weight, _, w_qparams, bias, _ = made
    x = torch.randn(x.shape).div(scale).round().add(128).clamp(0, 255).to(torch.uint8)
    weight = torch.randn(weight.shape).div(10 * scale).round().clamp(-128, 127).to(torch.int8)
    w_qparams = QParams(
        torch.full_like(w_qparams.scale, scale), w_qparams.zero_point, qint8, PerAxis(0)
    )
    one = QParams.per_tensor(scale, 128, quint8)
    return x, weight, one, w_qparams, torch.zeros_like(bias), one


def differing(kind: str, relu: bool, scale: float | None = None) -> tuple[int, int, int]:
    """Of one random layer: how many outputs, how many differ, and by how many steps at most."""
    made = convolution() if kind == "conv2d" else layer()
    if scale is not None:
        made = rounded(made, scale)
    x, weight, x_qparams, w_qparams, bias, y_qparams = made
    given = torch._make_per_tensor_quantized_tensor(x, x_qparams.scale_value, 128)
    coded = torch._make_per_channel_quantized_tensor(
        weight, w_qparams.scale.double(), w_qparams.zero_point.long(), 0
    )
    reference = torch.ops.quantized
    name, out = f"{kind}_relu" if relu else kind, (y_qparams.scale_value, 128)
    if kind == "conv2d":
        packed = reference.conv2d_prepack(coded, bias, [1, 1], [0, 0], [1, 1], 1)
    else:
        packed = reference.linear_prepack(coded, bias)
    theirs = getattr(reference, name)(given, packed, *out).int_repr()
    operator = getattr(ops, kind)
    ours = operator(x, x_qparams, weight, w_qparams, bias, y_qparams, relu=relu)
    steps = (ours.int() - theirs.int()).abs()
    return steps.numel(), int((steps > 0).sum()), int(steps.max())


def main() -> None:
    """Prints the counts."""
    warnings.simplefilter("ignore")
    torch.backends.quantized.engine = "onednn"
    for kind in ("linear", "conv2d"):
        for scale in (None, *ROUND):
            torch.manual_seed(11)
            layers = LAYERS if scale is None else ROUND_LAYERS
            found = [differing(kind, bool(index % 2), scale) for index in range(layers)]
            total, different = (sum(row[i] for row in found) for i in range(2))
            largest = max(row[2] for row in found)
            scales = "random scales" if scale is None else f"every scale {scale}"
            print(
                f"{kind}, {scales}: of {total:,} outputs {different:,} "
                f"({different / total:.2g}) differ, by {largest} step at most"
            )


if __name__ == "__main__":
    main()
