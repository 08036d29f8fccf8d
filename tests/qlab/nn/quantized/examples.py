"""One float module for each row of the registry, with inputs, and its integer module."""

import operator
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import qlab.nn.intrinsic as nni
from qlab.dtypes import QDType, qint8, quint8
from qlab.granularity import Granularity, PerAxis
from qlab.nn import functions
from qlab.nn.intrinsic.fold import core
from qlab.nn.quantized import Output, QuantizedModule
from qlab.nn.stubs import DeQuantStub, QuantStub
from qlab.qparams import QParams, choose_qparams, dequantize, quantize
from qlab.qtensor import QTensor
from qlab.ranges import TensorSpec
from qlab.registry import ROWS, OutputKind, Row
from qlab.registry.asked import weight_spec

#: Rows whose integer module is called with tensors of codes (for Quantize: of real numbers).
STATIC = [
    row
    for row in ROWS
    if row.static and row.name not in ("float_functional", "embedding", "embedding_bag")
]

PER_CHANNEL = PerAxis(0)  # one scale per output channel, wherever the weight has those
Shapes = tuple[tuple[int, ...], ...]


def _norm(module: nn.Module) -> nn.Module:
    """Weights and statistics that are not those of a fresh norm."""
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if tensor.is_floating_point():
            tensor.data.uniform_(0.5 if "var" in name else -1, 2)
    return module


def _spatial(rank: int) -> tuple[int, ...]:
    return (2, 4, *[6] * rank)


def _conv(rank: int, norm: bool = False, relu: bool = False) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        parts = [getattr(nn, f"Conv{rank}d")(4, 6, 3, padding=1, groups=2)]
        parts += [_norm(getattr(nn, f"BatchNorm{rank}d")(6))] if norm else []
        parts += [nn.ReLU()] if relu else []
        fused = getattr(nni, f"Conv{'Bn' * norm}{'ReLU' * relu}{rank}d", None)
        return fused(*parts) if fused else parts[0]

    return make


def _conv_transpose(rank: int) -> Callable[[], nn.Module]:
    options = {"stride": 2, "padding": 1, "output_padding": 1, "groups": 2 if rank > 1 else 1}
    return lambda: getattr(nn, f"ConvTranspose{rank}d")(4, 6, 3, **options)


def _loud(layer: nn.Module) -> nn.Module:
    """Weights that lead far beyond 6."""
    layer.weight.data.uniform_(-6, 6)
    return layer


def _conv_relu6(rank: int) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        conv = getattr(nn, f"Conv{rank}d")(4, 6, 3, padding=1, groups=2)
        return getattr(nni, f"Conv{rank}dReLU6")(_loud(conv), nn.ReLU6())

    return make


def _pool(name: str, *options: int) -> Callable[[], nn.Module]:
    return lambda: getattr(nn, name)(*options)


