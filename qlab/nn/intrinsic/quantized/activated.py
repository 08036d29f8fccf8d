"""Layers whose sum goes through a function of real numbers before it is requantized.

No step is lost in between: the operator gives float32, the function follows, and only its result
is rounded to codes. The reference has them for its engine ``onednn`` alone; the formulas are its
own, found by comparing every code of some 10⁵ outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

from qlab.dtypes import QDType, qint8
from qlab.nn import intrinsic as nni
from qlab.nn.quantized.conv import Conv2d
from qlab.nn.quantized.holder import OUTPUT
from qlab.nn.quantized.linear import Linear
from qlab.nn.quantized.weighted import WeightedModule
from qlab.qparams import QParams, dequantize, requantize


class _BeforeRequantization(WeightedModule):
    """A weighted module that does something with its real sums."""

    def _result_qparams(self) -> QParams | None:
        return None

    def _requantized(self, real: Tensor) -> Tensor:
        output = self.get_qparams(OUTPUT)
        return real if output is None else requantize(real, output)

    def _finish(self) -> Callable[[Tensor], Tensor] | None:
        function = self.activation()
        if function is None:
            return None
        return lambda real: self._requantized(function(real))

    @classmethod
    def from_reference(
        cls, mod: nn.Module, scale: float | None = None, zero_point: int | None = None
    ) -> Self:
        """As every `QuantizedModule`; of a fused module the first part is the reference module."""
        first = mod[0] if isinstance(mod, nn.Sequential) else mod
        return super().from_reference(first, scale, zero_point)


class LinearLeakyReLU(_BeforeRequantization, Linear):
    """``requantize(leaky_relu(x Wᵀ + b))`` on codes.

    Args:
        in_features: Length of the input's last axis.
        out_features: Length of the output's last axis.
        negative_slope: Factor of negative sums.
        bias: Whether there is a bias.
        dtype: Quantized data type of the weight.
    """

    float_types = (nni.LinearLeakyReLU,)
    fields = ("in_features", "out_features", "negative_slope")
    bias_argument = "bias"

    def __init__(
        self,
        in_features: int,
        out_features: int,
        negative_slope: float,
        bias: bool = True,
        dtype: QDType | str | torch.dtype = qint8,
    ) -> None:
        super().__init__(in_features, out_features, bias, dtype)
        self.negative_slope = float(negative_slope)

    @classmethod
    def from_qparams(
        cls, mod: nn.Module, *, weight: QParams | None = None, output: QParams | None = None
    ) -> Self:
        made = super().from_qparams(mod, weight=weight, output=output)
        return made._with_slope(mod)

    @classmethod
    def from_reference(
        cls, mod: nn.Module, scale: float | None = None, zero_point: int | None = None
    ) -> Self:
        """As every `QuantizedModule`; of a fused module, whose second part tells the slope."""
        return super().from_reference(mod, scale, zero_point)._with_slope(mod)

    def _with_slope(self, fused: Any) -> Self:
        if isinstance(fused, nn.Sequential):
            slope: Any = fused[1].negative_slope
            self.negative_slope = float(slope)
        return self

    @classmethod
    def _arguments_of(cls, source: Any) -> dict[str, Any]:
        bias = source.bias() if isinstance(source, WeightedModule) else source.bias
        slope = getattr(source, "negative_slope", nn.LeakyReLU().negative_slope)
        sizes = {"in_features": source.in_features, "out_features": source.out_features}
        return {**sizes, "negative_slope": slope, "bias": bias is not None}

    @classmethod
    def plain_float_type(cls) -> Callable[..., nn.Module]:
        """Makes the linear layer before the activation."""
        return _linear_before

    def activation(self) -> nn.Module:
        """``nn.LeakyReLU``."""
        return nn.LeakyReLU(self.negative_slope)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, negative_slope={self.negative_slope}"


def _linear_before(
    in_features: int, out_features: int, negative_slope: float, bias: bool
) -> nn.Module:
    return nn.Linear(in_features, out_features, bias)


class LinearTanh(_BeforeRequantization, Linear):
    """``requantize(tanh(x Wᵀ + b))`` on codes.

    Args:
        in_features: Length of the input's last axis.
        out_features: Length of the output's last axis.
        bias: Whether there is a bias.
        dtype: Quantized data type of the weight.
    """

    float_types = (nni.LinearTanh,)
    bias_argument = "bias"

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        dtype: QDType | str | torch.dtype = qint8,
    ) -> None:
        super().__init__(in_features, out_features, bias, dtype)

    def activation(self) -> nn.Module:
        """``nn.Tanh``."""
        return nn.Tanh()


class ConvAdd2d(_BeforeRequantization, Conv2d):
    """``requantize(conv(x) + b + s_o · (other - z_o))`` on codes; arguments as `Conv2d`.

    The convolution's result is not requantized before the sum, as it is where the two are separate
    modules, and needs no scale of its own.
    """

    float_types = (nni.ConvAdd2d,)

    def compute(  # pyright: ignore[reportIncompatibleMethodOverride]  (one operand more)
        self,
        x: Tensor,
        x_qparams: QParams | None,
        other: Tensor,
        other_qparams: QParams | None,
    ) -> Tensor:
        """The sum on codes; an operand without parameters holds real numbers."""
        real = super().compute(x, x_qparams)
        real = real + (other if other_qparams is None else dequantize(other, other_qparams))
        return self._requantized(real.relu() if self.relu else real)

    def _options(self) -> dict[str, Any]:
        return {**super()._options(), "relu": False}


class ConvAddReLU2d(ConvAdd2d):
    """``requantize(relu(conv(x) + b + s_o · (other - z_o)))`` on codes; as `ConvAdd2d`."""

    float_types = (nni.ConvAddReLU2d,)
    relu = True
