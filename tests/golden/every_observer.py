"""Golden cases of observers, fake quantizers, qconfigs and tensor methods: see `every_name`."""

from __future__ import annotations

import importlib
from functools import partial
from typing import Any

import torch
from torch import nn

from tests.golden.every_name import Case, Library, dtype_of, numbers

BATCHES = torch.stack([numbers(4, 5, seed=seed) * size for seed, size in ((1, 1), (2, 3), (3, 2))])
ERROR = "squared error"
"""Key of an error that is compared, and not the numbers: of what the histogram observer chose."""

_ABSTRACT = {
    "ObserverBase": "MinMaxObserver",
    "FakeQuantizeBase": "FakeQuantize",
}
"""Base classes, and one that stands on each."""


def chosen(observer: nn.Module) -> Any:
    """What an observer chose: scale and zero point, or "refused" if it has none."""
    try:
        scale, zero_point = observer.calculate_qparams()
    except Exception:  # the reference raises plain ones
        return "refused"
    return {"scale": scale, "zero_point": zero_point.double()}


def fits(observer: nn.Module) -> float:
    """The squared error of the data in the scale and zero point that an observer chose."""
    scale, zero_point = (value.double() for value in observer.calculate_qparams())
    low, high = observer.quant_min, observer.quant_max
    x = BATCHES.double()
    found = ((x / scale + zero_point).round().clamp(low, high) - zero_point) * scale
    return float((found - x).square().sum())


def observe(observer: nn.Module) -> Any:
    """Everything an observer says after three batches."""
    passed = all(torch.equal(observer(x), x) for x in BATCHES)
    told: dict[str, Any] = {"class": type(observer).__name__, "dtype": dtype_of(observer)}
    told["passed"] = passed
    if type(observer).__name__ == "HistogramObserver":
        return told | {ERROR: fits(observer)}
    if type(observer).__name__ == "RecordingObserver":
        told["recorded"] = observer.get_tensor_value()
    return told | {"chosen": chosen(observer)}


def train(fake: nn.Module) -> Any:
    """Outputs and gradients while observer and rounding are switched off and on."""
    told: list[Any] = [type(fake).__name__]
    histogram = type(getattr(fake, "activation_post_process", None)).__name__ == "HistogramObserver"
    for x in BATCHES:
        leaf = x.clone().requires_grad_()
        y = fake(leaf)
        (gradient,) = torch.autograd.grad(y.sum(), leaf)
        told.append({} if histogram else [y, gradient])
    return [*told, {ERROR: fits(fake)}] if histogram else told


def switched(name: str, lib: Library) -> Any:
    """A network of fake quantizers under one of the four switches."""
    module = lib["quantization.fake_quantize.default_fake_quant"]()
    model = nn.Sequential(module)
    told = [model(BATCHES[0])]
    opposite = {"disable": "enable", "enable": "disable"}[name.partition("_")[0]]
    for act in (f"{opposite}_{name.partition('_')[2]}", name):
        model.apply(lib[f"quantization.fake_quantize.{act}"])
        told += [model(BATCHES[1]), model(BATCHES[2]), chosen(module)]
    return told


def observer_case(name: str, lib: Library) -> Any:
    make = lib[f"quantization.observer.{_ABSTRACT.get(name, name)}"]
    told = observe(make())
    if name in _ABSTRACT:
        told["base"] = issubclass(make, lib[f"quantization.observer.{name}"])
    return told


def fake_case(name: str, lib: Library) -> Any:
    place = "quantization.fake_quantize"
    make = lib[f"{place}.{_ABSTRACT.get(name, name)}"]
    if name == "FixedQParamsFakeQuantize":
        fixed = lib["quantization.observer.FixedQParamsObserver"]
        return train(make(observer=fixed.with_args(scale=0.03125, zero_point=40)))
    if name == "FusedMovingAvgObsFakeQuantize":
        average = lib["quantization.observer.MovingAverageMinMaxObserver"]
        return train(make(average, 0, 255, averaging_constant=0.25))
    told = train(make())
    if name in _ABSTRACT:
        told.append(issubclass(make, lib[f"{place}.{name}"]))
    return told


