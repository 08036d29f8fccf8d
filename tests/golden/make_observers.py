"""Makes `observers.safetensors`: scales and zero points of the reference's observers and fake
quantizers. Never run by the suite; needs torch 2.13, whose own quantization it calls.

    python tests/golden/make_observers.py
"""

import json
import warnings
from itertools import product
from pathlib import Path

import torch
from safetensors.torch import save_file

warnings.simplefilter("ignore")

import torch.ao.quantization.fake_quantize as reference_fake_quantize  # noqa: E402
import torch.ao.quantization.observer as reference_observers  # noqa: E402

SHAPE, BATCHES = (4, 5, 3), 3
RANGE = ("MinMaxObserver", "MovingAverageMinMaxObserver")
CHANNEL = ("PerChannelMinMaxObserver", "MovingAveragePerChannelMinMaxObserver")
DATA = {
    "normal": lambda x: x,
    "tiny": lambda x: x * 1e-4,
    "large": lambda x: x * 3e4,
    "shifted up": lambda x: x + 5,
    "shifted down": lambda x: x - 50,
    "relu": torch.relu,
    "zero": torch.zeros_like,
    "constant": lambda x: torch.full_like(x, 0.7),
    "subnormal": lambda x: x * 1e-40,
}
CODES = (
    {"dtype": "quint8"},
    {"dtype": "qint8"},
    {"dtype": "quint8", "reduce_range": True},
    {"dtype": "qint8", "reduce_range": True},
    {"dtype": "quint8", "quant_min": 0, "quant_max": 255},
    {"dtype": "quint8", "quant_min": 0, "quant_max": 127},
    {"dtype": "quint8", "quant_min": 0, "quant_max": 15},
    {"dtype": "quint8", "quant_min": 0, "quant_max": 255, "reduce_range": True},
    {"dtype": "qint8", "quant_min": -127, "quant_max": 127, "eps": 2**-12},
    {"dtype": "qint8", "quant_min": -8, "quant_max": 7},
    {"dtype": "qint32"},
)
FAKE = (
    *("default_fake_quant", "default_weight_fake_quant", "default_per_channel_weight_fake_quant"),
    *("default_dynamic_fake_quant", "default_fixed_qparams_range_0to1_fake_quant"),
    *("default_fixed_qparams_range_neg1to1_fake_quant", "default_embedding_fake_quant"),
    *("default_embedding_fake_quant_4bit", "default_fused_act_fake_quant"),
    *("default_fused_wt_fake_quant", "default_fused_per_channel_wt_fake_quant"),
    *("fused_wt_fake_quant_range_neg_127_to_127",),
    *("fused_per_channel_wt_fake_quant_range_neg_127_to_127",),
)


def data() -> dict[str, torch.Tensor]:
    """Batches of every kind of data, float32 ``(BATCHES, *SHAPE)``."""
    generator = torch.Generator().manual_seed(2)
    return {
        name: torch.stack(
            [make(torch.randn(SHAPE, generator=generator) * (i + 1)) for i in range(BATCHES)]
        )
        for name, make in DATA.items()
    }


def observer_cases() -> list[tuple[str, dict]]:
    """Class and arguments of every observer."""
    cases = []
    for names, schemes, extras in (
        (RANGE, ("per_tensor_affine", "per_tensor_symmetric"), ({},)),
        (
            CHANNEL,
            ("per_channel_affine", "per_channel_symmetric", "per_channel_affine_float_qparams"),
            ({"ch_axis": 0}, {"ch_axis": 1}),
        ),
    ):
        for name, scheme, codes, extra in product(names, schemes, CODES, extras):
            symmetric = scheme.endswith("symmetric")
            if symmetric and codes["dtype"] == "quint8" and codes.get("reduce_range"):
                continue  # refused by the reference
            if scheme.endswith("affine") and codes["dtype"] == "qint32":
                continue  # the reference's zero points overflow to 0
            average = {"averaging_constant": 0.3} if "Moving" in name else {}
            cases.append((name, {"qscheme": scheme, **codes, **extra, **average}))
    return cases


def as_reference(arguments: dict) -> dict:
    """Arguments with torch's own data types and schemes."""
    named = {key: getattr(torch, arguments[key]) for key in ("dtype", "qscheme")}
    return {**arguments, **named}


def observed(observer: torch.nn.Module, batches: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Scale and zero point after all batches."""
    for x in batches:
        observer(x)
    return observer.calculate_qparams()


def trained(module: torch.nn.Module, batches: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Output for every batch, and where the gradient passes."""
    results = []
    for x in batches:
        leaf = x.clone().requires_grad_()
        y = module(leaf)
        y.sum().backward()
        results.append((y.detach(), leaf.grad.bool()))
    ys, passes = zip(*results, strict=True)
    return torch.stack(ys), torch.stack(passes)


def main() -> None:
    """Writes the file beside this script."""
    tensors = {f"data/{kind}": batches for kind, batches in data().items()}
    observers = observer_cases()
    for number, (name, arguments) in enumerate(observers):
        cls = getattr(reference_observers, name)
        found = [observed(cls(**as_reference(arguments)), xs) for xs in data().values()]
        for part, values in zip(("scale", "zero_point"), zip(*found, strict=True), strict=True):
            tensors[f"observer/{number}/{part}"] = torch.stack(values)
    for name in FAKE:
        factory = getattr(reference_fake_quantize, name)
        found = [trained(factory(), xs) for xs in data().values()]
        for part, values in zip(("y", "passes"), zip(*found, strict=True), strict=True):
            tensors[f"fake/{name}/{part}"] = torch.stack(values)
    metadata = {"observers": json.dumps(observers), "kinds": json.dumps(list(DATA))}
    save_file(tensors, Path(__file__).with_name("observers.safetensors"), metadata=metadata)


if __name__ == "__main__":
    main()
