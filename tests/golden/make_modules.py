"""Makes `modules.safetensors`: what the reference's quantized functions and modules give.

Never run by the suite; needs torch 2.13, whose own quantization it calls. Engine onednn; for
transposed convolutions fbgemm, since onednn has no output padding and is wrong without: by up to
253 of 255 steps on nearly every output, measured against float64.

    python tests/golden/make_modules.py
"""

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

warnings.simplefilter("ignore")

import torch.ao.nn.intrinsic.quantized as nniq  # noqa: E402
import torch.ao.nn.quantized as nnq  # noqa: E402
import torch.ao.nn.quantized.functional as qF  # noqa: E402

TENSORS: dict[str, Tensor] = {}
CASES: list[dict[str, Any]] = []
CODES = {torch.quint8: torch.uint8, torch.qint8: torch.int8, torch.quint4x2: torch.uint8}


def store(tensor: Tensor) -> str:
    name = str(len(TENSORS))
    TENSORS[name] = tensor.detach().contiguous().clone()
    return name


def codes_of(q: Tensor) -> Tensor:
    raw = q.int_repr()
    if q.dtype != torch.quint4x2:
        return raw
    return torch.stack((raw & 15, raw >> 4), -1).reshape(q.shape)


def write(value: Any) -> Any:
    """An argument as JSON; tensors by number."""
    if isinstance(value, (list, tuple)):
        return [write(item) for item in value]
    if isinstance(value, dict):
        return {name: write(item) for name, item in value.items()}
    if not isinstance(value, Tensor):
        return value
    if not value.is_quantized:
        return {"tensor": store(value)}
    channels = value.qscheme() not in (torch.per_tensor_affine, torch.per_tensor_symmetric)
    scale = value.q_per_channel_scales() if channels else torch.tensor(value.q_scale())
    zero = value.q_per_channel_zero_points() if channels else torch.tensor(value.q_zero_point())
    floating = zero.is_floating_point()
    return {
        "codes": store(codes_of(value)),
        "scale": store(scale.float()),
        "zero_point": store(zero.float() if floating else zero.int()),
        "dtype": str(value.dtype).removeprefix("torch."),
        "axis": value.q_per_channel_axis() if channels else None,
    }


def ties(real: Tensor, y: Tensor) -> Tensor:
    """Where the exact result lies so near the middle of two codes that either is right."""
    steps = real / y.q_scale()
    return ((steps - steps.floor()) - 0.5).abs() <= 1e-4


def record(kind: str, name: str, y: Tensor, real: Tensor | None, **given: Any) -> None:
    case = {"kind": kind, "name": name, "y": write(y), **write(given)}
    if real is not None:
        case["ties"] = store(ties(real.double(), y))
    CASES.append(case)


def random(shape: tuple[int, ...], dtype: torch.dtype = torch.quint8) -> Tensor:
    limits = torch.iinfo(CODES[dtype])
    codes = torch.randint(limits.min, limits.max + 1, shape, dtype=CODES[dtype])
    scale, middle = float(torch.rand(()) * 0.05 + 0.005), (limits.min + limits.max + 1) // 2
    zero_point = middle + int(torch.randint(-40, 40, ()))
    return torch._make_per_tensor_quantized_tensor(codes, scale, zero_point)


def weight(shape: tuple[int, ...], channels: bool = False) -> Tensor:
    values = torch.randn(shape)
    if not channels:
        return torch.quantize_per_tensor(
            values, float(torch.rand(()) * 0.02 + 0.01), 0, torch.qint8
        )
    scales, zeros = torch.rand(shape[0]) * 0.02 + 0.01, torch.zeros(shape[0]).long()
    return torch.quantize_per_channel(values, scales, zeros, 0, torch.qint8)


def output(real: Tensor) -> tuple[float, int]:
    """A scale that spreads results over most of the codes; as float32, so JSON keeps it."""
    return float((real.std() / 40).clamp(min=1e-3).float()), int(torch.randint(90, 160, ()))


def functional(name: str, float_function: Any, *args: Any, **kwargs: Any) -> None:
    """One call of the functional interface on codes that nothing but this call sees."""
    plain = [a.dequantize().double() if isinstance(a, Tensor) else a for a in args]
    real = None if float_function is None else float_function(*plain)
    given = {"args": args, "kwargs": kwargs}
    record("functional", name, getattr(qF, name)(*args, **kwargs), real, **given)