def qconfig_case(name: str, lib: Library) -> Any:
    """The observers of a qconfig: activation and weight."""
    place = "quantization.qconfig"
    if name == "QConfig":
        average = lib["quantization.observer.MovingAverageMinMaxObserver"]
        weight = lib["quantization.observer.default_weight_observer"]
        qconfig = lib[f"{place}.QConfig"](
            activation=average.with_args(quant_min=0, quant_max=127), weight=weight
        )
    else:
        qconfig = lib[f"{place}.{name}"]
    return {part: _role(getattr(qconfig, part)) for part in ("activation", "weight")}


def _role(make: Any) -> Any:
    made = make()
    fake = hasattr(made, "fake_quant_enabled")
    return train(made) if fake else "identity" if type(made) is nn.Identity else observe(made)


def saved_state(lib: Library) -> Any:
    """A state dict of observers: its keys and values, and the ranges it restores elsewhere."""
    q = lib.quantization
    model = q.QuantWrapper(nn.ReLU())
    model.qconfig = q.default_qconfig
    first, second = q.prepare(model), q.prepare(model)
    first(BATCHES[1])
    state = lib["quantization.observer.get_observer_state_dict"](first)
    lib["quantization.observer.load_observer_state_dict"](second, state)
    return {
        "state": dict(sorted(state.items())),
        "chosen": chosen(second.quant.activation_post_process),
    }


# Quantized tensors.


def method(name: str, lib: Library, *args: Any, **kwargs: Any) -> Any:
    """One method of a tensor with one scale, unsigned and signed."""
    return [
        getattr(lib.codes(4, 6, dtype=dtype), name)(*args, **kwargs)
        for dtype in ("quint8", "qint8")
    ]


def compared(name: str, lib: Library) -> Any:
    q = lib.codes(4, 6)
    return [getattr(q, name)(lib.codes(4, 6, seed=1)), getattr(q, name)(0.125)]


def rows(lib: Library, dtype: str = "qint8") -> Any:
    """A tensor with a scale for each of its three rows."""
    scales, zeros = torch.tensor([0.25, 0.03125, 0.011]), torch.tensor([0, 5, 2])
    return lib["quantize_per_channel"](numbers(3, 8) * 3, scales, zeros, 0, lib[dtype])


def written(name: str, lib: Library) -> Any:
    """The methods that change a tensor."""
    q = lib.codes(4, 6)
    if name == "resize_":
        return [q.resize_(2, 5), q]
    if name == "copy_":
        return [q.copy_(numbers(4, 6, seed=4)), lib.codes(4, 6).copy_(lib.codes(4, 6, seed=2))]
    twin = q.clone()
    twin.copy_(torch.zeros(4, 6))
    return [q, twin, rows(lib).clone()]


def schemes(name: str, lib: Library) -> Any:
    """A scheme: what the observer of that scheme chooses."""
    kind = "PerChannelMinMaxObserver" if "channel" in name else "MinMaxObserver"
    make = lib[f"quantization.observer.{kind}"]
    return observe(make(dtype=lib["qint8"], qscheme=lib[name]))


def both(call: str, lib: Library) -> Any:
    return getattr(rows(lib), call)()


def _names(module: str, *ends: str, lead: str = "default_") -> tuple[str, ...]:
    found = dir(importlib.import_module(f"qlab.quantization.{module}"))
    return tuple(n for n in found if n.startswith(lead) and n.endswith(ends))


