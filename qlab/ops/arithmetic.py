"""Quantize, dequantize, and the operators that bring several tensors to one scale."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from qlab import qparams as rounding
from qlab.errors import ArgumentError
from qlab.ops import checks, compiled
from qlab.ops import triton_elements as triton
from qlab.ops.kernels import accelerated, defined
from qlab.qparams import QParams


@accelerated(
    compiled=(compiled.quantize_obstacle, compiled.quantize),
    triton=(triton.quantize_obstacle, triton.quantize),
)
def quantize(x: Tensor, qparams: QParams) -> Tensor:
    """Codes of real numbers: `qlab.qparams.quantize`, counted as an operator.

    Args:
        x: Real numbers, any floating dtype and shape. NaN gives the zero point, infinities the
            end codes.
        qparams: Scale and zero point; their shape must fit ``x``.

    Returns:
        Codes, dtype ``qparams.dtype.storage``, the shape of ``x``.

    Raises:
        DTypeError: ``x`` is not floating point.
        ShapeError: Scales and ``x`` do not fit.
    """
    checks.tensor("quantize", "input", x)
    checks.parameters("quantize", "output", qparams)
    return rounding.quantize(x, qparams)


@accelerated(
    compiled=(compiled.dequantize_obstacle, compiled.dequantize),
    triton=(triton.dequantize_obstacle, triton.dequantize),
)
def dequantize(codes: Tensor, qparams: QParams) -> Tensor:
    """Real numbers of codes, ``(q - z) · s``: `qlab.qparams.dequantize`, counted.

    Args:
        codes: Tensor of dtype ``qparams.dtype.storage``, any shape.
        qparams: Scale and zero point the codes were made with.

    Returns:
        float32, the shape of ``codes``.

    Raises:
        DTypeError: ``codes`` has another storage type.
        ShapeError: Scales and ``codes`` do not fit.
    """
    checks.codes("dequantize", "input", codes, qparams)
    return rounding.dequantize(codes, qparams)


def _rounded(real: Tensor, y_qparams: QParams, relu: bool) -> Tensor:
    return rounding.quantize_round_first(real.relu() if relu else real, y_qparams)


def _combine(
    function: Callable[[Tensor, Tensor], Tensor],
    a: tuple[Tensor, QParams],
    b: tuple[Tensor, QParams],
    y_qparams: QParams,
    relu: bool,
) -> Tensor:
    op = function.__name__
    checks.codes(op, "first operand", *a)
    checks.codes(op, "second operand", *b)
    checks.broadcastable(op, a[0], b[0])
    checks.same_device(op, a[0], b[0])
    checks.parameters(op, "output", y_qparams)
    checks.switch(op, "relu", relu)
    real = function(rounding.dequantize(*a), rounding.dequantize(*b))
    return _rounded(real, y_qparams, relu)


@accelerated(
    compiled=(compiled.add_obstacle, compiled.add), triton=(triton.combine_obstacle, triton.add)
)
def add(
    a: Tensor,
    a_qparams: QParams,
    b: Tensor,
    b_qparams: QParams,
    y_qparams: QParams,
    *,
    relu: bool = False,
) -> Tensor:
    """``a + b``, broadcast, in real numbers: ``quantize_round_first(dequantize(a) + …(b))``.

    Args:
        a: Codes.
        a_qparams: Parameters of ``a``.
        b: Codes whose shape broadcasts with that of ``a``.
        b_qparams: Parameters of ``b``.
        y_qparams: The output's parameters.
        relu: Clamp negative results to 0 before quantization.

    Returns:
        Codes, dtype ``y_qparams.dtype.storage``.

    Raises:
        DTypeError: Not codes of the given types.
        ShapeError: The shapes do not broadcast.
    """
    return _combine(operator.add, (a, a_qparams), (b, b_qparams), y_qparams, relu)


@accelerated(triton=(triton.combine_obstacle, triton.mul))
def mul(
    a: Tensor,
    a_qparams: QParams,
    b: Tensor,
    b_qparams: QParams,
    y_qparams: QParams,
    *,
    relu: bool = False,
) -> Tensor:
    """``a · b``, element by element. Arguments, result and errors as in `add`."""
    return _combine(operator.mul, (a, a_qparams), (b, b_qparams), y_qparams, relu)


@defined
def cat(
    tensors: Sequence[Tensor], qparams: Sequence[QParams], dim: int, y_qparams: QParams
) -> Tensor:
    """Concatenation along ``dim``.

    Operands whose qparams are the output's are copied bit by bit; the others are requantized,
    ``quantize_round_first(dequantize(x))``.

    Args:
        tensors: Codes; equal shapes except along ``dim``.
        qparams: Parameters of each, in order.
        dim: The axis that grows.
        y_qparams: The output's parameters, per tensor.

    Returns:
        Codes, dtype ``y_qparams.dtype.storage``.

    Raises:
        ArgumentError: No tensors, not one qparams for each, or shapes that do not fit.
        DTypeError: Not codes of the given types.
    """
    several = isinstance(tensors, Sequence) and isinstance(qparams, Sequence)
    if not several or not tensors or len(tensors) != len(qparams):
        raise ArgumentError(
            "cat: every operand needs its qparams",
            expected="at least one tensor, and as many qparams as tensors",
            received=f"{len(tensors)} tensors and {len(qparams)} qparams"
            if several
            else f"{type(tensors).__name__} and {type(qparams).__name__}",
        )
    checks.parameters("cat", "output", y_qparams)
    for index, (x, x_qparams) in enumerate(zip(tensors, qparams, strict=True)):
        checks.codes("cat", f"operand {index}", x, x_qparams)
    parts = [_to(y_qparams, x, x_qparams) for x, x_qparams in zip(tensors, qparams, strict=True)]
    with checks.torch_refusal("cat", [tuple(x.shape) for x in tensors]):
        return torch.cat(parts, dim)


def _to(y_qparams: QParams, x: Tensor, x_qparams: QParams) -> Tensor:
    if x_qparams is y_qparams or x_qparams.same_as(y_qparams):
        return x
    return _rounded(rounding.dequantize(x, x_qparams), y_qparams, relu=False)
