"""Linear layer that quantizes its input as it comes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self, Unpack

import torch
from torch import Tensor, nn

from qlab import ops
from qlab.dtypes import QDType, as_qdtype, qint8, quint8
from qlab.errors import DTypeError, ShapeError
from qlab.nn.intrinsic.fold import core, hooked
from qlab.nn.quantized import linear as static
from qlab.nn.quantized.dynamic.layer import DynamicLayer
from qlab.nn.quantized.dynamic.request import DynamicRequest, WeightDType
from qlab.nn.quantized.format import CodeFormat
from qlab.nn.quantized.holder import (
    OUTPUT,
    WEIGHT,
    float_copy,
    qparams_of_numbers,
)
from qlab.nn.quantized.operands import Operands, in_order
from qlab.nn.quantized.reference.layers import Linear as Reference
from qlab.ops.dynamic import Bound, bound_dynamic, dense
from qlab.qtensor import QTensor

_FLOAT16_MAX = torch.finfo(torch.float16).max


class Linear(DynamicLayer, static.Linear):
    """``y = x Wᵀ + b``, real numbers in and out; the weight is quantized once, x in every call.

    See `qlab.ops.linear_dynamic` for the exact formula. With ``dtype=torch.float16`` the weight is
    rounded to float16 and the arithmetic is float32.

    Args:
        in_features: Length of the input's last axis.
        out_features: Length of the output's last axis.
        bias_: Whether there is a bias.
        dtype: Quantized data type of the weight, or ``torch.float16``.

    Attributes:
        input_dtype: What the input is quantized to: `qlab.quint8` or `qlab.qint8`.
        reduce_range: Use half of its codes, as the reference does.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias_: bool = True,
        dtype: WeightDType | str = qint8,
    ) -> None:
        half = dtype is torch.float16
        super().__init__(in_features, out_features, bias_, qint8 if half else as_qdtype(dtype))
        self.set_qparams(OUTPUT, None)
        self.input_dtype: QDType = quint8
        self.reduce_range = True
        if half:
            self._set_half(torch.zeros(out_features, in_features), self.bias())

    @property
    def dtype(self) -> WeightDType:
        """What the weight is stored as: a `QDType`, or ``torch.float16``."""
        return torch.float16 if self._is_half else self.weight_qparams.dtype

    @property
    def _is_half(self) -> bool:
        return self.get_buffer("weight_codes").dtype == torch.float16

    def weight(self) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The weight: a `QTensor`, or float32 if it is stored as float16."""
        return self.get_buffer("weight_codes").float() if self._is_half else super().weight()

    def set_weight_bias(self, w: Tensor, b: Tensor | None) -> None:
        """Replaces weight and bias.

        Args:
            w: A `QTensor`; for a float16 layer real numbers, which are rounded, beyond ±65504
                clamped. Of the shape of the present weight.
            b: Floating point (output channels,), or None.

        Raises:
            DTypeError: The weight is not quantized, or is and the layer's is float16.
            ShapeError: Weight or bias has another shape.
        """
        if not self._is_half:
            super().set_weight_bias(w, b)  # pyright: ignore[reportArgumentType]
            return
        if isinstance(w, QTensor) or not w.is_floating_point():
            raise DTypeError(
                f"{self._get_name()}: the weight of a float16 layer is given as real numbers",
                expected="a floating-point tensor",
                received=f"{type(w).__name__} of {w.dtype}",
            )
        shape = self.get_buffer("weight_codes").shape
        for what, given, expected in (("weight", w, shape), ("bias", b, shape[:1])):
            if given is not None and given.shape != expected:
                raise ShapeError(
                    f"{self._get_name()}: the {what} has the wrong shape",
                    expected=f"shape {tuple(expected)}",
                    received=f"shape {tuple(given.shape)}",
                )
        self._set_half(w, b)

    def _set_half(self, weight: Tensor, bias: Tensor | None) -> None:
        rounded = weight.detach().clamp(-_FLOAT16_MAX, _FLOAT16_MAX).to(torch.float16)
        self.set_qparams(WEIGHT, None)
        self.register_buffer("weight_codes", rounded)
        self.register_buffer("bias_float", float_copy(bias))

    def forward(self, *inputs: Tensor, **named: Unpack[Operands]) -> Tensor:
        """``x Wᵀ + b``.

        Args:
            *inputs: One tensor of real numbers, (*, in_features).
            **named: Or that tensor by its name.

        Returns:
            The type of the input, (*, out_features).

        Raises:
            DTypeError: The input is quantized, or not floating point.
            ShapeError: Another number of features.
            NonFiniteError: NaN or infinity in the input, with an integer weight.
        """
        (x,) = in_order(self._get_name(), inputs, named) if named else inputs
        self._check_input(x)
        if self._is_half:
            real = nn.functional.linear(x.to(torch.float32), self.weight(), self.bias())
            return (real.relu() if self.relu else real).to(x.dtype)
        if torch.compiler.is_compiling():
            return self._traced(x)
        return ops.linear_dynamic(
            x,
            self.get_buffer("weight_codes"),
            self.weight_qparams,
            self.bias(),
            dtype=self.input_dtype,
            reduce_range=self.reduce_range,
            relu=self.relu,
            packed=self._packed,
        )

    def bound(self, x: Tensor) -> Bound | None:
        """The layer as a function for many inputs like ``x``, while its weight stays as it is.

        None where there is no faster way than calling it; see `qlab.ops.dynamic.bound_dynamic`.
        """
        if self._is_half or self.input_dtype is not quint8 or not dense(x) or hooked(self):
            return None
        layer = self.get_buffer("weight_codes"), self.weight_qparams, self.bias()
        return bound_dynamic(x, *layer, (self.reduce_range, self.relu), self._packed)

    def _check_input(self, x: Any) -> None:
        self._check_real(x)
        if not x.dim() or x.shape[-1] != self.in_features:
            raise ShapeError(
                f"{self._get_name()}: the input does not fit the weight",
                expected=f"{self.in_features} features along the last axis",
                received=f"shape {tuple(x.shape)}",
            )

    @classmethod
    def from_float(cls, mod: nn.Module, use_precomputed_fake_quant: bool = False) -> Self:
        """The dynamically quantized form of a linear layer.

        Args:
            mod: A float or fused module with a ``qconfig``; a weight observer for float16 gives a
                float16 weight.
            use_precomputed_fake_quant: Not needed: the weight is observed here.

        Raises:
            DTypeError: Another class of module.
            UncalibratedError: It has no ``qconfig``.
            UnsupportedError: The qconfig leaves the weight in float32.
        """
        request = DynamicRequest.of(cls._accept(mod))
        layer: Any = core(mod)
        return cls.of_weights(layer.weight, layer.bias, request).train(mod.training)

    @classmethod
    def from_reference(  # pyright: ignore[reportIncompatibleMethodOverride]
        cls, mod: nn.Module
    ) -> Self:
        """The dynamically quantized form of a reference module, with its weight.

        Args:
            mod: A `qlab.nn.quantized.reference.Linear`.

        Raises:
            DTypeError: Another class of module, or a weight that is neither quantized nor float16.
        """
        weight = mod.get_quantized_weight() if isinstance(mod, Reference) else None
        half = weight is not None and weight.dtype == torch.float16
        if weight is None or not (half or isinstance(weight, QTensor)):
            raise DTypeError(
                f"{cls.__name__} cannot be made from this reference module",
                expected="a qlab.nn.quantized.reference.Linear with a quantized or float16 weight",
                received=type(mod).__name__,
            )
        if not half:
            return super().from_reference(mod)
        layer: Any = mod
        made = cls(layer.in_features, layer.out_features, layer.bias is not None, torch.float16)
        made.set_weight_bias(weight, layer.bias)
        return made.to(weight.device).eval()

    @classmethod
    def of_weights(cls, weight: Tensor, bias: Tensor | None, request: DynamicRequest) -> Self:
        """A layer of a float weight (out, in) and bias (out,), on their device."""
        made = cls(weight.shape[1], weight.shape[0], bias is not None, request.weight_dtype)
        made.input_dtype = request.input_dtype
        made.set_weight_bias(request.quantized(weight), bias)
        return made.to(weight.device)

    def _set_formats(self, formats: Mapping[str, CodeFormat]) -> None:
        """A weight without a format is float16."""
        if formats:
            super()._set_formats(formats)
        else:
            self._set_half(torch.zeros(self.out_features, self.in_features), self.bias())

    @property
    def execution_reason(self) -> str:
        """Why it is simulated, in words; empty if integer arithmetic runs."""
        return "float16 weight, float32 arithmetic" if self._is_half else super().execution_reason

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """Takes over what the loaded weight is stored as, integers or float16."""
        loaded = state_dict.get(prefix + "weight_codes")
        present = self.get_buffer("weight_codes")
        if loaded is not None and loaded.shape == present.shape:
            if loaded.dtype == torch.float16 and not self._is_half:
                self._set_half(present, self.bias())
            elif loaded.dtype != torch.float16 and self._is_half:
                self.register_buffer("weight_codes", present.to(qint8.storage))
                with present.device:
                    self.set_qparams(WEIGHT, qparams_of_numbers(1.0, 0, qint8))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def extra_repr(self) -> str:
        shown = [f"in_features={self.in_features}", f"out_features={self.out_features}"]
        if self._is_half:
            return ", ".join([*shown, "dtype=torch.float16"])
        return ", ".join([*shown, f"dtype={self.dtype!r}", self._shown_weight()[0]])