FLOAT: dict[str, tuple[Callable[[], nn.Module], Shapes]] = {
    "quantize": (QuantStub, ((3, 5),)),
    "dequantize": (DeQuantStub, ((3, 5),)),
    "linear": (lambda: nn.Linear(5, 4), ((3, 5),)),
    "linear_relu": (lambda: nni.LinearReLU(nn.Linear(5, 4), nn.ReLU()), ((2, 3, 5),)),
    **{f"conv{n}d": (_conv(n, norm=n == 2), (_spatial(n),)) for n in (1, 2, 3)},
    **{f"conv_transpose{n}d": (_conv_transpose(n), (_spatial(n),)) for n in (1, 2, 3)},
    **{f"conv_relu{n}d": (_conv(n, n == 2, True), (_spatial(n),)) for n in (1, 2, 3)},
    "linear_relu6": (lambda: nni.LinearReLU6(_loud(nn.Linear(5, 4)), nn.ReLU6()), ((2, 3, 5),)),
    **{f"conv_relu6_{n}d": (_conv_relu6(n), (_spatial(n),)) for n in (1, 2, 3)},
    "linear_leaky_relu": (
        lambda: nni.LinearLeakyReLU(nn.Linear(5, 4), nn.LeakyReLU(0.3)),
        ((2, 3, 5),),
    ),
    "linear_tanh": (lambda: nni.LinearTanh(nn.Linear(5, 4), nn.Tanh()), ((2, 3, 5),)),
    "linear_gelu": (
        lambda: nni.LinearGELU(nn.Linear(5, 4), nn.GELU("tanh")),
        ((2, 3, 5),),
    ),
    "conv_add2d": (
        lambda: nni.ConvAdd2d(nn.Conv2d(4, 6, 3, padding=1), torch.add),
        (_spatial(2), (2, 6, 6, 6)),
    ),
    "conv_add_relu2d": (
        lambda: nni.ConvAddReLU2d(nn.Conv2d(4, 6, 3, padding=1), operator.add, nn.ReLU()),
        (_spatial(2), (2, 6, 6, 6)),
    ),
    "batch_norm2d": (lambda: _norm(nn.BatchNorm2d(4)), (_spatial(2),)),
    "batch_norm3d": (lambda: _norm(nn.BatchNorm3d(4, affine=False)), (_spatial(3),)),
    "bn_relu2d": (lambda: nni.BNReLU2d(_norm(nn.BatchNorm2d(4)), nn.ReLU()), (_spatial(2),)),
    "bn_relu3d": (lambda: nni.BNReLU3d(_norm(nn.BatchNorm3d(4)), nn.ReLU()), (_spatial(3),)),
    "layer_norm": (lambda: _norm(nn.LayerNorm((3, 5))), ((2, 3, 5),)),
    "group_norm": (lambda: _norm(nn.GroupNorm(2, 4)), (_spatial(2),)),
    "instance_norm1d": (lambda: nn.InstanceNorm1d(4), (_spatial(1),)),
    "instance_norm2d": (lambda: _norm(nn.InstanceNorm2d(4, affine=True)), (_spatial(2),)),
    "instance_norm3d": (
        lambda: _norm(nn.InstanceNorm3d(4, affine=True, track_running_stats=True)),
        (_spatial(3),),
    ),
    "relu": (nn.ReLU, ((3, 5),)),
    "relu6": (nn.ReLU6, ((3, 5),)),
    "hardtanh": (lambda: nn.Hardtanh(-0.5, 2.0), ((3, 5),)),
    "leaky_relu": (lambda: nn.LeakyReLU(0.2), ((3, 5),)),
    "prelu": (lambda: nn.PReLU(3), ((4, 3, 5),)),
    "elu": (lambda: nn.ELU(0.7), ((3, 5),)),
    "gelu": (lambda: nn.GELU("tanh"), ((3, 5),)),
    "hardswish": (nn.Hardswish, ((3, 5),)),
    "hardsigmoid": (nn.Hardsigmoid, ((3, 5),)),
    "sigmoid": (nn.Sigmoid, ((3, 5),)),
    "tanh": (nn.Tanh, ((3, 5),)),
    "softmax": (lambda: nn.Softmax(-1), ((3, 5),)),
    "dropout": (lambda: nn.Dropout(0.3), ((3, 5),)),
    **{f"max_pool{n}d": (_pool(f"MaxPool{n}d", 3, 2, 1), (_spatial(n),)) for n in (1, 2, 3)},
    **{
        f"adaptive_max_pool{n}d": (_pool(f"AdaptiveMaxPool{n}d", 4), (_spatial(n),))
        for n in (1, 2, 3)
    },
    **{f"avg_pool{n}d": (_pool(f"AvgPool{n}d", 3, 2, 1), (_spatial(n),)) for n in (1, 2, 3)},
    **{
        f"adaptive_avg_pool{n}d": (_pool(f"AdaptiveAvgPool{n}d", 4), (_spatial(n),))
        for n in (1, 2, 3)
    },
    "mean": (lambda: functions.Mean((1, 2)), ((2, 5, 3, 4),)),
    "interpolate": (lambda: nn.Upsample(scale_factor=2.0, mode="bilinear"), (_spatial(2),)),
    "add": (functions.Add, ((3, 5), (1, 5))),
    "add_relu": (lambda: nni.AddReLU(functions.Add(), nn.ReLU()), ((3, 5), (3, 5))),
    "add_scalar": (lambda: functions.AddScalar(0.7), ((3, 5),)),
    "mul": (functions.Mul, ((3, 5), (3, 1))),
    "mul_scalar": (lambda: functions.MulScalar(-0.7), ((3, 5),)),
    "matmul": (functions.MatMul, ((2, 3, 5), (2, 5, 4))),
    "cat": (lambda: functions.Cat(1), ((3, 5), (3, 2), (3, 1))),
    "stack": (lambda: functions.Stack(1), ((3, 5), (3, 5), (3, 5))),
}


