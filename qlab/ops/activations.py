"""Activation functions on codes.

Those that clamp keep the input's scale and zero point. The others are
``quantize_round_first(f(dequantize(x)))`` with ``f`` in float32.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from qlab.errors import ArgumentError, ShapeError
from qlab.ops import checks
from qlab.ops.codes import code_of, selected
from qlab.ops.kernels import defined
from qlab.qparams import QParams, dequantize, quantize_round_first


def _clamp(op: str, x: Tensor, x_qparams: QParams, low: float | None, high: float | None) -> Tensor:
    checks.codes(op, "input", x, x_qparams)
    checks.per_tensor(op, "input", x_qparams)
    if torch.compiler.is_compiling():
        limits = (None if value is None else _code(value, x_qparams) for value in (low, high))
        return x.clamp(*limits)
    least = None if low is None else code_of(low, x_qparams)
    most = None if high is None else code_of(high, x_qparams)
    if x.dtype.is_floating_point:
        return selected(lambda codes: codes.clamp(least, most), x)
    return x.clamp(least, most)


def _code(value: float, qparams: QParams) -> Tensor:
    """`qlab.ops.codes.code_of` as a tensor, which ``torch.compile`` can trace."""
    return quantize_round_first(torch.full_like(qparams.scale, value), qparams)


@defined
def relu(x: Tensor, x_qparams: QParams) -> Tensor:
    """``max(x, 0)``: codes clamped at the zero point; the output keeps the input's qparams.

    Args:
        x: Codes, any shape.
        x_qparams: Per tensor.

    Returns:
        Codes of the input's shape, type and qparams.

    Raises:
        DTypeError: Not codes of ``x_qparams.dtype``.
        ShapeError: Qparams are not per tensor.
    """
    return _clamp("relu", x, x_qparams, 0.0, None)


@defined
def relu6(x: Tensor, x_qparams: QParams) -> Tensor:
    """``min(max(x, 0), 6)``; the output keeps the input's qparams. As `relu` otherwise."""
    return _clamp("relu6", x, x_qparams, 0.0, 6.0)


@defined
def hardtanh(x: Tensor, x_qparams: QParams, min_val: float = -1.0, max_val: float = 1.0) -> Tensor:
    """``min(max(x, min_val), max_val)``; the output keeps the input's qparams.

    Args:
        x: Codes, any shape.
        x_qparams: Per tensor.
        min_val: Smallest result, real units.
        max_val: Largest result, real units.

    Raises:
        ArgumentError: ``min_val`` is not below ``max_val``.
    """
    min_val = checks.number("hardtanh", "min_val", min_val)
    max_val = checks.number("hardtanh", "max_val", max_val)
    if not min_val < max_val:
        raise ArgumentError(
            "hardtanh: the smallest result must be below the largest",
            received=f"min_val={min_val}, max_val={max_val}",
        )
    return _clamp("hardtanh", x, x_qparams, min_val, max_val)


def _through_float(
    op: str,
    function: Callable[[Tensor], Tensor],
    x: Tensor,
    x_qparams: QParams,
    y_qparams: QParams,
) -> Tensor:
    checks.codes(op, "input", x, x_qparams)
    checks.parameters(op, "output", y_qparams)
    return quantize_round_first(function(dequantize(x, x_qparams)), y_qparams)


@defined
def sigmoid(x: Tensor, x_qparams: QParams, y_qparams: QParams) -> Tensor:
    """``1 / (1 + exp(-x))``; the reference fixes the output at scale 1/256, zero point 0.

    Args:
        x: Codes, any shape.
        x_qparams: The input's parameters.
        y_qparams: The output's parameters.

    Returns:
        Codes of the input's shape, dtype ``y_qparams.dtype.storage``.

    Raises:
        DTypeError: Not codes of ``x_qparams.dtype``.
    """
    return _through_float("sigmoid", torch.sigmoid, x, x_qparams, y_qparams)


@defined
def tanh(x: Tensor, x_qparams: QParams, y_qparams: QParams) -> Tensor:
    """``tanh(x)``; the reference fixes the output at scale 2/256, zero point 128. See `sigmoid`."""
    return _through_float("tanh", torch.tanh, x, x_qparams, y_qparams)


@defined
def hardsigmoid(x: Tensor, x_qparams: QParams, y_qparams: QParams) -> Tensor:
    """``min(max(x + 3, 0), 6) / 6``; scale 1/256, zero point 0 in the reference. See `sigmoid`."""
    return _through_float("hardsigmoid", F.hardsigmoid, x, x_qparams, y_qparams)


@defined
def hardswish(x: Tensor, x_qparams: QParams, y_qparams: QParams) -> Tensor:
    """``x · min(max(x + 3, 0), 6) / 6``. Arguments as in `sigmoid`."""
    return _through_float("hardswish", F.hardswish, x, x_qparams, y_qparams)


