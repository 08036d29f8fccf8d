"""Fused modules that quantize their input as it comes."""

from __future__ import annotations

from qlab.aliases import submodules
from qlab.nn import intrinsic as nni
from qlab.nn.quantized import dynamic as nnqd

__getattr__ = submodules(__name__)

__all__ = ["LinearReLU"]


class LinearReLU(nnqd.Linear):
    """``relu(x Wᵀ + b)``; arguments as `qlab.nn.quantized.dynamic.Linear`."""

    float_types = (nni.LinearReLU,)
    relu = True
