"""Random codes and parameters for the tests of operators."""

import torch
from torch import Tensor

from qlab.dtypes import QDType, qint8, quint8
from qlab.granularity import PerAxis
from qlab.qparams import QParams

X = QParams.per_tensor(0.05, 117, quint8)
W = QParams.per_tensor(0.02, 0, qint8)
Y = QParams.per_tensor(0.4, 131, quint8)


def codes(dtype: QDType, *shape: int) -> Tensor:
    """Every code of a type, equally likely."""
    high = dtype.quant_max + 1
    return torch.randint(dtype.quant_min, high, shape).to(dtype.storage)


def per_channel(channels: int, dtype: QDType = qint8, *, zero_point: int = 0) -> QParams:
    """Random scales along axis 0."""
    zeros = torch.full((channels,), zero_point, dtype=torch.int32)
    return QParams(torch.rand(channels) * 0.02 + 1e-4, zeros, dtype, PerAxis(0))


def half_steps(scale: Tensor, factor: int) -> QParams:
    """An output in whose steps products of ``scale`` lie exactly, or nearly, in the middle."""
    return QParams.per_tensor(float(scale.max()) * factor, 100, quint8)
