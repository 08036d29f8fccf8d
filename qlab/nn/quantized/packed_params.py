"""A layer's weight by the name ``_packed_params``, under which the reference keeps it packed.

Nothing is packed here: each is a view of the layer that it belongs to, made when it is asked for.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from qlab.dtypes import QDType
from qlab.errors import UnsupportedError
from qlab.nn.quantized.observed import qparams_of
from qlab.nn.quantized.weight import WeightModule
from qlab.nn.quantized.weighted import WeightedModule, WeightedQuantizedModule
from qlab.qparams import quantize
from qlab.qtensor import QTensor

__all__ = [
    "ConvPackedParams",
    "EmbeddingPackedParams",
    "LinearPackedParams",
    "WeightedQuantizedModule",
    "quantize_weight",
]


class _View:
    """What the views share.

    Args:
        layer: Whose weight it shows.
    """

    def __init__(self, layer: WeightModule) -> None:
        self._layer: Any = layer

    @property
    def dtype(self) -> QDType | torch.dtype:
        """What the weight is stored as; ``torch.float16`` for a dynamic layer of that type."""
        weight = self._layer.weight() if callable(self._layer.weight) else self._layer.weight
        return weight.qdtype if isinstance(weight, QTensor) else torch.float16

    def __repr__(self) -> str:
        return f"{type(self).__name__} of {self._layer!r}"


class LinearPackedParams(_View):
    """``nn.quantized.Linear()._packed_params``: weight and bias of a linear layer."""

    _layer: WeightedModule

    @property
    def _packed_params(self) -> LinearPackedParams:
        return self

    def _weight_bias(self) -> tuple[Tensor, Tensor | None]:
        return self._layer.weight(), self._layer.bias()

    def unpack(self) -> tuple[Tensor, Tensor | None]:
        """Weight, a `QTensor`, or float32 where it is stored as float16; and bias, or None."""
        return self._weight_bias()

    def set_weight_bias(self, weight: QTensor, bias: Tensor | None) -> None:
        """Replaces weight and bias of the layer; see its method of that name."""
        self._layer.set_weight_bias(weight, bias)


class ConvPackedParams(LinearPackedParams):
    """``nn.quantized.Conv2d()._packed_params``: weight, bias and geometry of a convolution."""

    _layer: Any

    def stride(self) -> list[int]:
        """Step of the window, one number per axis."""
        return [*self._layer.stride]

    def padding(self) -> list[int]:
        """Zeros on both sides, one number per axis.

        Raises:
            UnsupportedError: The convolution's padding is ``"same"`` or ``"valid"``.
        """
        if isinstance(self._layer.padding, str):
            raise UnsupportedError(
                "The padding is not a number per axis", received=repr(self._layer.padding)
            )
        return [*self._layer.padding]

    def dilation(self) -> list[int]:
        """Distance between elements of the window, one number per axis."""
        return [*self._layer.dilation]

    def groups(self) -> int:
        """Groups of channels that do not see each other."""
        return self._layer.groups

    def transpose(self) -> bool:
        """Whether the convolution is a transposed one."""
        return hasattr(self._layer, "output_padding")

    def output_padding(self) -> list[int]:
        """Elements added to one side of the output, one number per axis; zeros without any."""
        return [*getattr(self._layer, "output_padding", [0] * len(self._layer.stride))]


class EmbeddingPackedParams(_View):
    """``nn.quantized.Embedding()._packed_params``: the table of an embedding."""

    @property
    def _packed_weight(self) -> EmbeddingPackedParams:
        return self

    def _weight(self) -> QTensor:
        return self._layer.weight()

    def set_weight(self, weight: QTensor) -> None:
        """Replaces the table; see the module's method of that name."""
        self._layer.set_weight(weight)


def quantize_weight(float_wt: Tensor, observer: Any) -> QTensor:
    """A weight on the codes that an observer which has seen it chose.

    Args:
        float_wt: Floating point, the shape that the observer saw.
        observer: An observer or fake quantizer, one of qlab's or anyone's.

    Raises:
        UncalibratedError: The observer has seen no data.
        UnsupportedError: It leaves the weight in floating point.
    """
    qparams = qparams_of(observer)
    if qparams is None:
        raise UnsupportedError(
            f"{type(observer).__name__} leaves the weight in floating point",
            expected="an observer with scale and zero point",
        )
    qparams = qparams.to(float_wt.device)
    return QTensor(quantize(float_wt.detach(), qparams), qparams)


_quantize_weight = quantize_weight
"""The reference's name."""