def activations() -> None:
    for dtype in (torch.quint8, torch.qint8):
        x = random((4, 6, 5, 6), dtype)
        d = x.dequantize()
        for alpha in (1.0, 0.6):
            for name in ("celu", "elu"):
                float_function = getattr(F, name)
                scale, zero_point = output(float_function(d, alpha))
                zero_point -= 128 * (dtype == torch.qint8)
                function = lambda v, *_, f=float_function, a=alpha: f(v, a)  # noqa: E731
                functional(name, function, x, scale, zero_point, alpha)
        scale, zero_point = output(F.hardswish(d))
        zero_point -= 128 * (dtype == torch.qint8)
        functional("hardswish", lambda v, *_: F.hardswish(v), x, scale, zero_point)
        functional("leaky_relu", lambda v, a, *_: F.leaky_relu(v, a), x, 0.13)
        leaky = lambda v, a, *_: F.leaky_relu(v, a)  # noqa: E731
        functional("leaky_relu", leaky, x, 0.13, False, scale, zero_point)
        functional("hardtanh", None, x, -0.52, 1.03)
        functional("clamp", None, x, -0.52, 1.03)
        functional("threshold", lambda v, a, b: F.threshold(v, a, b), x, 0.52, -0.77)
        functional("hardsigmoid", lambda v: F.hardsigmoid(v), x)


def pools() -> None:
    x2, x3, x1 = random((2, 3, 9, 10)), random((1, 2, 6, 7, 8)), random((2, 3, 19))
    for options in (
        (3,),
        (3, 2, 1),
        ((2, 3), (1, 2), (1, 0), True, False),
        (2, 2, 0, False, True, 3),
    ):
        functional("avg_pool2d", F.avg_pool2d, x2, *options)
    for options in ((2,), (3, 2, 1), (2, 1, 1, True, False)):
        functional("avg_pool3d", F.avg_pool3d, x3, *options)
    for size in (4, (3, 5)):
        functional("adaptive_avg_pool2d", F.adaptive_avg_pool2d, x2, size)
    functional("adaptive_avg_pool3d", F.adaptive_avg_pool3d, x3, (2, 3, 4))
    functional("max_pool1d", None, x1, 3, 2, 1)
    functional("max_pool2d", None, x2, 3, 2, 1)
    functional("max_pool2d", None, x2, (2, 3), None, 0, (2, 1), True)
    for size, factor in ((None, 2), ((13, 7), None)):
        functional("interpolate", None, x2, size, factor)
        bilinear = lambda v, s, f, m, a: F.interpolate(v, s, f, m, a)  # noqa: E731
        for corners in (True, False):
            functional("interpolate", bilinear, x2, size, factor, "bilinear", corners)
        functional("upsample", None, x2, size, factor)
        functional("upsample_nearest", None, x2, size, factor)
        aligned = lambda v, s, f: F.interpolate(v, s, f, "bilinear", True)  # noqa: E731
        functional("upsample_bilinear", aligned, x2, size, factor)