METHODS: dict[str, Case] = {
    **{name: partial(compared, name) for name in ("ne", "eq", "ge", "le", "gt", "lt")},
    **{name: partial(written, name) for name in ("copy_", "clone", "resize_")},
    **{f"q_per_channel_{part}": partial(both, f"q_per_channel_{part}")
       for part in ("scales", "zero_points", "axis")},
    "view": lambda lib: method("view", lib, 6, 4),
    "as_strided": lambda lib: method("as_strided", lib, (2, 3), (1, 2)),
    "expand": lambda lib: lib.codes(1, 6).expand(3, 6),
    "flatten": lambda lib: method("flatten", lib),
    "select": lambda lib: method("select", lib, 1, 2),
    "dequantize": lambda lib: [*method("dequantize", lib), rows(lib).dequantize()],
    "equal": lambda lib: [lib.codes(4, 6).equal(lib.codes(4, 6, seed=seed)) for seed in (0, 1)],
    "int_repr": lambda lib: [*method("int_repr", lib), both("int_repr", lib)],
    "max": lambda lib: [method("max", lib), list(lib.codes(4, 6).max(1))],
    "min": lambda lib: [method("min", lib), list(lib.codes(4, 6).min(1))],
    "mean": lambda lib: [  # of 7, 3 and 21 codes: no tie between two codes
        lib.codes(3, 7, dtype=dtype).mean(*dim) for dtype in ("quint8", "qint8")
        for dim in ((), (1,), ([0], True))
    ],
    "q_scale": lambda lib: method("q_scale", lib),
    "q_zero_point": lambda lib: method("q_zero_point", lib),
    "sort": lambda lib: [list(pair) for pair in method("sort", lib, 1, True)],
    "topk": lambda lib: [list(pair) for pair in method("topk", lib, 3)],
}  # fmt: skip

OBSERVERS: dict[str, Case] = {
    **{
        f"quantization.observer.{name}": partial(observer_case, name)
        for name in (
            *("ObserverBase", "PlaceholderObserver", "RecordingObserver", "NoopObserver"),
            *("HistogramObserver",),
            *_names("observer", "_observer", "_observer_4bit"),
        )
    },
    **{
        f"quantization.observer.{name}": saved_state
        for name in ("get_observer_state_dict", "load_observer_state_dict")
    },
    **{
        f"quantization.fake_quantize.{name}": partial(fake_case, name)
        for name in (
            *("FakeQuantizeBase", "FakeQuantize", "FixedQParamsFakeQuantize"),
            *("FusedMovingAvgObsFakeQuantize", *_names("fake_quantize", "_quant", "_4bit")),
        )
    },
    **{
        f"quantization.fake_quantize.{able}_{what}": partial(switched, f"{able}_{what}")
        for able in ("disable", "enable")
        for what in ("fake_quant", "observer")
    },
    **{
        f"quantization.qconfig.{name}": partial(qconfig_case, name)
        for name in (
            *("QConfig", "float16_dynamic_qconfig", "float16_static_qconfig"),
            *("per_channel_dynamic_qconfig", "float_qparams_weight_only_qconfig"),
            *("float_qparams_weight_only_qconfig_4bit",),
            *_names("qconfig", "_qconfig", "_qconfig_v2", "_qconfig_4bit"),
        )
    },
    **{f"QTensor.{name}": case for name, case in METHODS.items()},
    "quantize_per_tensor": lambda lib: [
        lib["quantize_per_tensor"](BATCHES * 90, 0.0625, zero, lib[dtype])
        for dtype, zero in (("quint8", 9), ("qint8", -7), ("qint32", 3))
    ],
    "quantize_per_channel": lambda lib: [rows(lib, dtype) for dtype in ("qint8", "quint8")],
    "dequantize": lambda lib: [
        lib["dequantize"](lib.codes(4, 6)),
        list(lib["dequantize"]([lib.codes(2, 3), rows(lib)])),
    ],
    **{
        name: partial(lambda name, lib: lib.codes(4, 6, dtype=name), name)
        for name in ("quint8", "qint8", "qint32")
    },
    **{
        name: partial(schemes, name)
        for name in ("per_tensor_affine", "per_tensor_symmetric", "per_channel_affine",
                     "per_channel_symmetric")
    },
}  # fmt: skip
