"""Quantized modules that fuse an activation: requantization clamps anyway.

A ReLU costs nothing. A ReLU6 in its own right would have its input quantized over a range of which
it then uses [0, 6] only; fused, all codes lie there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from qlab import ops
from qlab.aliases import submodules
from qlab.dtypes import QDType, qint8
from qlab.nn import intrinsic as nni
from qlab.nn.intrinsic.quantized.activated import (
    ConvAdd2d,
    ConvAddReLU2d,
    LinearGELU,
    LinearLeakyReLU,
    LinearTanh,
)
from qlab.nn.quantized.arithmetic import Add
from qlab.nn.quantized.conv import Conv1d, Conv2d, Conv3d
from qlab.nn.quantized.holder import OUTPUT
from qlab.nn.quantized.linear import Linear
from qlab.nn.quantized.norm import BatchNorm2d, BatchNorm3d
from qlab.nn.quantized.weighted import WeightedModule
from qlab.ops.codes import code_of
from qlab.qparams import QParams

__getattr__ = submodules(__name__)

__all__ = [
    "AddReLU",
    "BNReLU2d",
    "BNReLU3d",
    "Conv1dReLU6",
    "Conv2dReLU6",
    "Conv3dReLU6",
    "ConvAdd2d",
    "ConvAddReLU2d",
    "ConvReLU1d",
    "ConvReLU2d",
    "ConvReLU3d",
    "LinearGELU",
    "LinearLeakyReLU",
    "LinearReLU",
    "LinearReLU6",
    "LinearTanh",
]


class LinearReLU(Linear):
    """``relu(x Wᵀ + b)`` on codes; arguments as `LinearTanh`."""

    float_types = (nni.LinearReLU,)
    relu = True
    bias_argument = "bias"

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        dtype: QDType | str | torch.dtype = qint8,
    ) -> None:
        super().__init__(in_features, out_features, bias, dtype)


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


class _AtMostSix(WeightedModule):
    """``min(y, 6)`` of what a fused ReLU gives: requantization clamps at the code of 6."""

    relu = True

    def _result_qparams(self) -> QParams | None:
        if "result" not in self._cache:
            self._cache["result"] = _up_to_six(self.get_qparams(OUTPUT))
        return self._cache["result"]

    def _finish(self) -> Callable[[Tensor], Tensor] | None:
        output, result = self.get_qparams(OUTPUT), self._result_qparams()
        if output is None:
            return lambda real: real.clamp(max=6.0)
        if code_of(6.0, output) >= (result or output).quant_max:
            return None  # no code lies above
        return lambda codes: ops.relu6(codes, output)


def _up_to_six(output: QParams | None) -> QParams | None:
    """The same parameters without the codes above that of 6, where two or more remain."""
    if output is None or output.dtype.is_float or output.scale.is_meta:
        return output
    six = int(code_of(6.0, output))
    return replace(output, quant_max=six) if output.quant_min < six < output.quant_max else output


class LinearReLU6(_AtMostSix, Linear):
    """``relu6(x Wᵀ + b)`` on codes; arguments as `qlab.nn.quantized.Linear`."""

    float_types = (nni.LinearReLU6,)


class Conv1dReLU6(_AtMostSix, Conv1d):
    """``relu6(conv(x))`` on codes; arguments as `qlab.nn.quantized.Conv1d`."""

    float_types = (nni.Conv1dReLU6,)


class Conv2dReLU6(_AtMostSix, Conv2d):
    """``relu6(conv(x))`` on codes; arguments as `qlab.nn.quantized.Conv2d`."""

    float_types = (nni.Conv2dReLU6,)


class Conv3dReLU6(_AtMostSix, Conv3d):
    """``relu6(conv(x))`` on codes; arguments as `qlab.nn.quantized.Conv3d`."""

    float_types = (nni.Conv3dReLU6,)


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
