"""What functions on quantized tensors do with their arguments and results."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from qlab.errors import DTypeError, UnsupportedError
from qlab.qparams import QParams
from qlab.qtensor import QTensor


def parts(function: str, what: str, value: Tensor) -> tuple[Tensor, QParams]:
    if not isinstance(value, QTensor):
        raise DTypeError(
            f"{function}: the {what} is not quantized",
            expected="a QTensor",
            received=str(getattr(value, "dtype", type(value).__name__)),
            fix="Use qlab.quantize_per_tensor (weights: qlab.quantize_per_channel) first.",
        )
    return value.codes, value.qparams


def keeping(op: Callable[..., Tensor], input: Tensor, *options: Any) -> QTensor:
    """An operator whose result has the input's parameters."""
    codes, qparams = parts(op.__name__, "input", input)
    return QTensor(op(codes, qparams, *options), qparams)


def scaled(
    op: Callable[..., Tensor], input: Tensor, scale: float, zero_point: int, **options: Any
) -> QTensor:
    """An operator whose result has parameters of its own, in the input's type."""
    codes, qparams = parts(op.__name__, "input", input)
    output = QParams.per_tensor(scale, zero_point, qparams.dtype, codes.device)
    return QTensor(op(codes, qparams, output, **options), output)


def _in_place(input: QTensor, result: QTensor) -> QTensor:
    """Writes a result over the input, scale and zero point included."""
    if input._is_view() and not input.qparams.same_as(result.qparams):
        raise UnsupportedError(
            "A view cannot take a scale of its own",
            fix="Leave out inplace=True, or clone the tensor first.",
        )
    input.codes.copy_(result.codes)
    input.qparams = result.qparams
    return input


def written(input: Tensor, result: QTensor, inplace: bool) -> QTensor:
    return _in_place(input, result) if inplace and isinstance(input, QTensor) else result
