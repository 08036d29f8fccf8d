"""Makes the vectors of every operator but linear and convolution: one file per family.

Run once, with torch 2.13: ``python -m tests.golden.make_ops``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tests.golden.make_writer import Writer, coin, integer, output_qparams, per_tensor

OPS = torch.ops.quantized
TYPES = {"quint8": torch.quint8, "qint8": torch.qint8, "qint32": torch.qint32}


def a_type() -> torch.dtype:
    return torch.qint8 if coin(0.3) else torch.quint8


def spread(real: Tensor, dtype: torch.dtype) -> tuple[float, int]:
    scale, zero_point = output_qparams(real)
    return scale, zero_point - (128 if dtype == torch.qint8 else 0)


def every_code(dtype: torch.dtype) -> Tensor:
    """All 256 codes in random order, with random parameters."""
    q = per_tensor((256,), dtype)
    low = torch.iinfo(q.int_repr().dtype).min
    codes = (torch.randperm(256) + low).to(q.int_repr().dtype).reshape(1, 4, 8, 8)
    return torch._make_per_tensor_quantized_tensor(codes, q.q_scale(), q.q_zero_point())


def quantize(writer: Writer) -> None:
    """Ties, saturation, tiny and large numbers; per tensor and per channel."""
    for name, dtype in TYPES.items():
        low, high = {"quint8": (0, 255), "qint8": (-128, 127), "qint32": (-1000, 1000)}[name]
        for trial in range(12):
            scale = 2.0 ** -integer(0, 6) if trial % 2 else float(torch.rand(()) * 0.1 + 1e-4)
            halves = torch.arange(-300, 300) / 2
            x = torch.cat([halves * scale, torch.randn(600) * 60 * scale, torch.randn(20) * 1e6])
            q = torch.quantize_per_tensor(x, scale, integer(low, high), dtype)
            writer.add("quantize", {"x": x, "y": q, "dequantized": q.dequantize()})
    for trial in range(16):
        axis = trial % 3
        x = torch.randn(5, 6, 40) * 4
        count = x.shape[axis]
        scales = torch.rand(count) * 0.1 + 1e-3
        if trial % 2:
            scales = 2.0 ** -torch.randint(2, 6, (count,)).float()
            x = torch.round(x / 2**-6) * 2**-6
        zeros = torch.randint(-20, 20, (count,))
        q = torch.quantize_per_channel(x, scales, zeros, axis, torch.qint8)
        writer.add("quantize", {"x": x, "y": q, "dequantized": q.dequantize()})


def normalization(writer: Writer) -> None:
    for trial in range(20):
        shape = (2, 4 * integer(1, 3), integer(5, 9), integer(5, 9))
        channels = shape[1]
        for n in (2, 3):
            x = per_tensor((*shape, 3) if n == 3 else shape)
            mean, var = torch.randn(channels), torch.rand(channels) + 0.05
            weight, bias = torch.randn(channels), torch.randn(channels)
            relu, eps = coin(), 1e-5
            real = F.batch_norm(x.dequantize(), mean, var, weight, bias, eps=eps)
            run = getattr(OPS, f"batch_norm{n}d" + ("_relu" if relu else ""))
            y = run(x, weight, bias, mean, var, eps, *output_qparams(real))
            floats = {"weight": weight, "bias": bias, "mean": mean, "var": var}
            writer.add("batch_norm", {"x": x, **floats, "y": y}, eps=eps, relu=relu)
        affine = trial % 4 != 0
        weight, bias = (torch.randn(channels), torch.randn(channels)) if affine else (None, None)
        floats = {"weight": weight, "bias": bias}
        x, groups = per_tensor(shape), (1, 2, 4)[trial % 3]
        y = OPS.group_norm(x, groups, weight, bias, 1e-5, 0.03, 120)
        writer.add("group_norm", {"x": x, **floats, "y": y}, num_groups=groups, eps=1e-5)
        y = OPS.instance_norm(x, weight, bias, 1e-5, 0.03, 120)
        writer.add("instance_norm", {"x": x, **floats, "y": y}, eps=1e-5)
        x = per_tensor((2, 6, channels))
        y = OPS.layer_norm(x, [channels], weight, bias, 1e-5, 0.03, 120)
        writer.add("layer_norm", {"x": x, **floats, "y": y}, normalized_shape=[channels], eps=1e-5)


def activations(writer: Writer) -> None:
    for trial in range(48):
        x = every_code(torch.qint8 if trial % 3 == 2 else torch.quint8)
        scale, zero_point = spread(x.dequantize(), x.dtype)
        calls: dict[str, tuple[Tensor, dict[str, Any]]] = {
            "relu": (torch.relu(x), {}),
            "relu6": (OPS.relu6(x, False), {}),
            "hardtanh": (F.hardtanh(x, -0.7, 1.3), {"min_val": -0.7, "max_val": 1.3}),
            "sigmoid": (OPS.sigmoid(x, 1 / 256, 0 if x.dtype == torch.quint8 else -128), {}),
            "tanh": (torch.tanh(x), {}),
            "hardsigmoid": (F.hardsigmoid(x), {}),
            "gelu": (F.gelu(x), {}),
            "hardswish": (OPS.hardswish(x, scale, zero_point), {}),
            "elu": (OPS.elu(x, scale, zero_point, 0.8), {"alpha": 0.8}),
            "leaky_relu": (
                OPS.leaky_relu(x, 0.1, False, scale, zero_point),
                {"negative_slope": 0.1},
            ),
        }
        for op, (y, kwargs) in calls.items():
            writer.add(op, {"x": x, "y": y}, **kwargs)
        x = per_tensor((3, integer(2, 9), integer(4, 12)))
        y = OPS.softmax(x, trial % 3, 1 / 256, 0)
        writer.add("softmax", {"x": x, "y": y}, dim=trial % 3)


def arithmetic(writer: Writer) -> None:
    for trial in range(40):
        shape = (2, integer(2, 8), integer(3, 8), integer(3, 8))
        dtype = a_type()
        power = 2.0**-5 if trial % 4 == 3 else None
        a, b = (per_tensor(shape, dtype, scale=power) for _ in range(2))
        relu = coin()
        for op, real in (
            ("add", a.dequantize() + b.dequantize()),
            ("mul", a.dequantize() * b.dequantize()),
        ):
            run = getattr(OPS, f"{op}_relu" if relu else op)
            scale, zero_point = spread(real, dtype)
            scale = 2.0**-4 if power else scale
            writer.add(op, {"a": a, "b": b, "y": run(a, b, scale, zero_point)}, relu=relu)
        for op in ("add_scalar", "mul_scalar"):
            scalar = float(torch.randn(()) * 4) if trial else 0.0
            run = getattr(OPS, f"{op}_relu" if relu else op)
            writer.add(op, {"x": a, "y": run(a, scalar)}, scalar=scalar, relu=relu)
        parts = [per_tensor((2, integer(1, 4), 5), scale=0.05) for _ in range(3)]
        y = OPS.cat(parts, 1, 0.07, 110)
        writer.add("cat", {**{f"part{i}": p for i, p in enumerate(parts)}, "y": y}, dim=1)
        n, k, m = integer(1, 12), integer(1, 40), integer(1, 12)
        a, b = per_tensor((2, 2, n, k)), per_tensor((2, 2, k, m))
        real = a.dequantize() @ b.dequantize()
        y = OPS.matmul(a, b, *output_qparams(real)) if real.numel() > 8 else None
        if y is not None:
            writer.add("matmul", {"a": a, "b": b, "y": y})


def pooling(writer: Writer) -> None:
    for _ in range(32):
        shape = (2, integer(2, 6), integer(6, 12), integer(6, 12))
        dtype = a_type()
        x, line = per_tensor(shape, dtype), per_tensor(shape[:3], dtype)
        volume = per_tensor((1, *shape[1:], 6), dtype)
        kernel = integer(2, 3)
        options = {"kernel_size": kernel, "stride": integer(1, 3), "padding": integer(0, 1)}
        average = {**options, "ceil_mode": coin(), "count_include_pad": coin()}
        longest = {**options, "ceil_mode": coin()}
        writer.add("max_pool2d", {"x": x, "y": F.max_pool2d(x, **longest)}, **longest)
        writer.add("max_pool1d", {"x": line, "y": F.max_pool1d(line, **options)}, **options)
        writer.add("avg_pool2d", {"x": x, "y": F.avg_pool2d(x, **average)}, **average)
        writer.add("avg_pool1d", {"x": line, "y": F.avg_pool1d(line, **average)}, **average)
        writer.add("avg_pool3d", {"x": volume, "y": F.avg_pool3d(volume, **average)}, **average)
        size = {"output_size": [integer(1, 5), integer(1, 5)]}
        y = F.adaptive_avg_pool2d(x, **size)
        writer.add("adaptive_avg_pool2d", {"x": x, "y": y}, **size)
        size = {"output_size": [integer(1, 5), integer(1, 5), integer(1, 3)]}
        y = F.adaptive_avg_pool3d(volume, **size)
        writer.add("adaptive_avg_pool3d", {"x": volume, "y": y}, **size)


def interpolate(writer: Writer) -> None:
    for _ in range(32):
        x = per_tensor((2, integer(2, 5), integer(4, 9), integer(4, 9)), a_type())
        size = [integer(3, 15), integer(3, 15)]
        for mode in ("nearest", "nearest-exact"):
            y = F.interpolate(x, size, mode=mode)
            writer.add("interpolate", {"x": x, "y": y}, size=size, mode=mode)
        corners = coin()
        y = F.interpolate(x, size, mode="bilinear", align_corners=corners)
        options = {"size": size, "mode": "bilinear", "align_corners": corners}
        writer.add("interpolate", {"x": x, "y": y}, **options)
        volume = per_tensor((1, 2, 3, 4, 5))
        size = [integer(2, 7) for _ in range(3)]
        y = F.interpolate(volume, size, mode="nearest")
        writer.add("interpolate", {"x": volume, "y": y}, size=size, mode="nearest")


def main() -> None:
    for number, family in enumerate(
        (quantize, normalization, activations, arithmetic, pooling, interpolate)
    ):
        torch.manual_seed(number)
        writer = Writer(family.__name__)
        family(writer)
        writer.write()


if __name__ == "__main__":
    main()
