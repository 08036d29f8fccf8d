"""Golden cases of modules and workflows: see `every_name`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from qlab.ops.dynamic import dynamic_qparams
from qlab.qparams import dequantize, requantize
from tests.golden.every_name import QLAB, Case, Library, classes, filled, numbers

CONV: tuple[type[nn.Module], ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORM: tuple[type[nn.Module], ...] = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
SHAPES = {0: (5, 6), 1: (3, 4, 9), 2: (3, 4, 6, 5), 3: (2, 4, 5, 4, 5)}
"""Shape of an input by its number of spatial axes."""


def rank_of(name: str) -> int:
    """Spatial axes of a layer by its name: ``Conv2d`` → 2, ``Linear`` → 0."""
    return 0 if name.startswith("Linear") else int(name[-2])


def parts(name: str) -> list[nn.Module]:
    """The float layers that a fused class such as ``ConvBnReLU2d`` is made of."""
    rank = rank_of(name)
    first: list[nn.Module] = []
    if name.startswith("Conv"):
        first = [CONV[rank - 1](4, 6, 3, padding=1)]
    elif name.startswith("Linear"):
        first = [nn.Linear(6, 8)]
    width = {"B": 4, "C": 6, "L": 8}[name[0]]
    norms = [NORM[max(rank - 1, 0)](width)] if "bn" in name.lower() else []
    activation: list[nn.Module] = [nn.ReLU()] if "ReLU" in name else []
    return [filled(part, seed) for seed, part in enumerate((*first, *norms, *activation), 1)]


def fused(name: str, lib: Library) -> Any:
    """A fused float module: in training, then in inference with the statistics moved."""
    module = lib[f"nn.intrinsic.{name}"](*parts(name))
    x = numbers(*SHAPES[rank_of(name)], seed=5)
    return {"train": module.train()(x), "eval": module.eval()(x), "classes": classes(module)}


def wrapped(lib: Library, *layers: nn.Module, qconfig: str = "default_qconfig") -> nn.Module:
    """Layers between stubs, ready to be prepared."""
    inner = layers[0] if len(layers) == 1 else nn.Sequential(*layers)
    model = lib.quantization.QuantWrapper(inner)
    model.qconfig = getattr(lib.quantization, qconfig)
    return model.train("qat" in qconfig)


def static(lib: Library, *layers: nn.Module, x: Tensor) -> Any:
    """Layers prepared, calibrated and converted: codes between the stubs, and real numbers."""
    prepared = lib.quantization.prepare(wrapped(lib, *layers))
    prepared(x)
    made = lib.quantization.convert(prepared)
    q = made.quant(x)
    return {"x": q, "y": made.module(q), "real": made(x), "classes": classes(made)}


def dyadic(x: Tensor) -> Tensor:
    """To the next 1/64: float32 then adds products exactly, in whatever order a CPU does."""
    return (x * 64).round() / 64


def quantized(name: str, fused: bool, lib: Library) -> Any:
    """A weighted layer, alone or fused with its ReLU, through the eager workflow."""
    layers = parts(name)
    layer = lib[f"nn.intrinsic.{name}"](*layers) if fused else layers[0]
    with torch.no_grad():  # the output's scale comes from the float layer, to the last bit
        for parameter in layer.parameters():
            parameter.copy_(dyadic(parameter))
    return static(lib, layer, x=dyadic(numbers(*SHAPES[rank_of(name)], seed=5)))


def rarely_fused(name: str, lib: Library) -> nn.Module:
    """What the reference fuses for one engine only: a layer and what its sums go through."""
    layers = [
        filled(nn.Linear(6, 8)) if "Linear" in name else filled(nn.Conv2d(4, 6, 3, padding=1))
    ]
    extra = {"L": [nn.LeakyReLU(0.25)], "T": [nn.Tanh()], "A": [torch.add], "R": [nn.ReLU()]}
    kinds = {"LinearLeakyReLU": "L", "LinearTanh": "T", "ConvAdd2d": "A", "ConvAddReLU2d": "AR"}
    with torch.no_grad():
        for parameter in layers[0].parameters():
            parameter.copy_(dyadic(parameter))
    parts = [part for kind in kinds[name] for part in extra[kind]]
    return lib[f"nn.intrinsic.{name}"](*layers, *parts)


def inputs_of(name: str) -> list[Tensor]:
    """Inputs of `rarely_fused`."""
    if "Linear" in name:
        return [dyadic(numbers(5, 6, seed=5))]
    return [dyadic(numbers(3, 4, 6, 5, seed=5)), dyadic(numbers(3, 6, 6, 5, seed=6))]


def rarely_quantized(name: str, lib: Library) -> Any:
    """The same on codes: from the observed float module, and with numbers of its own."""
    module, inputs = rarely_fused(name, lib), inputs_of(name)
    qconfig = lib.quantization.get_default_qconfig("onednn")
    module.qconfig = module[0].qconfig = qconfig
    module.activation_post_process = lib.quantization.MinMaxObserver()
    module.activation_post_process(torch.tensor([-2.0, 3.0]))
    made = lib[f"nn.intrinsic.quantized.{name}"].from_float(module)
    codes = [
        lib["quantize_per_tensor"](x, 0.0078125 * (i + 1), 120 + i, lib["quint8"])
        for i, x in enumerate(inputs)
    ]
    found = {"from_float": made(*codes), "kind": type(made).__name__}
    weight = lib["quantize_per_tensor"](module[0].weight.detach(), 0.0078125, 0, lib["qint8"])
    made.set_weight_bias(weight, module[0].bias.detach().clone())
    made.scale, made.zero_point = 0.015625, 77
    return {**found, "set": made(*codes)}


def dynamic_conv(name: str, lib: Library) -> Any:
    """A dynamically quantized convolution: options of its own and of the call.

    The reference rounds and clips the real sums to the codes of the input, and gives what these
    stand for; qlab gives the sums.
    """

    def run(module: nn.Module, x: Tensor, half: bool) -> Tensor:
        y = module(x, reduce_range=half)
        if lib is not QLAB:
            return y
        qparams = dynamic_qparams(x, reduce_range=half).whole_range()
        return dequantize(requantize(y, qparams), qparams)

    rank, found = rank_of(name), {}
    x = numbers(2, 4, *(9, 5, 4)[:rank], seed=5)
    options = {"plain": {}, "strided": {"stride": 2, "padding": 1, "groups": 2, "bias": False}}
    if "Transpose" not in name:
        options["reflected"] = {"padding": 1, "padding_mode": "reflect"} if rank < 3 else {}
    for label, given in options.items():
        module = filled(getattr(nn, name)(4, 6, 3, **given))
        module.qconfig = lib.quantization.default_dynamic_qconfig
        if label == "strided" and "Transpose" not in name:
            module.qconfig = lib.quantization.per_channel_dynamic_qconfig
        made = lib[f"nn.quantized.dynamic.{name}"].from_float(module)
        found[label] = {"half": run(made, x * 3 + 1, True), "whole": run(made, x, False)}
    return found


class Arithmetic(nn.Module):
    """Every operation of a functional module, between stubs."""

    OPERATIONS = ("add", "mul", "add_relu", "cat", "add_scalar", "mul_scalar", "matmul")

    def __init__(self, lib: Library, functional: str) -> None:
        super().__init__()
        make = lib[f"nn.quantized.{functional}"]
        self.quant, self.dequant = lib.quantization.QuantStub(), lib.quantization.DeQuantStub()
        self.does = nn.ModuleDict({name: make() for name in self.OPERATIONS})

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = self.quant(x)
        twin = x.flip(0)
        call = {name: getattr(self.does[name], name) for name in self.OPERATIONS}
        results = [call[name](x, twin) for name in ("add", "mul", "add_relu")]
        results += [call["cat"]([x, twin], 1), call["add_scalar"](x, 0.375)]
        results += [call["mul_scalar"](x, 1.5), call["matmul"](x, twin.transpose(0, 1))]
        return tuple(self.dequant(result) for result in results)


def functional(name: str, lib: Library) -> Any:
    """A functional module in float, and what it becomes in the eager workflow."""
    x = numbers(5, 6, seed=3)
    if name == "FXFloatFunctional":
        return lib["nn.quantized.FXFloatFunctional"]().add_relu(x, x.flip(0))
    model = Arithmetic(lib, "FloatFunctional").eval()
    real = model(x)
    model.qconfig = lib.quantization.default_qconfig
    prepared = lib.quantization.prepare(model)
    prepared(x)
    made = lib.quantization.convert(prepared)
    return {"float": real, "y": made(x), "classes": classes(made)}


def update_bn_stats(freeze: str, lib: Library) -> Any:
    """Batch norm statistics of a layer in training, frozen and set free again."""
    layers = parts("ConvBn2d")
    model = wrapped(lib, lib["nn.intrinsic.ConvBn2d"](*layers), qconfig="default_qat_qconfig")
    model = lib.quantization.prepare_qat(model)
    x = numbers(*SHAPES[2], seed=5)
    seen = []
    for name in ("freeze_bn_stats", freeze):
        model.apply(lib[f"nn.intrinsic.qat.{name}"])
        seen.append({"y": model(x), "mean": model.module.bn.running_mean.clone()})
    return seen


# Workflows: one network through each of them.

X = numbers(9, 6, seed=3)


def network(lib: Library, qconfig: str = "default_qconfig") -> nn.Module:
    """Linear, ReLU, linear, between stubs."""
    layers = (nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    return filled(wrapped(lib, *layers, qconfig=qconfig))


def run(model: nn.Module, x: Tensor) -> None:
    """Calibration."""
    model(x)


def outcome(model: nn.Module, x: Tensor = X) -> Any:
    """Outputs, and the class of every module."""
    return {"y": model(x), "classes": classes(model)}


def trained(lib: Library) -> nn.Module:
    model = lib.quantization.prepare_qat(network(lib, "default_qat_qconfig"))
    model(X)
    return model


def prepared(lib: Library) -> nn.Module:
    model = lib.quantization.prepare(network(lib))
    model(X)
    return model


def observed(lib: Library) -> Any:
    """Ranges in a prepared network, by the path that `get_observer_dict` gives."""
    found: dict[str, Any] = {}
    lib.quantization.get_observer_dict(prepared(lib), found)
    return {path: observer.calculate_qparams() for path, observer in sorted(found.items())}


def graph(lib: Library, training: bool, convert: bool) -> Any:
    plain = network(lib).module.train(training)
    qconfig = lib.quantization.default_qat_qconfig if training else lib.quantization.default_qconfig
    mapping = lib.quantization.QConfigMapping().set_global(qconfig)
    prepare = lib.quantize_fx.prepare_qat_fx if training else lib.quantize_fx.prepare_fx
    made = prepare(plain, mapping, (X,))
    y = made(X)
    return lib.quantize_fx.convert_fx(made.eval())(X) if convert else y


def fused_chain(fuse: Callable[[nn.Module], nn.Module]) -> Any:
    layers = parts("ConvBnReLU2d")
    model = fuse(nn.Sequential(*layers).eval())
    return {"y": model(numbers(*SHAPES[2], seed=5)), "kinds": sorted(set(classes(model).values()))}


def propagated(lib: Library) -> Any:
    """Which layer has which qconfig."""
    layers = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.ReLU(), nn.Linear(2, 2)))
    chosen = {"1": lib.quantization.default_qconfig, nn.ReLU: None}
    lib.quantization.propagate_qconfig_(layers, chosen)
    return {path or "-": module.qconfig is None for path, module in layers.named_modules()}


def add_observer(lib: Library) -> Any:
    layers = filled(nn.Sequential(nn.Linear(6, 2), nn.ReLU()))
    lib.quantization.propagate_qconfig_(layers, {"": lib.quantization.default_qconfig})
    lib.quantization.add_observer_(layers)
    layers(X)
    return {"range": layers[0].activation_post_process.calculate_qparams(), **classes(layers)}


def swap(lib: Library) -> Any:
    layer = filled(nn.Linear(6, 3))
    layer.qconfig = lib.quantization.default_dynamic_qconfig
    made = lib.quantization.swap_module(layer, {nn.Linear: lib["nn.quantized.dynamic.Linear"]}, {})
    return made(X)


def evaluated(lib: Library) -> Any:
    seen: list[Tensor] = []
    lib.quantization.default_eval_fn(seen.append, [(X, 0), (X + 1, 1)])
    return seen


def stubs_added(lib: Library) -> Any:
    layers = filled(nn.Sequential(nn.Linear(6, 2), nn.ReLU()))
    layers[0].qconfig = lib.quantization.default_qconfig
    return classes(lib.quantization.add_quant_dequant(layers))


def stub(name: str, lib: Library) -> Any:
    made = lib[f"quantization.{name}"]
    module = made(nn.ReLU()) if name == "QuantWrapper" else made()
    return {"y": module(X), "classes": classes(module)}


def once(lib: Library, name: str) -> Any:
    """The one-call workflows."""
    q = lib.quantization
    if name == "quantize_dynamic":
        return outcome(q.quantize_dynamic(network(lib).module.eval()))
    if name == "quantize":
        return outcome(q.quantize(network(lib), run, (X,)))
    return outcome(q.quantize_qat(network(lib, "default_qat_qconfig"), run, (X,)))


_INTRINSIC = (
    *(f"{kind}{n}d" for kind in ("ConvReLU", "ConvBn", "ConvBnReLU") for n in (1, 2, 3)),
    *("LinearReLU", "LinearBn1d", "BNReLU2d", "BNReLU3d"),
)

_RARELY = ("LinearLeakyReLU", "LinearTanh", "ConvAdd2d", "ConvAddReLU2d")

MODULES: dict[str, Case] = {
    **{
        f"nn.intrinsic.{name}": lambda lib, name=name: rarely_fused(name, lib)(*inputs_of(name))
        for name in _RARELY
    },
    **{f"nn.intrinsic.quantized.{name}": partial(rarely_quantized, name) for name in _RARELY},
    **{
        f"nn.quantized.dynamic.{kind}{n}d": partial(dynamic_conv, f"{kind}{n}d")
        for kind in ("Conv", "ConvTranspose")
        for n in (1, 2, 3)
    },
    **{f"nn.intrinsic.{name}": partial(fused, name) for name in _INTRINSIC},
    **{
        f"nn.intrinsic.quantized.{name}": partial(quantized, name, True)
        for name in ("ConvReLU1d", "ConvReLU2d", "ConvReLU3d", "LinearReLU")
    },
    **{
        f"nn.quantized.{name}": partial(quantized, name, False)
        for name in ("Conv1d", "Conv2d", "Conv3d", "Linear")
    },
    "nn.quantized.Quantize": lambda lib: lib["nn.quantized.Quantize"](0.03125, 77, lib["quint8"])(
        X
    ),
    "nn.quantized.DeQuantize": lambda lib: lib["nn.quantized.DeQuantize"]()(lib.codes(4, 6)),
    **{
        f"nn.quantized.{name}": partial(functional, name)
        for name in ("FloatFunctional", "FXFloatFunctional", "QFunctional")
    },
    **{
        f"nn.intrinsic.qat.{name}": partial(update_bn_stats, name)
        for name in ("freeze_bn_stats", "update_bn_stats")
    },
    "quantization.prepare": lambda lib: outcome(prepared(lib)),
    "quantization.convert": lambda lib: outcome(lib.quantization.convert(prepared(lib))),
    "quantization.prepare_qat": lambda lib: outcome(trained(lib)),
    **{
        f"quantization.{name}": partial(once, name=name)
        for name in ("quantize", "quantize_dynamic", "quantize_qat")
    },
    "quantization.fuse_modules": lambda lib: fused_chain(
        lambda layers: lib.quantization.fuse_modules(layers, ["0", "1", "2"])
    ),
    **{
        f"quantization.{name}": partial(stub, name)
        for name in ("QuantStub", "DeQuantStub", "QuantWrapper")
    },
    "quantization.add_quant_dequant": stubs_added,
    "quantization.add_observer_": add_observer,
    "quantization.swap_module": swap,
    "quantization.propagate_qconfig_": propagated,
    "quantization.default_eval_fn": evaluated,
    "quantization.get_observer_dict": observed,
    "quantization.quantize_fx.prepare_fx": partial(graph, training=False, convert=False),
    "quantization.quantize_fx.prepare_qat_fx": partial(graph, training=True, convert=False),
    "quantization.quantize_fx.convert_fx": partial(graph, training=False, convert=True),
    "quantization.quantize_fx.fuse_fx": lambda lib: fused_chain(lib.quantize_fx.fuse_fx),
}
