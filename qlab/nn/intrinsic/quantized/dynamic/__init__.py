"""Fused modules that quantize their input as it comes."""

from __future__ import annotations

import torch

from qlab.aliases import submodules
from qlab.dtypes import QDType, qint8
from qlab.nn import intrinsic as nni
from qlab.nn.quantized import dynamic as nnqd

__getattr__ = submodules(__name__)

__all__ = ["LinearReLU"]


class LinearReLU(nnqd.Linear):
    """``relu(x Wᵀ + b)``, real numbers in and out; see `qlab.nn.quantized.dynamic.Linear`.

    Args:
        in_features: Length of the input's last axis.
        out_features: Length of the output's last axis.
        bias: Whether there is a bias.
        dtype: Quantized data type of the weight, or ``torch.float16``.
    """

    float_types = (nni.LinearReLU,)
    relu = True
    bias_argument = "bias"

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        dtype: QDType | torch.dtype | str = qint8,
    ) -> None:
        super().__init__(in_features, out_features, bias, dtype)