@dataclass
class Example:
    """A float module, and the integer module that stands for it.

    Attributes:
        module: The integer module, without bound inputs.
        inputs: Codes; for Quantize real numbers.
        qparams: Of each input.
        output: What the float module gives for the numbers that inputs and weight stand for.
    """

    module: QuantizedModule
    inputs: tuple[Tensor, ...]
    qparams: tuple[QParams, ...]
    output: Tensor


def qparams_for(x: Tensor, dtype: QDType = quint8) -> QParams:
    """Affine parameters that cover a tensor."""
    return choose_qparams(x.min(), x.max(), dtype)


def example(
    row: Row,
    dtype: QDType = quint8,
    weight_dtype: QDType = qint8,
    granularity: Granularity = PER_CHANNEL,
) -> Example:
    """The example of a row, quantized as asked; outputs have the inputs' type."""
    assert row.static is not None
    make, shapes = FLOAT[row.name]
    float_module = make().eval()
    inputs = tuple(torch.randn(shape) * 2 for shape in shapes)
    qparams = tuple(qparams_for(x, dtype) for x in inputs)
    codes = tuple(quantize(x, q) for x, q in zip(inputs, qparams, strict=True))
    real = tuple(dequantize(x, q) for x, q in zip(codes, qparams, strict=True))
    layer, weight = core(float_module), None
    if row.weight:
        spec = TensorSpec(weight_dtype, symmetric=True, granularity=granularity)
        spec = weight_spec(row, spec)
        weight = spec.qparams_of(row.static.weight_of(float_module))
    output = None
    with torch.no_grad():
        if weight is not None:
            before = layer.weight.clone()
            layer.weight.copy_(dequantize(quantize(before, weight), weight))
        result = through(float_module, layer)(*(inputs if row.name == "quantize" else real))
        if weight is not None:
            layer.weight.copy_(before)
    if row.static.output_of in (Output.OWN, Output.OWN_OR_FLOAT):
        fixed = row.output.kind is OutputKind.FIXED
        output = row.output.fixed_qparams(dtype) if fixed else qparams_for(result, dtype)
    module = row.static.from_qparams(float_module, weight=weight, output=output)
    return Example(module, inputs if row.name == "quantize" else codes, qparams, result)


def through(module: nn.Module, layer: nn.Module) -> Callable[..., Tensor]:
    """What a module computes with the weights of its `core`, of which batch norm makes a copy."""
    if layer is module or not isinstance(module, nni.FusedModule):
        return layer
    if any(layer is part for part in module):
        return module
    last = module[-1] if isinstance(module[-1], (nn.ReLU, nn.ReLU6)) else nn.Identity()
    return lambda *inputs: last(layer(*inputs))


def run(made: Example, module: QuantizedModule | None = None) -> Tensor:
    """The module's codes (for DeQuantize: numbers), called as in an eager model."""
    module = module or made.module
    inputs = made.inputs
    if inputs[0].dtype != torch.float32:
        pairs = zip(inputs, made.qparams, strict=True)
        inputs = tuple(QTensor(codes, qparams) for codes, qparams in pairs)
    result = module(*inputs)
    return result.codes if isinstance(result, QTensor) else result
