"""Normalizations on codes: ``quantize_round_first(norm(dequantize(x)))``, norm in float32."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor
from torch.nn import functional as F

from qlab.errors import ArgumentError, ShapeError
from qlab.ops import checks
from qlab.ops import triton_elements as triton
from qlab.ops.kernels import accelerated, defined
from qlab.qparams import QParams, dequantize, quantize_round_first

#: Parameters without a value of their own.
_NEEDED = ("mean", "variance")


def _normalized(
    x: tuple[Tensor, QParams],
    norm: Callable[[Tensor], Tensor],
    y_qparams: QParams,
    relu: bool = False,
) -> Tensor:
    checks.parameters("normalization", "output", y_qparams)
    checks.switch("normalization", "relu", relu)
    real = norm(dequantize(*x))
    return quantize_round_first(real.relu_() if relu else real, y_qparams)


def _check(
    op: str,
    x: tuple[Tensor, QParams],
    shape: Sequence[int],
    eps: float,
    parameters: dict[str, Tensor | None],
) -> None:
    checks.codes(op, "input", *x)
    if not checks.number(op, "eps", eps) >= 0:
        raise ArgumentError(f"{op}: eps must not be negative", received=eps)
    for what, value in parameters.items():
        if value is not None or what in _NEEDED:
            checks.vector(op, what, value, shape)
        if value is not None:
            checks.same_device(op, x[0], value)


def _channels(op: str, x: Tensor, least: int) -> tuple[int]:
    checks.tensor(op, "input", x)
    checks.dims(op, "input", x, range(least, 6), "channels along axis 1")
    return (x.shape[1],)


@defined
def batch_norm(
    x: Tensor,
    x_qparams: QParams,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    var: Tensor,
    eps: float,
    y_qparams: QParams,
    *,
    relu: bool = False,
) -> Tensor:
    """``(x - mean) / sqrt(var + eps) · weight + bias`` per channel, with running statistics.

    Args:
        x: Codes of shape (N, C) or (N, C, *spatial).
        x_qparams: The input's parameters.
        weight: float32 (C,), or None for 1.
        bias: float32 (C,), or None for 0.
        mean: float32 (C,), running mean.
        var: float32 (C,), running variance.
        eps: Added to the variance.
        y_qparams: The output's parameters.
        relu: Clamp negative results to 0 before quantization.

    Returns:
        Codes of the input's shape, dtype ``y_qparams.dtype.storage``.

    Raises:
        DTypeError: Not codes of ``x_qparams.dtype``, or parameters that are not float32.
        ShapeError: Parameters that do not fit the channels.
        ArgumentError: ``eps`` is negative.
    """
    shape = _channels("batch_norm", x, least=2)
    parameters = {"weight": weight, "bias": bias, "mean": mean, "variance": var}
    _check("batch_norm", (x, x_qparams), shape, eps, parameters)
    return _normalized(
        (x, x_qparams),
        lambda real: F.batch_norm(real, mean, var, weight, bias, eps=eps),
        y_qparams,
        relu,
    )


@accelerated(triton=(triton.layer_norm_obstacle, triton.layer_norm))
def layer_norm(
    x: Tensor,
    x_qparams: QParams,
    normalized_shape: Sequence[int],
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    y_qparams: QParams,
) -> Tensor:
    """``(x - mean) / sqrt(var + eps) · weight + bias`` over the last axes.

    Args:
        x: Codes of shape (*, *normalized_shape).
        x_qparams: The input's parameters.
        normalized_shape: Lengths of the axes over which mean and variance are taken.
        weight: float32 of ``normalized_shape``, or None for 1.
        bias: float32 of ``normalized_shape``, or None for 0.
        eps: Added to the variance.
        y_qparams: The output's parameters.

    Returns:
        Codes of the input's shape, dtype ``y_qparams.dtype.storage``.

    Raises:
        DTypeError: Not codes of ``x_qparams.dtype``, or parameters that are not float32.
        ShapeError: The input does not end in ``normalized_shape``, or parameters do not have it.
        ArgumentError: ``eps`` is negative.
    """
    if not isinstance(normalized_shape, Sequence):
        raise ArgumentError(
            "layer_norm: the normalized shape is no sequence of lengths",
            received=repr(normalized_shape),
        )
    shape = tuple(normalized_shape)
    _check("layer_norm", (x, x_qparams), shape, eps, {"weight": weight, "bias": bias})
    if not shape or tuple(x.shape[-len(shape) :]) != shape:
        raise ShapeError(
            "layer_norm: the input does not end in the normalized shape",
            expected=f"shape (*, {', '.join(map(str, shape))})",
            received=f"shape {tuple(x.shape)}",
        )
    return _normalized(
        (x, x_qparams), lambda real: F.layer_norm(real, shape, weight, bias, eps), y_qparams
    )


@defined
def group_norm(
    x: Tensor,
    x_qparams: QParams,
    num_groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    y_qparams: QParams,
) -> Tensor:
    """``(x - mean) / sqrt(var + eps) · weight + bias`` over each group of channels of a sample.

    Args:
        x: Codes of shape (N, C, *spatial).
        x_qparams: The input's parameters.
        num_groups: Divides C.
        weight: float32 (C,), or None for 1.
        bias: float32 (C,), or None for 0.
        eps: Added to the variance.
        y_qparams: The output's parameters.

    Returns:
        Codes of the input's shape, dtype ``y_qparams.dtype.storage``.

    Raises:
        DTypeError: Not codes of ``x_qparams.dtype``, or parameters that are not float32.
        ShapeError: Groups that do not divide the channels, or parameters that do not fit them.
        ArgumentError: ``eps`` is negative.
    """
    shape = _channels("group_norm", x, least=2)
    _check("group_norm", (x, x_qparams), shape, eps, {"weight": weight, "bias": bias})
    checks.whole_numbers("group_norm", "number of groups", num_groups, 1, minimum=0)
    if num_groups < 1 or shape[0] % num_groups:
        raise ShapeError(
            "group_norm: the groups do not divide the channels",
            expected=f"a divisor of {shape[0]}",
            received=f"{num_groups} groups",
        )
    return _normalized(
        (x, x_qparams), lambda real: F.group_norm(real, num_groups, weight, bias, eps), y_qparams
    )


@defined
def instance_norm(
    x: Tensor,
    x_qparams: QParams,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    y_qparams: QParams,
) -> Tensor:
    """`group_norm` with one group per channel: mean and variance of each sample and channel.

    Args:
        x: Codes of shape (N, C, *spatial), more than one element per channel.
        x_qparams: The input's parameters.
        weight: float32 (C,), or None for 1.
        bias: float32 (C,), or None for 0.
        eps: Added to the variance.
        y_qparams: The output's parameters.

    Returns:
        Codes of the input's shape, dtype ``y_qparams.dtype.storage``.

    Raises:
        DTypeError: Not codes of ``x_qparams.dtype``, or parameters that are not float32.
        ShapeError: Parameters that do not fit the channels.
        ArgumentError: ``eps`` is negative.
    """
    shape = _channels("instance_norm", x, least=3)
    _check("instance_norm", (x, x_qparams), shape, eps, {"weight": weight, "bias": bias})
    return _normalized(
        (x, x_qparams),
        lambda real: F.group_norm(real, shape[0], weight, bias, eps),
        y_qparams,
    )