@defined
def gelu(x: Tensor, x_qparams: QParams, y_qparams: QParams, *, approximate: str = "none") -> Tensor:
    """``x · Φ(x)``, Φ the normal distribution function. Arguments as in `sigmoid`.

    Args:
        x: Codes, any shape.
        x_qparams: The input's parameters.
        y_qparams: The output's parameters.
        approximate: ``"none"`` or ``"tanh"``.

    Raises:
        UnknownNameError: Another approximation.
    """
    checks.choice("gelu", "approximation", approximate, ("none", "tanh"))
    return _through_float(
        "gelu", lambda real: F.gelu(real, approximate=approximate), x, x_qparams, y_qparams
    )


@defined
def elu(x: Tensor, x_qparams: QParams, y_qparams: QParams, *, alpha: float = 1.0) -> Tensor:
    """``x`` if positive, else ``alpha · (exp(x) - 1)``. Arguments as in `sigmoid`."""
    alpha = checks.number("elu", "alpha", alpha)
    return _through_float("elu", lambda real: F.elu(real, alpha), x, x_qparams, y_qparams)


@defined
def celu(x: Tensor, x_qparams: QParams, y_qparams: QParams, *, alpha: float = 1.0) -> Tensor:
    """``x`` if positive, else ``alpha · (exp(x / alpha) - 1)``. Arguments as in `sigmoid`.

    Raises:
        ArgumentError: ``alpha`` is 0.
    """
    alpha = checks.number("celu", "alpha", alpha)
    if alpha == 0:
        raise ArgumentError("celu: alpha divides, so it must not be 0", received=alpha)
    return _through_float("celu", lambda real: F.celu(real, alpha), x, x_qparams, y_qparams)


@defined
def threshold(x: Tensor, x_qparams: QParams, threshold: float, value: float) -> Tensor:
    """``x`` if above ``threshold``, else ``value``; the output keeps the input's qparams.

    Args:
        x: Codes, any shape.
        x_qparams: Per tensor.
        threshold: Real units.
        value: Real units; where codes cannot express it, the nearest that they can.
    """
    checks.codes("threshold", "input", x, x_qparams)
    checks.per_tensor("threshold", "input", x_qparams)
    threshold = checks.number("threshold", "threshold", threshold)
    value = checks.number("threshold", "value", value)
    return _through_float(
        "threshold", lambda real: F.threshold(real, threshold, value), x, x_qparams, x_qparams
    )


@defined
def prelu(
    x: Tensor, x_qparams: QParams, weight: Tensor, w_qparams: QParams, y_qparams: QParams
) -> Tensor:
    """``x`` if positive, else ``w · x`` with a slope ``w`` for all or for each channel.

    Args:
        x: Codes; the channels are axis 1.
        x_qparams: The input's parameters.
        weight: Codes of shape (1,) or (channels,).
        w_qparams: The weight's parameters.
        y_qparams: The output's parameters.

    Returns:
        Codes of the input's shape, dtype ``y_qparams.dtype.storage``.

    Raises:
        DTypeError: Not codes of ``x_qparams.dtype`` or ``w_qparams.dtype``.
        ShapeError: Another number of slopes than channels.
    """
    checks.codes("prelu", "weight", weight, w_qparams)
    checks.tensor("prelu", "input", x)
    channels = x.shape[1] if x.dim() > 1 else 1
    if tuple(weight.shape) not in ((1,), (channels,)):
        raise ShapeError(
            "prelu: the weight does not fit the input",
            expected=f"shape (1,) or ({channels},)",
            received=f"shape {tuple(weight.shape)}",
        )
    checks.same_device("prelu", x, weight)
    slopes = dequantize(weight, w_qparams)
    return _through_float("prelu", lambda real: F.prelu(real, slopes), x, x_qparams, y_qparams)


@defined
def leaky_relu(
    x: Tensor, x_qparams: QParams, y_qparams: QParams, *, negative_slope: float = 0.01
) -> Tensor:
    """``x`` if positive, else ``negative_slope · x``. Arguments as in `sigmoid`."""
    negative_slope = checks.number("leaky_relu", "negative_slope", negative_slope)
    return _through_float(
        "leaky_relu", lambda real: F.leaky_relu(real, negative_slope), x, x_qparams, y_qparams
    )


@defined
def softmax(x: Tensor, x_qparams: QParams, y_qparams: QParams, *, dim: int = -1) -> Tensor:
    """``exp(x) / Σ exp(x)`` along ``dim``; scale 1/256, zero point 0 in the reference.

    Arguments as in `sigmoid`.

    Raises:
        ShapeError: The input has no axis ``dim``.
    """
    checks.tensor("softmax", "input", x)
    checks.axis("softmax", x, dim)
    return _through_float("softmax", lambda real: real.softmax(dim), x, x_qparams, y_qparams)
