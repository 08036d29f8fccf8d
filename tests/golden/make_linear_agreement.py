"""Counts the codes in which qlab and torch 2.13, engine onednn, differ: linear and convolution.

Never run by the suite: ``python -m tests.golden.make_linear_agreement`` prints how many of some 15
million outputs of random layers, every other one with ReLU, differ from those of
``torch.ops.quantized``. All of qlab's kernels compute ``f32(acc) · (s_x · s_w)``; the reference's
multiply by one scale after the other where shape and CPU make them, so no order gives 0.
"""

import warnings

import torch
from torch import Tensor

from qlab import ops
from qlab.dtypes import qint8, quint8
from qlab.granularity import PerAxis
from qlab.qparams import QParams

OUTPUTS, SAMPLES, LAYERS = 256, 512, 120


def layer() -> tuple[Tensor, Tensor, QParams, QParams, Tensor, QParams]:
    """Codes of input and weight, their parameters, a bias, the output's parameters."""
    features = int(torch.randint(16, 400, ()))
    x = torch.randint(0, 256, (SAMPLES, features), dtype=torch.uint8)
    weight = torch.randint(-128, 128, (OUTPUTS, features), dtype=torch.int8)
    x_qparams = QParams.per_tensor(float(torch.rand(()) * 0.1 + 1e-3), 128, quint8)
    scales, zeros = torch.rand(OUTPUTS) * 0.02 + 1e-4, torch.zeros(OUTPUTS, dtype=torch.int32)
    w_qparams = QParams(scales, zeros, qint8, PerAxis(0))
    real = (x.double() - 128) @ weight.double().T * x_qparams.scale.double() * scales.double()
    bias = torch.randn(OUTPUTS) * float(real.std())
    return x, weight, x_qparams, w_qparams, bias, QParams.per_tensor(real.std() / 40, 128, quint8)


def convolution() -> tuple[Tensor, Tensor, QParams, QParams, Tensor, QParams]:
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


def differing(kind: str, relu: bool) -> tuple[int, int, int]:
    """Of one random layer: how many outputs, how many differ, and by how many steps at most."""
    made = convolution() if kind == "conv2d" else layer()
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
        torch.manual_seed(11)
        found = [differing(kind, relu=bool(index % 2)) for index in range(LAYERS)]
        total, different = (sum(row[i] for row in found) for i in range(2))
        largest = max(row[2] for row in found)
        print(f"{kind}: of {total:,} outputs {different} differ, by {largest} step at most")


if __name__ == "__main__":
    main()
