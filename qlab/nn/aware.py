"""What quantization-aware modules share: a float layer whose weight is rounded in every pass."""

from __future__ import annotations

from typing import Any, ClassVar, Self

from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrize import type_before_parametrizations

from qlab.errors import ArgumentError, DTypeError


class QuantizationAware(nn.Module):
    """A layer that trains with the weight it will have after conversion.

    ``y = layer(x, fake_quantize(weight), bias)``; the gradient passes the rounding straight
    through. Mixed into the float layer's class, whose parameters it keeps.

    Attributes:
        float_type: The float or fused class that it takes the place of.
        fields: Constructor arguments that are attributes of the float layer.
        relu: Whether a ReLU follows.
        qconfig: The quantization configuration; its ``weight`` made `weight_fake_quant`.
        weight_fake_quant: Rounds the weight and follows its range.

    Raises:
        ArgumentError: No qconfig, or one without a weight.

    Source: Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference", section 3.
    """

    float_type: ClassVar[type[nn.Module]]
    fields: ClassVar[tuple[str, ...]] = ()
    relu: ClassVar[bool] = False
    weight: Tensor
    bias: Any
    qconfig: Any
    weight_fake_quant: nn.Module

    def _take_qconfig(self, qconfig: Any) -> None:
        """Makes the weight's fake quantizer; to be called once the weight exists."""
        if getattr(qconfig, "weight", None) is None:
            raise ArgumentError(
                f"{type(self).__name__} needs a qconfig for its weight",
                expected="a QConfig such as qlab.quantization.default_qat_qconfig",
                received=repr(qconfig),
            )
        self.qconfig = qconfig
        self.weight_fake_quant = qconfig.weight().to(self.weight.device)

    @classmethod
    def from_float(cls, mod: nn.Module, use_precomputed_fake_quant: bool = False) -> Self:
        """The quantization-aware form of a float or fused module; they share their parameters.

        Args:
            mod: A module of class `float_type` with a ``qconfig`` attribute.
            use_precomputed_fake_quant: As in the reference; the weight's fake quantizer is made
                anew in any case.

        Raises:
            DTypeError: Another class of module.
            ArgumentError: It has no qconfig, or one that leaves the weight in float.
        """
        if type_before_parametrizations(mod) is not cls.float_type:
            raise DTypeError(
                f"{cls.__module__}.{cls.__name__} cannot be made from this module",
                expected=cls.float_type.__name__,
                received=type(mod).__name__,
            )
        layer = cls._layer_of(mod)
        arguments = {name: getattr(layer, name) for name in cls.fields}
        made = cls(**arguments, **cls._more_arguments(layer), qconfig=getattr(mod, "qconfig", None))
        made._share(mod)
        return made.to(layer.weight.device).train(mod.training)

    @classmethod
    def _layer_of(cls, mod: nn.Module) -> Any:
        """The layer with the weight: the first part of a fused module."""
        return mod[0] if isinstance(mod, nn.Sequential) else mod

    @classmethod
    def _more_arguments(cls, layer: Any) -> dict[str, Any]:
        return {"bias": layer.bias is not None}

    def _share(self, mod: nn.Module) -> None:
        """Takes over the parameters of the module it was made from."""
        layer = self._layer_of(mod)
        self.weight, self.bias = layer.weight, layer.bias

    def to_float(self) -> nn.Module:
        """The float or fused module again, with the trained parameters; not rounded."""
        layer = self._plain_layer()
        whole = self.float_type(layer, nn.ReLU()) if self.relu else layer
        return whole.train(self.training)

    def _plain_layer(self) -> nn.Module:
        kind: Any = getattr(self.float_type, "parts", (self.float_type,))[0]
        arguments = {name: getattr(self, name) for name in self.fields}
        layer = kind(**arguments, **self._more_arguments(self), device=self.weight.device)
        layer.weight = nn.Parameter(self.weight.detach().clone())
        if self.bias is not None:
            layer.bias = nn.Parameter(self.bias.detach().clone())
        return layer

    def _apply_layer(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The layer's own arithmetic."""
        raise NotImplementedError

    def forward(self, input: Tensor) -> Tensor:
        """``layer(x, fake_quantize(weight), bias)``, with a ReLU where the class has one."""
        y = self._apply_layer(input, self.weight_fake_quant(self.weight), self.bias)
        return F.relu(y) if self.relu else y
