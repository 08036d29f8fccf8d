"""Folding batch normalization into the convolution or linear layer before it."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from qlab.errors import ShapeError, UnsupportedError
from qlab.nn.aware import QuantizationAware
from qlab.nn.intrinsic.fused import FusedModule


def folded_weights(
    weight: Tensor, bias: Tensor | None, batch_norm: _BatchNorm, *, axis: int = 0, groups: int = 1
) -> tuple[Tensor, Tensor]:
    """Weight and bias of the one layer that does what layer and batch norm did in turn.

    With running mean μ and variance σ², and the batch norm's γ and β per output channel:

    ``w' = w * γ / sqrt(σ² + ε)`` and ``b' = (b - μ) * γ / sqrt(σ² + ε) + β``

    computed in float64 and rounded once.

    Args:
        weight: (output channels, …), floating point.
        bias: (output channels,) or None.
        batch_norm: With running statistics; γ = 1 and β = 0 where it has none of its own.
        axis: The weight's axis of output channels: 1 for transposed convolutions.
        groups: Of a transposed convolution, whose axis 1 is that of one group.

    Returns:
        Weight and bias in the dtype of ``weight``, shapes as given, (output channels,).

    Raises:
        UnsupportedError: The batch norm keeps no running statistics.
        ShapeError: It normalizes another number of channels than the layer puts out.

    Source: Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference", section 3.2.
    """
    mean, var = batch_norm.running_mean, batch_norm.running_var
    if mean is None or var is None:
        raise UnsupportedError(
            "A batch norm without running statistics cannot be folded",
            expected="track_running_stats=True",
            received=repr(batch_norm),
            fix="Leave it unfused, or train it with running statistics.",
        )
    channels = weight.shape[axis] * (groups if axis else 1)
    if mean.shape[0] != channels:
        raise ShapeError(
            "The batch norm does not fit the layer before it",
            expected=f"{channels} channels",
            received=f"{mean.shape[0]} channels",
        )
    factor = (var.double() + batch_norm.eps).rsqrt()
    if batch_norm.weight is not None:
        factor = factor * batch_norm.weight.double()
    shift = -mean.double() if bias is None else bias.double() - mean.double()
    shift = shift * factor
    if batch_norm.bias is not None:
        shift = shift + batch_norm.bias.double()
    spread = [1] * (weight.dim() - 1)
    if axis == 0:
        per_channel = factor.reshape(-1, *spread)
    else:  # (input channels, output channels of a group, …), group after group along axis 0
        rows = factor.reshape(groups, 1, -1).expand(-1, weight.shape[0] // groups, -1)
        per_channel = rows.reshape(weight.shape[0], -1, *spread[1:])
    return (weight.double() * per_channel).to(weight.dtype), shift.to(weight.dtype)


def fold_batch_norm(layer: nn.Module, batch_norm: _BatchNorm) -> nn.Module:
    """A copy of a convolution or linear layer with a batch norm folded into it.

    Args:
        layer: A convolution of ``torch.nn``, transposed or not, or ``nn.Linear``.
        batch_norm: The batch norm that follows it, with running statistics.

    Returns:
        A layer of the same class with a bias; hooks and attributes are copied with it.

    Raises:
        UnsupportedError: Another class of layer, or no running statistics.
        ShapeError: The channels do not match.
    """
    transposed = isinstance(layer, (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d))
    if not (transposed or isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear))):
        raise UnsupportedError(
            "Batch norm cannot be folded into this layer",
            expected="Conv1d, Conv2d, Conv3d, their transposed forms, or Linear",
            received=type(layer).__name__,
        )
    how = {"axis": 1, "groups": layer.groups} if transposed else {}
    with torch.no_grad():
        weight, bias = folded_weights(layer.weight, layer.bias, batch_norm, **how)
    folded = deepcopy(layer)
    folded.weight = nn.Parameter(weight, requires_grad=layer.weight.requires_grad)
    folded.bias = nn.Parameter(bias, requires_grad=layer.weight.requires_grad)
    return folded


def core(module: nn.Module) -> nn.Module:
    """The layer of a fused module that carries the weights, batch norm folded in.

    Args:
        module: A module of `qlab.nn.intrinsic`, quantization-aware or not, or any other.

    Returns:
        For ``ConvBnReLU2d``: a folded copy of its convolution; for ``LinearReLU``: its linear
        layer; for a module that is not fused: itself.
    """
    if isinstance(module, QuantizationAware):
        return core(module.to_float())
    if not isinstance(module, FusedModule):
        return module
    first, *rest = module
    if not isinstance(first, _BatchNorm) and rest and isinstance(rest[0], _BatchNorm):
        return fold_batch_norm(first, rest[0])
    return first


def hooked(module: nn.Module) -> bool:
    """Whether calling a module, or a part of it, does more than its forward says."""
    return any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())
