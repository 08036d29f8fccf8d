"""What the kernels of `QTensor` ask of their operands."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from qlab.errors import UnsupportedError
from qlab.qtensor.tensor import QTensor

Args = tuple[Any, ...]
Kwargs = dict[str, Any]


def operator_name(func: OpOverload) -> str:
    return func.overloadpacket.__name__


def quantized(func: OpOverload, value: object) -> QTensor:
    if not isinstance(value, QTensor):
        raise UnsupportedError(
            f"{operator_name(func)} of a plain and a quantized tensor together is not supported",
            expected="a QTensor as first argument, and no other",
            received=f"a {type(value).__name__} as first argument",
            fix="Call .dequantize() on the quantized tensor first.",
        )
    return value


def per_tensor(func: OpOverload, value: object) -> QTensor:
    q = quantized(func, value)
    if not q.qparams.per_tensor_granularity:
        raise UnsupportedError(
            f"{operator_name(func)} needs one scale for the whole quantized tensor",
            received=q.qparams.granularity,
            fix="Call .dequantize() first.",
        )
    return q


def movable(codes: Tensor) -> Tensor:
    """float8 codes as bytes, which more operators can move."""
    return codes.view(torch.uint8) if codes.dtype.is_floating_point else codes


def real_value(value: Any) -> Any:
    return value.dequantize() if isinstance(value, QTensor) else value
