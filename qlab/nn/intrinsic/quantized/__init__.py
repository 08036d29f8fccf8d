"""Quantized modules that fuse a ReLU: it costs nothing, since requantization clamps anyway."""

from __future__ import annotations

from qlab.nn import intrinsic as nni
from qlab.nn.quantized.arithmetic import Add
from qlab.nn.quantized.conv import Conv1d, Conv2d, Conv3d
from qlab.nn.quantized.linear import Linear
from qlab.nn.quantized.norm import BatchNorm2d, BatchNorm3d

__all__ = [
    "AddReLU",
    "BNReLU2d",
    "BNReLU3d",
    "ConvReLU1d",
    "ConvReLU2d",
    "ConvReLU3d",
    "LinearReLU",
]


class LinearReLU(Linear):
    """``relu(x Wᵀ + b)`` on codes; arguments as `qlab.nn.quantized.Linear`."""

    float_types = (nni.LinearReLU,)
    relu = True


class ConvReLU1d(Conv1d):
    """``relu(conv(x))`` on codes; arguments as `qlab.nn.quantized.Conv1d`."""

    float_types = (nni.ConvReLU1d, nni.ConvBnReLU1d)
    relu = True


class ConvReLU2d(Conv2d):
    """``relu(conv(x))`` on codes; arguments as `qlab.nn.quantized.Conv2d`."""

    float_types = (nni.ConvReLU2d, nni.ConvBnReLU2d)
    relu = True


class ConvReLU3d(Conv3d):
    """``relu(conv(x))`` on codes; arguments as `qlab.nn.quantized.Conv3d`."""

    float_types = (nni.ConvReLU3d, nni.ConvBnReLU3d)
    relu = True


class BNReLU2d(BatchNorm2d):
    """``relu(bn(x))`` on codes; arguments as `qlab.nn.quantized.BatchNorm2d`."""

    float_types = (nni.BNReLU2d,)
    relu = True


class BNReLU3d(BatchNorm3d):
    """``relu(bn(x))`` on codes; arguments as `qlab.nn.quantized.BatchNorm3d`."""

    float_types = (nni.BNReLU3d,)
    relu = True


class AddReLU(Add):
    """``relu(a + b)`` on codes; arguments as `qlab.nn.quantized.Add`."""

    float_types = (nni.AddReLU,)
    relu = True
