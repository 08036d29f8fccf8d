"""Convolutions that quantize their input as it comes."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor, nn

from qlab.dtypes import QDType, quint8
from qlab.errors import UnsupportedError
from qlab.nn.intrinsic.fold import core
from qlab.nn.quantized import conv as static
from qlab.nn.quantized.dynamic.layer import DynamicLayer
from qlab.nn.quantized.dynamic.request import DynamicRequest
from qlab.nn.quantized.holder import OUTPUT
from qlab.nn.quantized.operands import in_order
from qlab.ops import dynamic


class _DynamicConv(DynamicLayer):
    """A convolution, real numbers in and out; the weight is quantized once, x in every call.

    See `qlab.ops.dynamic` for the exact formula. Like the reference's, it takes a float layer's
    place only where `quantize_dynamic` is given it as ``mapping``. The result is the real sum. The
    reference rounds and clips it to the codes of the input, whatever range the output has, and
    warns of its accuracy.

    Args:
        *args: As the static module of the same name, like the keyword arguments.
        reduce_range: Use half of the input's codes, as the reference does.

    Attributes:
        input_dtype: What the input is quantized to: `qlab.quint8` or `qlab.qint8`.
        reduce_range: As given.
    """

    def __init__(self, *args: Any, reduce_range: bool = True, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.set_qparams(OUTPUT, None)
        self.input_dtype: QDType = quint8
        self.reduce_range = reduce_range

    def forward(self, *inputs: Any, **named: Any) -> Tensor:
        """The convolution of real numbers.

        Args:
            *inputs: One floating-point tensor of the shape that the float layer takes, with a
                batch; and ``reduce_range``, which the reference takes by position too.
            **named: Or these by their names. Without ``reduce_range`` it is that of the module.

        Returns:
            The type of the input.

        Raises:
            DTypeError: The input is quantized, or not floating point.
            ShapeError: It does not fit the weight.
            NonFiniteError: NaN or infinity in the input.
        """
        half = named.pop("reduce_range", None)
        x, *given = in_order(self._get_name(), inputs, named) if named else inputs
        self._check_real(x)
        half = next(iter(given), half)
        half = self.reduce_range if half is None else half
        if torch.compiler.is_compiling() and half == self.reduce_range:
            return self._traced(x)
        run = getattr(dynamic, f"{type(self).op.__name__}_dynamic")
        layer = self.get_buffer("weight_codes"), self.weight_qparams, self.bias()
        how = {"dtype": self.input_dtype, "reduce_range": half, "packed": self._packed}
        return run(x, *layer, **how, **self._options())

    @classmethod
    def from_float(cls, mod: nn.Module, use_precomputed_fake_quant: bool = False) -> Self:
        """The dynamically quantized form of a convolution.

        Args:
            mod: A float module with a ``qconfig``.
            use_precomputed_fake_quant: Not needed: the weight is observed here.

        Raises:
            DTypeError: Another class of module.
            UncalibratedError: It has no ``qconfig``.
            UnsupportedError: The qconfig leaves the weight in float32 or float16.
        """
        request = DynamicRequest.of(cls._accept(mod))
        if not isinstance(request.weight_dtype, QDType):
            raise UnsupportedError(
                f"{cls.__name__}: a dynamically quantized convolution has integers for weights",
                expected="a weight observer for integers",
                received=str(request.weight_dtype),
                fix="Give it default_dynamic_qconfig or per_channel_dynamic_qconfig.",
            )
        layer: Any = core(mod)
        made: Any = cls(**cls._arguments_of(layer))
        made.input_dtype = request.input_dtype
        made.set_weight_bias(request.quantized(layer.weight), layer.bias)
        return made.to(layer.weight.device).train(mod.training)


class Conv1d(_DynamicConv, static.Conv1d):
    __doc__ = _DynamicConv.__doc__
    float_types = (nn.Conv1d,)


class Conv2d(_DynamicConv, static.Conv2d):
    __doc__ = _DynamicConv.__doc__
    float_types = (nn.Conv2d,)


class Conv3d(_DynamicConv, static.Conv3d):
    __doc__ = _DynamicConv.__doc__
    float_types = (nn.Conv3d,)


class ConvTranspose1d(_DynamicConv, static.ConvTranspose1d):
    __doc__ = _DynamicConv.__doc__
    float_types = (nn.ConvTranspose1d,)


class ConvTranspose2d(_DynamicConv, static.ConvTranspose2d):
    __doc__ = _DynamicConv.__doc__
    float_types = (nn.ConvTranspose2d,)


class ConvTranspose3d(_DynamicConv, static.ConvTranspose3d):
    __doc__ = _DynamicConv.__doc__
    float_types = (nn.ConvTranspose3d,)
