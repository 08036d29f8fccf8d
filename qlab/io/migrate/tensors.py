"""Quantized tensors of the reference, read through their methods."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from qlab.dtypes import QDType, as_qdtype
from qlab.errors import UnsupportedError
from qlab.granularity import PerAxis, PerTensor
from qlab.qparams import QParams
from qlab.qtensor import QTensor

_PACKED = "quint4x2"


def is_quantized(value: Any) -> bool:
    """Whether a value is a quantized tensor of the reference."""
    return not isinstance(value, QTensor) and bool(getattr(value, "is_quantized", False))


def dtype_of(dtype: Any) -> QDType:
    """The data type that one of the reference's names means, such as ``torch.quint8``.

    Raises:
        UnknownNameError: It means none.
    """
    return as_qdtype(str(dtype).removeprefix("torch.").replace(_PACKED, "quint4"))


def quantized(tensor: Any) -> QTensor:
    """The same codes, scales and zero points.

    Args:
        tensor: A quantized tensor of the reference: ``int_repr()``, ``qscheme()``, and the
            accessors of its scales.

    Raises:
        UnsupportedError: A scheme that is not known.
    """
    dtype, scheme = dtype_of(tensor.dtype), str(tensor.qscheme()).removeprefix("torch.")
    codes = tensor.int_repr()
    if str(tensor.dtype).endswith(_PACKED):
        codes = _unpacked(codes, tuple(tensor.shape))
    if scheme == "per_tensor_affine":
        scale = torch.tensor(tensor.q_scale(), dtype=torch.float32)
        zero_point = torch.tensor(tensor.q_zero_point(), dtype=torch.int32)
        return QTensor(codes, QParams(scale, zero_point, dtype, PerTensor()))
    if scheme not in ("per_channel_affine", "per_channel_affine_float_qparams"):
        raise UnsupportedError("A quantized tensor of a scheme that is not known", received=scheme)
    zeros = tensor.q_per_channel_zero_points()
    floating = scheme.endswith("float_qparams")
    qparams = QParams(
        tensor.q_per_channel_scales().float(),
        zeros.float() if floating else zeros.int(),
        dtype,
        PerAxis(tensor.q_per_channel_axis()),
    )
    return QTensor(codes, qparams)


def _unpacked(packed: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Codes of four bits from bytes that hold two each, the first in the lower half."""
    halves = torch.stack([packed.flatten() & 15, packed.flatten() >> 4], dim=-1)
    return halves.flatten()[: math.prod(shape)].reshape(shape)
