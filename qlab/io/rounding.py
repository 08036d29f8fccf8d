"""How codes are read and written in a program for other runtimes."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from qlab.errors import UnsupportedError
from qlab.granularity import PerAxis, PerGroup, PerTensor
from qlab.qparams import QParams


class Form(NamedTuple):
    """What an operator must know of codes besides their scales: plain values.

    Attributes:
        dtype: Name of the quantized data type.
        low: Smallest code in use.
        high: Largest code in use.
        axis: The axis that the scales lie along; 0 for one scale.
        group: Neighbours along it that share a scale; 0 where it is none or one index.
    """

    dtype: str
    low: int
    high: int
    axis: int = 0
    group: int = 0

    @classmethod
    def of(cls, qparams: QParams, rank: int | None = None) -> Form:
        """The form of some parameters.

        Raises:
            UnsupportedError: A granularity that is neither one scale nor along one axis.
        """
        plain = (qparams.dtype.name, qparams.quant_min, qparams.quant_max)
        match qparams.granularity:
            case PerTensor():
                return cls(*plain)
            case PerAxis(axis):
                return cls(*plain, axis if rank is None else axis % rank)
            case PerGroup(group_size, axis):
                return cls(*plain, axis if rank is None else axis % rank, group_size)
        raise UnsupportedError("No other runtime knows these scales", received=qparams.granularity)

    def spread(self, values: Tensor, x: Tensor) -> Tensor:
        """One value per scale, so that they broadcast against ``x``."""
        if not values.dim():
            return values
        several = PerGroup(self.group, self.axis) if self.group else PerAxis(self.axis)
        return several.expand(values, x.shape)


class Rounding(NamedTuple):
    """How a program quantizes and dequantizes: with its own operators, or with those of aten.

    Attributes:
        quantize: ``(x, scale, zero point, form, tag, order) → codes``.
        dequantize: ``(codes, scale, zero point, form, whether they are constants) → float32``.
    """

    quantize: Callable[[Tensor, Tensor, Tensor, Form, str, str], Tensor]
    dequantize: Callable[[Tensor, Tensor, Tensor, Form, bool], Tensor]


#: Where the zero point is added: in `qlab.qparams` ``quantize``, ``requantize`` and
#: ``quantize_round_first``.
FUSED, AFTER_PRODUCT, ROUND_FIRST = "fused", "after product", "round first"
