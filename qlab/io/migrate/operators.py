"""The reference's operators, and the modules of qlab that compute the same integers.

Makers name their parameters as the operators' schemas do, since graphs call them by position and
by name alike. `OPERATORS` is what `qlab.io.migrate.graph` reads.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

import qlab.nn.quantized as nnq
from qlab.errors import UnsupportedError
from qlab.io.migrate.tensors import dtype_of, quantized
from qlab.nn import functions
from qlab.nn.intrinsic import AddReLU
from qlab.nn.intrinsic import quantized as nniq
from qlab.nn.intrinsic.quantized import dynamic as nniqd
from qlab.nn.quantized import dynamic as nnqd
from qlab.nn.quantized.holder import OUTPUT, float_copy, qparams_of_numbers
from qlab.qtensor import QTensor


class Made(NamedTuple):
    """What an operator becomes.

    Attributes:
        module: Takes its place.
        inputs: Those of the operator's arguments that the module takes.
        relu: Whether the result is clamped at 0 afterwards, which on codes is the same as before.
    """

    module: nn.Module
    inputs: tuple[Any, ...]
    relu: bool = False


Maker = Callable[..., Made]


class Constant:
    """Reads arguments that a graph holds as attributes."""

    def __init__(self, source: fx.GraphModule) -> None:
        self.source = source

    def __call__(self, value: Any) -> Any:
        if isinstance(value, fx.Node):
            if value.op != "get_attr":
                raise UnsupportedError("An argument that the graph computes is not known before")
            return operator.attrgetter(str(value.target))(self.source)
        return value

    def output(self, scale: Any, zero_point: Any) -> Any:
        """The parameters of an output."""
        return qparams_of_numbers(float(self(scale)), int(self(zero_point)))


class _ByNumber(nn.Module):
    """A quantized tensor and a number; the scale or the zero point follows from the tensor's.

    Args:
        value: The number, real units.
    """

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value
        self.arithmetic = nnq.QFunctional()

    def extra_repr(self) -> str:
        return f"{self.value}"


class AddNumber(_ByNumber):
    """``x + value``; see `qlab.nn.quantized.QFunctional.add_scalar`."""

    def forward(self, x: Tensor) -> QTensor:
        """A `QTensor` of any shape → the same shape."""
        return self.arithmetic.add_scalar(x, self.value)


class MulNumber(_ByNumber):
    """``x · value``; see `qlab.nn.quantized.QFunctional.mul_scalar`."""

    def forward(self, x: Tensor) -> QTensor:
        """A `QTensor` of any shape → the same shape."""
        return self.arithmetic.mul_scalar(x, self.value)


def _pairwise(
    module: Callable[[], nn.Module],
    static: Any,
    number: type[_ByNumber] | None = None,
    relu: bool = False,
) -> Maker:
    """Of two tensors; of a tensor and a number where the schema has that and no scale is given."""

    def make(read: Constant, qa: Any, qb: Any, scale: Any = None, zero_point: Any = None) -> Made:
        if scale is None:
            x, value = (qa, qb) if isinstance(qa, fx.Node) else (qb, qa)
            if number is None or isinstance(read(value), Tensor):
                raise UnsupportedError("It has no scale for its output")
            return Made(number(float(read(value))).eval(), (x,), relu)
        output = read.output(scale, zero_point)
        return Made(static.from_qparams(module(), output=output), (qa, qb), relu)

    return make


def _by_number(kind: type[_ByNumber], relu: bool = False) -> Maker:
    def make(read: Constant, qa: Any, b: Any) -> Made:
        return Made(kind(float(read(b))).eval(), (qa,), relu)

    return make


def _add_relu(read: Constant, qa: Any, qb: Any, scale: Any = None, zero_point: Any = None) -> Made:
    if scale is None:
        return _pairwise(functions.Add, nnq.Add, AddNumber, relu=True)(read, qa, qb)
    made = nniq.AddReLU.from_qparams(
        AddReLU(functions.Add(), nn.ReLU()), output=read.output(scale, zero_point)
    )
    return Made(made, (qa, qb))


def _cat(relu: bool) -> Maker:
    def make(
        read: Constant, qx: Any, dim: int = 0, scale: Any = None, zero_point: Any = None
    ) -> Made:
        if scale is None:
            raise UnsupportedError("A concatenation without a scale of its own")
        made = nnq.Cat.from_qparams(functions.Cat(dim), output=read.output(scale, zero_point))
        return Made(made, tuple(qx), relu)

    return make


def _leaky_relu(
    read: Constant,
    qx: Any,
    negative_slope: float,
    inplace: bool,
    output_scale: Any,
    output_zero_point: Any,
) -> Made:
    layer, output = nn.LeakyReLU(negative_slope), read.output(output_scale, output_zero_point)
    return Made(nnq.LeakyReLU.from_qparams(layer, output=output), (qx,))


def _elu(
    read: Constant,
    self: Any,
    output_scale: Any,
    output_zero_point: Any,
    alpha: float = 1.0,
    scale: float = 1.0,
    input_scale: float = 1.0,
) -> Made:
    if scale != 1 or input_scale != 1:
        raise UnsupportedError("ELU whose halves are stretched by factors of their own")
    output = read.output(output_scale, output_zero_point)
    return Made(nnq.ELU.from_qparams(nn.ELU(alpha), output=output), (self,))


def _hardswish(read: Constant, input: Any, output_scale: Any, output_zero_point: Any) -> Made:
    output = read.output(output_scale, output_zero_point)
    return Made(nnq.Hardswish.from_qparams(nn.Hardswish(), output=output), (input,))


def _dropout(
    read: Constant,
    self: Any,
    output_scale: Any,
    output_zero_point: Any,
    p: float = 0.5,
    training: bool = False,
) -> Made:
    return Made(nnq.Dropout(p).eval(), (self,))  # the identity, as the operator is


def _layer_norm(
    read: Constant,
    input: Any,
    normalized_shape: Any,
    weight: Any,
    bias: Any,
    eps: float,
    output_scale: Any,
    output_zero_point: Any,
) -> Made:
    made = nnq.LayerNorm(tuple(normalized_shape), read(weight), read(bias), eps=eps)
    made.set_qparams(OUTPUT, read.output(output_scale, output_zero_point))
    return Made(made.eval(), (input,))


def _instance_norm(
    read: Constant,
    input: Any,
    weight: Any,
    bias: Any,
    eps: float,
    output_scale: Any,
    output_zero_point: Any,
) -> Made:
    scale, shift = read(weight), read(bias)
    channels = 0 if scale is None else len(scale)  # without a weight the graph does not say
    # how many axes there are it does not say either: the three classes differ by name only
    made = nnq.InstanceNorm2d(channels, scale, shift, eps=eps, affine=scale is not None)
    made.set_qparams(OUTPUT, read.output(output_scale, output_zero_point))
    return Made(made.eval(), (input,))


def _linear(target: Any) -> Maker:
    def make(  # the schema's names
        read: Constant,
        X: Any,  # noqa: N803
        W_prepack: Any,  # noqa: N803
        Y_scale_i: Any,  # noqa: N803
        Y_zero_point_i: Any,  # noqa: N803
    ) -> Made:
        weight, bias = read(W_prepack).unpack()
        made = target(weight.shape[1], weight.shape[0], bias is not None)
        made.set_weight_bias(quantized(weight), float_copy(bias))
        made.set_qparams(OUTPUT, read.output(Y_scale_i, Y_zero_point_i))
        return Made(made.eval(), (X,))

    return make


def _linear_dynamic(target: Any, half: bool = False) -> Maker:
    def make(
        read: Constant,
        X: Any,  # noqa: N803
        W_prepack: Any,  # noqa: N803
        reduce_range: bool = False,
    ) -> Made:
        weight, bias = read(W_prepack).unpack()
        options = {"dtype": torch.float16} if half else {}
        made = target(weight.shape[1], weight.shape[0], bias is not None, **options)
        made.set_weight_bias(weight if half else quantized(weight), float_copy(bias))
        if not half:
            made.reduce_range = reduce_range
        return Made(made.eval(), (X,))

    return make


def _window(target: Any, held: Any) -> nn.Module:
    """A convolution with the weight and the options of packed parameters."""
    given, bias = held.unpack()
    weight, rank, groups = quantized(given), target.rank, held.groups()
    # one-dimensional convolutions are packed with an axis of length 1 before the last
    if weight.dim() > rank + 2:
        weight = QTensor(weight.codes.squeeze(-2), weight.qparams)
    stride, padding, dilation, *added = (
        tuple(list(option())[-rank:])
        for option in (
            held.stride, held.padding, held.dilation,
            *([held.output_padding] if "Transpose" in target.__name__ else []),
        )
    )  # fmt: skip
    kernel, has_bias = tuple(weight.shape[2:]), bias is not None
    if added:
        channels = weight.shape[0], weight.shape[1] * groups
        made = target(*channels, kernel, stride, padding, *added, groups, has_bias, dilation)
    else:
        channels = weight.shape[1] * groups, weight.shape[0]
        made = target(*channels, kernel, stride, padding, dilation, groups, has_bias)
    made.set_weight_bias(weight, float_copy(bias))
    return made.eval()


def _conv(target: Any) -> Maker:
    def make(
        read: Constant, qx: Any, packed_weight: Any, output_scale: Any, output_zero_point: Any
    ) -> Made:
        made: Any = _window(target, read(packed_weight))
        made.set_qparams(OUTPUT, read.output(output_scale, output_zero_point))
        return Made(made, (qx,))

    return make


def _conv_dynamic(target: Any) -> Maker:
    def make(read: Constant, qx: Any, packed_weight: Any, reduce_range: bool = False) -> Made:
        made: Any = _window(target, read(packed_weight))
        made.reduce_range = reduce_range
        return Made(made, (qx,))

    return make


def _quantize(read: Constant, input: Any, scale: Any, zero_point: Any, dtype: Any) -> Made:
    made = nnq.Quantize(float(read(scale)), int(read(zero_point)), dtype_of(dtype))
    return Made(made.eval(), (input,))


#: By the name that an operator's target goes by, without its namespace.
OPERATORS: dict[str, Maker] = {
    "quantize_per_tensor": _quantize,
    "add": _pairwise(functions.Add, nnq.Add, AddNumber),
    "add_relu": _add_relu,
    "add_scalar": _by_number(AddNumber),
    "add_scalar_relu": _by_number(AddNumber, relu=True),
    "mul": _pairwise(functions.Mul, nnq.Mul, MulNumber),
    "mul_relu": _pairwise(functions.Mul, nnq.Mul, MulNumber, relu=True),
    "mul_scalar": _by_number(MulNumber),
    "mul_scalar_relu": _by_number(MulNumber, relu=True),
    "matmul": _pairwise(functions.MatMul, nnq.MatMul),
    "cat": _cat(relu=False),
    "cat_relu": _cat(relu=True),
    "leaky_relu": _leaky_relu,
    "elu": _elu,
    "hardswish": _hardswish,
    "dropout": _dropout,
    "layer_norm": _layer_norm,
    "instance_norm": _instance_norm,
    "linear": _linear(nnq.Linear),
    "linear_relu": _linear(nniq.LinearReLU),
    "linear_dynamic": _linear_dynamic(nnqd.Linear),
    "linear_relu_dynamic": _linear_dynamic(nniqd.LinearReLU),
    "linear_dynamic_fp16": _linear_dynamic(nnqd.Linear, half=True),
    "linear_relu_dynamic_fp16": _linear_dynamic(nniqd.LinearReLU, half=True),
    "conv1d": _conv(nnq.Conv1d),
    "conv2d": _conv(nnq.Conv2d),
    "conv3d": _conv(nnq.Conv3d),
    "conv1d_relu": _conv(nniq.ConvReLU1d),
    "conv2d_relu": _conv(nniq.ConvReLU2d),
    "conv3d_relu": _conv(nniq.ConvReLU3d),
    "conv_transpose1d": _conv(nnq.ConvTranspose1d),
    "conv_transpose2d": _conv(nnq.ConvTranspose2d),
    "conv_transpose3d": _conv(nnq.ConvTranspose3d),
    "conv1d_dynamic": _conv_dynamic(nnqd.Conv1d),
    "conv2d_dynamic": _conv_dynamic(nnqd.Conv2d),
    "conv3d_dynamic": _conv_dynamic(nnqd.Conv3d),
}
