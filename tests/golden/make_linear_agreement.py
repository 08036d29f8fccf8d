"""Counts the codes in which qlab's linear layer and torch 2.13's, engine onednn, differ.

Never run by the suite: ``python -m tests.golden.make_linear_agreement`` prints, over 15.7 million
outputs of 120 random layers, how many differ from ``torch.ops.quantized.linear``, for qlab's order
``f32(acc) · (s_x · s_w)`` and for the other, ``(f32(acc) · s_x) · s_w``. Neither gives 0: that
kernel's order depends on shape and CPU. qlab's is the one that all its own kernels share.
"""

import warnings

import torch
from torch import Tensor

from qlab import ops
from qlab.dtypes import qint8, quint8
from qlab.granularity import PerAxis
from qlab.qparams import QParams, requantize

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


def main() -> None:
    """Prints the counts."""
    warnings.simplefilter("ignore")
    torch.backends.quantized.engine = "onednn"
    torch.manual_seed(11)
    total, product, sequence, largest = 0, 0, 0, 0
    for _ in range(LAYERS):
        x, weight, x_qparams, w_qparams, bias, y_qparams = layer()
        given = torch._make_per_tensor_quantized_tensor(x, x_qparams.scale_value, 128)
        zeros = w_qparams.zero_point.long()
        packed = torch.ops.quantized.linear_prepack(
            torch._make_per_channel_quantized_tensor(weight, w_qparams.scale.double(), zeros, 0),
            bias,
        )
        theirs = torch.ops.quantized.linear(given, packed, y_qparams.scale_value, 128).int_repr()
        ours = ops.linear(x, x_qparams, weight, w_qparams, bias, y_qparams)
        exact = ((x.double() - 128) @ weight.double().T).float()
        other = requantize((exact * x_qparams.scale) * w_qparams.scale + bias, y_qparams)
        total += theirs.numel()
        product += int((ours != theirs).sum())
        sequence += int((other != theirs).sum())
        largest = max(largest, int((ours.int() - theirs.int()).abs().max()))
    print(f"{total:,} outputs; of qlab's {product} differ, by {largest} step at most")
    print(f"with the scales multiplied one after the other {sequence} would")


if __name__ == "__main__":
    main()
