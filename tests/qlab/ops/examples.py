"""Random codes and parameters for the tests of operators."""

from typing import Any

import torch
from torch import Tensor

from qlab import ops
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


def moved(value: Any, device: torch.device) -> Any:
    """Tensors, parameters, and tuples of them, on a device; anything else as it is."""
    if isinstance(value, tuple):
        return tuple(moved(item, device) for item in value)
    return value.to(device) if isinstance(value, Tensor | QParams) else value


def compared(kernel: str, op: str, device: torch.device, *args: Any, **kwargs: Any) -> Tensor:
    """What a kernel gives on a device, checked: shape and type, and that it is what ran."""
    function = getattr(ops, op)
    with ops.use("reference"):
        wanted = function(*args, **kwargs)
    ops.reset_counts()
    with ops.use(kernel):
        given = function(*moved(args, device), **moved(kwargs, device))
    assert ops.counts() == {(op, kernel): 1}
    assert given.device.type == device.type
    assert given.shape == wanted.shape and given.dtype == wanted.dtype
    return given.cpu().to(torch.float64) - wanted.to(torch.float64)


def assert_equal(kernel: str, op: str, device: torch.device, *args: Any, **kwargs: Any) -> None:
    """A kernel gives on a device what the reference kernel gives on the CPU, bit by bit."""
    difference = compared(kernel, op, device, *args, **kwargs)
    assert not difference.count_nonzero(), f"{int(difference.count_nonzero())} codes differ"
