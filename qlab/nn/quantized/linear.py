"""Quantized linear layer."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from qlab import ops
from qlab.dtypes import QDType, as_qdtype, qint8
from qlab.nn import intrinsic as nni
from qlab.nn.quantized.holder import qparams_of_numbers
from qlab.nn.quantized.packed_params import LinearPackedParams
from qlab.nn.quantized.weighted import WeightedModule


class Linear(WeightedModule):
    """``y = x Wᵀ + b`` on codes; see `qlab.ops.linear` for the exact formula.

    A new module has a weight of zeros; `from_float`, `from_qparams`, `set_weight_bias` or
    ``load_state_dict`` give it its numbers.

    Args:
        in_features: Length of the input's last axis.
        out_features: Length of the output's last axis.
        bias_: Whether there is a bias.
        dtype: Quantized data type of the weight.
    """

    float_types = (nn.Linear, NonDynamicallyQuantizableLinear, nni.LinearBn1d)
    fields = ("in_features", "out_features")
    bias_argument = "bias_"
    op = staticmethod(ops.linear)

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias_: bool = True,
        dtype: QDType | str | torch.dtype = qint8,
    ) -> None:
        super().__init__((out_features, in_features), bias_)
        self.in_features = in_features
        self.out_features = out_features
        if as_qdtype(dtype) != qint8:
            zero = qparams_of_numbers(1.0, 0, as_qdtype(dtype))
            codes = self.get_buffer("weight_codes").to(zero.dtype.storage)
            self._set_weight(codes, zero, self.bias())

    @property
    def _packed_params(self) -> LinearPackedParams:
        """The weight as code written for the reference asks for it."""
        return LinearPackedParams(self)

    def _example(self) -> tuple[int, ...]:
        return (1, self.in_features)

    def extra_repr(self) -> str:
        sizes = [f"in_features={self.in_features}", f"out_features={self.out_features}"]
        return ", ".join([*sizes, *self._shown_output(), *self._shown_weight()])
