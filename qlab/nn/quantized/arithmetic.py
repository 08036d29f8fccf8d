"""Quantized arithmetic: the integer forms of function calls in a graph."""

from __future__ import annotations

from typing import Any, ClassVar, Unpack

from torch import Tensor
from torch.compiler import is_compiling

from qlab import ops
from qlab.nn import functions
from qlab.nn.quantized.base import Output
from qlab.nn.quantized.families import ObservedModule
from qlab.nn.quantized.operands import Operands
from qlab.ops.compiled import Sum
from qlab.ops.kernels import count, forced
from qlab.qparams import QParams


class Add(ObservedModule):
    """``a + b``, broadcast."""

    float_types = (functions.Add,)
    own_memory = True
    relu: ClassVar[bool] = False

    def forward(self, *inputs: Tensor, **named: Unpack[Operands]) -> Tensor:
        """As every `QuantizedModule`; plain codes like the last are not checked anew."""
        ready: Any = None if is_compiling() else self._cache.get("ready")
        if ready is not None and len(inputs) == 2 and forced() is None and ready.serves(*inputs):
            count("add", "compiled")
            return ready(*inputs)
        result = super().forward(*inputs, **named)
        bound = self.input_qparams
        if bound is not None and not named and not is_compiling():
            pairs: Any = zip(inputs, bound, strict=True)
            self._cache["ready"] = Sum.of(*pairs, y=self._own_output(), relu=self.relu)
        return result

    def compute(self, a: Tensor, a_qparams: QParams, b: Tensor, b_qparams: QParams) -> Tensor:
        """``quantize(dequantize(a) + dequantize(b))``."""
        return ops.add(a, a_qparams, b, b_qparams, self._own_output(), relu=self.relu)


class Mul(ObservedModule):
    """``a · b``, broadcast."""

    float_types = (functions.Mul,)
    op = staticmethod(ops.mul)


class MatMul(ObservedModule):
    """``a b``, batched; with integer accumulation."""

    float_types = (functions.MatMul,)
    output_of = Output.OWN_OR_FLOAT
    op = staticmethod(ops.matmul)

    @property
    def execution_reason(self) -> str:
        """Why it is simulated, in words; empty if integer arithmetic runs."""
        for qparams in self.input_qparams or ():
            if qparams is not None and qparams.dtype.bits > 8:
                return f"an input's type {qparams.dtype.name} is not an integer of at most 8 bits"
        return super().execution_reason


class _Scalar(ObservedModule):
    """A tensor and a number.

    Args:
        value: The number, real units.
        scale: Scale of the output, real units per code.
        zero_point: Zero point of the output, a quint8 code.
    """

    fields = ("value",)
    value: float

    def __init__(self, value: float, scale: float = 1.0, zero_point: int = 0) -> None:
        super().__init__(scale, zero_point, value)


class AddScalar(_Scalar):
    __doc__ = f"``x + value``.\n\n{_Scalar.__doc__}"
    float_types = (functions.AddScalar,)

    def compute(self, x: Tensor, x_qparams: QParams) -> Tensor:
        """``quantize(dequantize(x) + value)``."""
        return ops.add_scalar(x, x_qparams, self.value, self._own_output())


class MulScalar(_Scalar):
    __doc__ = f"``x · value``.\n\n{_Scalar.__doc__}"
    float_types = (functions.MulScalar,)

    def compute(self, x: Tensor, x_qparams: QParams) -> Tensor:
        """``quantize(dequantize(x) · value)``."""
        return ops.mul_scalar(x, x_qparams, self.value, self._own_output())


class Cat(ObservedModule):
    """Tensors joined along an axis, each brought to the output's scale.

    Args:
        scale: Scale of the output, real units per code.
        zero_point: Zero point of the output, a quint8 code.
        dim: The axis.
    """

    float_types = (functions.Cat,)
    fields = ("dim",)
    dim: int

    def compute(self, *inputs: Any) -> Tensor:
        """Takes codes and `QParams` in turn, for any number of tensors."""
        return ops.cat(inputs[::2], inputs[1::2], self.dim, self._own_output())


class Stack(ObservedModule):
    """Tensors joined along a new axis, each brought to the output's scale.

    Args:
        scale: Scale of the output, real units per code.
        zero_point: Zero point of the output, a quint8 code.
        dim: Where the new axis goes.
    """

    float_types = (functions.Stack,)
    fields = ("dim",)
    dim: int

    def compute(self, *inputs: Any) -> Tensor:
        """Takes codes and `QParams` in turn, for any number of tensors."""
        parts = [codes.unsqueeze(self.dim) for codes in inputs[::2]]
        return ops.cat(parts, inputs[1::2], self.dim, self._own_output())
