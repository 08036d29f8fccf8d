"""Makes linear.npz and conv.npz: torch 2.13's quantized linear and convolutions, engine onednn.

Run once, on an x86 CPU with VNNI: ``python -m tests.golden.make_conv``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tests.golden.make_writer import Writer, coin, integer, output_qparams, per_tensor, weight_of

OPS = torch.ops.quantized
CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
PREPACK = {1: OPS.conv1d_prepack, 2: OPS.conv2d_prepack, 3: OPS.conv3d_prepack}


def exact(real: Tensor, result: Tensor) -> None:
    """Stops where the engine itself is wrong, which it is for some shapes (`qlab.ops.onednn`)."""
    scale, zero_point = result.q_scale(), result.q_zero_point()
    codes = (real / scale + zero_point).clamp(0, 255)
    assert (codes - result.int_repr()).abs().max() < 0.5 + 1e-3


def bias_for(real: Tensor, axis: int, ties: bool, unit: float) -> Tensor:
    """A bias as large as the products; a multiple of their unit where ties are wanted."""
    bias = torch.randn(real.shape[axis]) * float(real.std())
    return torch.round(bias / unit) * unit if ties else bias


def linear_case(writer: Writer) -> None:
    rows, features, outputs = integer(1, 12), integer(1, 100), integer(1, 32)
    ties, relu = coin(0.3), coin()
    x = per_tensor((rows, features), scale=2.0**-5 if ties else None)
    weight = weight_of((outputs, features), channels=coin(), ties=ties)
    real = F.linear(x.dequantize().double(), weight.dequantize().double())
    bias = bias_for(real, 1, ties, 2.0**-16) if coin(0.8) and rows > 1 else None
    real = real + (0 if bias is None else bias)
    y = output_qparams(real, ties=ties) if real.numel() > 1 else (0.5, 100)
    run = OPS.linear_relu if relu else OPS.linear
    result = run(x, OPS.linear_prepack(weight, bias), *y)
    exact(real.relu() if relu else real, result)
    tensors = {"x": x, "weight": weight, "bias": bias, "y": result}
    writer.add("linear", tensors, relu=relu)


def conv_layout(n: int) -> tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]:
    """Shapes of input and weight, and options; none of those that oneDNN gets wrong."""
    kind = ("dense", "grouped", "depthwise")[integer(0, 2)] if n < 3 else "dense"
    groups = {"dense": 1, "grouped": integer(2, 4), "depthwise": integer(1, 24)}[kind]
    in_each = 1 if kind == "depthwise" else integer(1, 12)
    out_each = integer(1, 2) if kind == "depthwise" else integer(1, 12)
    kernel = tuple(integer(1, 5 if n < 3 else 3) for _ in range(n))
    dilation = tuple(integer(1, 2) for _ in range(n))
    reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    sizes = tuple(r + integer(4, 9 if n < 3 else 5) for r in reach)
    options = {
        "stride": [integer(1, 2) for _ in range(n)],
        "padding": [integer(0, r // 2) for r in reach],
        "dilation": list(dilation),
        "groups": groups,
    }
    x = (integer(1, 2), groups * in_each, *sizes)
    return x, (groups * out_each, in_each, *kernel), options


def conv_case(writer: Writer, n: int) -> None:
    ties, relu = coin(0.3), coin()
    x_shape, w_shape, options = conv_layout(n)
    x = per_tensor(x_shape, scale=2.0**-5 if ties else None)
    weight = weight_of(w_shape, channels=coin(), ties=ties)
    real = CONV[n](x.dequantize().double(), weight.dequantize().double(), None, **options)
    bias = bias_for(real, 1, ties, 2.0**-16) if coin(0.8) else None
    real = real + (0 if bias is None else bias.reshape(-1, *(1,) * n))
    packed = PREPACK[n](weight, bias, *options.values())
    run = getattr(OPS, f"conv{n}d_relu" if relu else f"conv{n}d")
    result = run(x, packed, *output_qparams(real, ties=ties))
    exact(real.relu() if relu else real, result)
    tensors = {"x": x, "weight": weight, "bias": bias, "y": result}
    writer.add(f"conv{n}d", tensors, relu=relu, **options)


def main() -> None:
    torch.manual_seed(1)
    linear, conv = Writer("linear"), Writer("conv")
    for _ in range(160):
        linear_case(linear)
    for n, count in ((1, 80), (2, 160), (3, 60)):
        for _ in range(count):
            conv_case(conv, n)
    linear.write()
    conv.write()


if __name__ == "__main__":
    main()