def contractions() -> None:
    for rank, shape in ((1, (2, 4, 17)), (2, (2, 4, 9, 8)), (3, (1, 4, 5, 6, 5))):
        for groups, channels in ((1, False), (2, True)):
            x, w = random(shape), weight((6, 4 // groups, *[3] * rank), channels)
            bias = torch.randn(6) if groups == 1 else None
            plain = getattr(F, f"conv{rank}d")
            scale, zero_point = output(plain(x.dequantize(), w.dequantize(), bias, 2, 1, 1, groups))
            options = {"scale": scale, "zero_point": zero_point}
            functional(f"conv{rank}d", None, x, w, bias, 2, 1, 1, groups, **options)
    for channels in (False, True):
        x, w, bias = random((7, 20)), weight((9, 20), channels), torch.randn(9)
        functional("linear", None, x, w, bias, *output(F.linear(x.dequantize(), w.dequantize())))
    functional("linear", None, x, w)
    for shape in ((3, 6, 5, 4), (2, 6, 3, 4, 3)):
        x = random(shape)
        stats = torch.randn(6), torch.randn(6), torch.randn(6), torch.rand(6) + 0.5
        real = F.batch_norm(x.dequantize(), stats[2], stats[3], *stats[:2], False, 0, 1e-5)
        args = (x, *stats, 1e-5, *output(real))
        y = torch.quantized_batch_norm(*args)
        record("top", "quantized_batch_norm", y, real, args=args, kwargs={})


def module(name: str, init: dict[str, Any], x: Tensor, **state: Any) -> None:
    """One call of a module; ``state`` is assigned to its tensors and numbers first."""
    place = nniq if name.startswith("BNReLU") else nnq
    made = getattr(place, name)(**init)
    for key, value in state.items():
        if isinstance(getattr(made, key), Tensor):
            getattr(made, key).data.copy_(torch.as_tensor(value))
        else:
            setattr(made, key, value)
    record("module", name, made.eval()(x), None, init=init, state=state, x=x)


def modules() -> None:
    x = random((3, 4, 6, 5))
    scaled = {"scale": 0.0271, "zero_point": 93}
    for name, init in (
        ("ReLU6", {}),
        ("Dropout", {"p": 0.4}),
        ("MaxPool2d", {"kernel_size": 3, "stride": 2, "padding": 1}),
        ("Hardswish", scaled),
        ("ELU", {**scaled, "alpha": 0.7}),
        ("LeakyReLU", {**scaled, "negative_slope": 0.3}),
        ("Sigmoid", {"output_scale": 1 / 256, "output_zero_point": 0}),
        ("Softmax", {"dim": 1, "scale": 1 / 256, "zero_point": 0}),
        ("LayerNorm", norm((6, 5), normalized_shape=(6, 5))),
        ("GroupNorm", norm((4,), num_groups=2, num_channels=4)),
        ("InstanceNorm2d", norm((4,), num_features=4)),
    ):
        module(name, init, x)
    module("InstanceNorm1d", norm((4,), num_features=4), random((3, 4, 15)))
    module("InstanceNorm3d", norm((4,), num_features=4), random((2, 4, 4, 5, 3)))
    for rank in (2, 3):
        statistics = {
            "weight": torch.randn(4),
            "bias": torch.randn(4),
            "running_mean": torch.randn(4),
            "running_var": torch.rand(4) + 0.5,
        }
        for name in (f"BatchNorm{rank}d", f"BNReLU{rank}d"):
            shape = (3, 4, *[5] * rank)
            module(name, {"num_features": 4}, random(shape), **statistics, **scaled)
    for count in (1, 4):
        slopes = torch.quantize_per_tensor(torch.rand(count), 0.0101, 30, torch.quint8)
        init = {"output_scale": 0.0311, "output_zero_point": 93, "num_parameters": count}
        made = nnq.PReLU(**init)
        made.set_weight(slopes)
        record("prelu", "PReLU", made(x), None, init=init, weight=slopes, x=x)


def norm(shape: tuple[int, ...], **given: Any) -> dict[str, Any]:
    affine = (torch.nn.Parameter(torch.randn(shape)) for _ in range(2))
    numbers = {"scale": 0.0271, "zero_point": 93}
    return {**given, **dict(zip(("weight", "bias"), affine, strict=True)), **numbers}


def transposed() -> None:
    torch.backends.quantized.engine = "fbgemm"
    for rank, size in ((1, 9), (2, 6), (3, 4)):
        for groups, extra in ((1, 0), (2, 0), (2, 1)):
            x, w = random((2, 4, *[size] * rank)), weight((4, 6 // groups, *[3] * rank))
            bias = torch.randn(6) if groups == 1 or extra else None
            init = {
                "in_channels": 4,
                "out_channels": 6,
                "kernel_size": 3,
                "stride": 2,
                "padding": 1,
                "output_padding": extra,
                "groups": groups,
                "bias": bias is not None,
            }
            made = getattr(nnq, f"ConvTranspose{rank}d")(**init)
            made.set_weight_bias(w, bias)
            plain = getattr(F, f"conv_transpose{rank}d")
            real = plain(x.dequantize(), w.dequantize(), bias, 2, 1, extra, groups)
            made.scale, made.zero_point = output(real)
            state = {"scale": made.scale, "zero_point": made.zero_point}
            given = {"init": init, "weight": w, "bias": bias, "state": state, "x": x}
            record("transposed", f"ConvTranspose{rank}d", made(x), None, **given)
    torch.backends.quantized.engine = "onednn"


def tables() -> None:
    for dtype, top in ((torch.quint8, 255), (torch.quint4x2, 15)):
        rows = torch.randn(60, 8) * torch.rand(60, 1) * 3 + torch.randn(60, 1)
        low, high = rows.amin(1), rows.amax(1)
        scale = (high - low) / top
        table = torch.quantize_per_channel(rows, scale, -low / scale, 0, dtype)
        CASES.append({"kind": "table", "name": "table", "rows": write(rows), "q": write(table)})
        indices = torch.randint(0, 60, (200,))
        init = {"num_embeddings": 60, "embedding_dim": 8}
        kind = str(dtype).removeprefix("torch.")
        made = nnq.Embedding(**init, _weight=table, dtype=dtype)
        given = {"init": init, "dtype": kind, "weight": table}
        for shape in ((200,), (8, 25)):
            args = [indices.reshape(shape)]
            record("embedding", "Embedding", made(*args), None, args=args, **given)
        offsets = torch.tensor([0, 3, 3, 50, 120, 199])
        last = torch.cat((offsets, torch.tensor([200])))
        shares = torch.randn(200)
        for ends in (False, True):
            bag_init = {**init, "include_last_offset": ends}
            made = nnq.EmbeddingBag(**bag_init, _weight=table, dtype=dtype)
            given = {"init": bag_init, "dtype": kind, "weight": table}
            starts = last if ends else offsets
            for args in ([indices, starts], [indices, starts, shares]):
                record("embedding", "EmbeddingBag", made(*args), None, args=args, **given)
            grouped = [indices.reshape(20, 10)]
            if not ends:
                record("embedding", "EmbeddingBag", made(*grouped), None, args=grouped, **given)


def main() -> None:
    torch.manual_seed(3)
    torch.backends.quantized.engine = "onednn"
    for make in (activations, pools, contractions, modules, transposed, tables):
        make()
    path = Path(__file__).with_name("modules.safetensors")
    save_file(TENSORS, path, {"cases": json.dumps(CASES)})
    print(f"{len(CASES)} cases, {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
