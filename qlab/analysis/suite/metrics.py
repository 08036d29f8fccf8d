"""Errors between two tensors, as the reference's numeric suite names them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from qlab.analysis.metrics import ErrorSums
from qlab.errors import DTypeError, NonFiniteError
from qlab.qtensor import QTensor


def compute_sqnr(x: Any, y: Any) -> Any:
    """Signal to quantization noise ratio in dB: ``20 log10(‖x‖ / ‖x - y‖)``, higher is better.

    Zero signal and zero noise are defined as in `qlab.analysis.metrics`: inf where ``x`` and ``y``
    are equal.

    Args:
        x: The reference: a tensor of real numbers, a `QTensor`, or a tuple or list of such.
        y: What is compared with it; the same shape.

    Returns:
        A float32 tensor of no axes; None where a tensor holds whole numbers; NaN where one holds
        NaN or infinity. For tuples and lists a list of them.

    Raises:
        ShapeError: The shapes differ.
        DTypeError: A tensor and a tuple, or something else.
    """
    return _compared("compute_sqnr", x, y, lambda sums: sums.sqnr)


def compute_normalized_l2_error(x: Any, y: Any) -> Any:
    """``sqrt(sum (x - y)^2 / sum x^2)``, lower is better; otherwise as `compute_sqnr`."""
    return _compared("compute_normalized_l2_error", x, y, lambda sums: math.sqrt(sums.nmse))


def compute_cosine_similarity(x: Any, y: Any) -> Any:
    """``sum xy / (‖x‖ ‖y‖)``, higher is better; shape (1,), otherwise as `compute_sqnr`.

    The tensors are read as long vectors: their shapes may differ in axes of length 1.
    """
    name = "compute_cosine_similarity"
    return _compared(name, x, y, lambda sums: sums.cosine, flat=True)


def _compared(
    name: str, x: Any, y: Any, metric: Callable[[ErrorSums], float], flat: bool = False
) -> Any:
    if isinstance(x, tuple | list) and isinstance(y, tuple | list):
        return [_compared(name, a, b, metric, flat) for a, b in zip(x, y, strict=True)]
    if not (isinstance(x, Tensor) and isinstance(y, Tensor)):
        raise DTypeError(
            f"{name}: two tensors are compared, or two tuples of tensors",
            received=f"{type(x).__name__} and {type(y).__name__}",
        )
    x, y = _real(x), _real(y)
    if not (x.is_floating_point() and y.is_floating_point()):
        return None
    sums = ErrorSums()
    try:
        sums.update(x.reshape(-1), y.reshape(-1)) if flat else sums.update(x, y)
        value = metric(sums)
    except NonFiniteError:
        value = math.nan
    return torch.tensor([value] if flat else value, dtype=torch.float32, device=x.device)


def _real(tensor: Tensor) -> Tensor:
    return tensor.dequantize() if isinstance(tensor, QTensor) else tensor
