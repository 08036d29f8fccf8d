"""Fusing two or three modules by hand, under the reference's names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from qlab.eager.fuse import fuse_known_modules


def fuse_conv_bn(is_qat: bool, conv: nn.Module, bn: nn.Module) -> nn.Module:
    """A convolution with its batch norm: folded, or for training kept beside it.

    Args:
        is_qat: Whether the modules are fused for training.
        conv: ``nn.Conv1d``, ``nn.Conv2d`` or ``nn.Conv3d``.
        bn: The batch norm of the same rank.

    Raises:
        ArgumentError: No pattern fuses these, or their mode does not suit.
    """
    return fuse_known_modules([conv, bn], is_qat)[0]


def fuse_conv_bn_relu(is_qat: bool, conv: nn.Module, bn: nn.Module, relu: nn.Module) -> nn.Module:
    """As `fuse_conv_bn`, with a ReLU behind."""
    return fuse_known_modules([conv, bn, relu], is_qat)[0]


def fuse_linear_bn(is_qat: bool, linear: nn.Module, bn: nn.Module) -> nn.Module:
    """As `fuse_conv_bn`, of a linear layer and ``nn.BatchNorm1d``."""
    return fuse_known_modules([linear, bn], is_qat)[0]


def get_fuser_method(
    op_list: Sequence[type[nn.Module]],
    additional_fuser_method_mapping: Mapping[Any, Callable[..., nn.Module]] | None = None,
) -> Callable[..., nn.Module]:
    """What fuses modules of these classes: ``method(is_qat, *modules)``.

    Args:
        op_list: Their classes, in order.
        additional_fuser_method_mapping: Classes of a chain → method; goes before the registry's.

    Raises:
        ArgumentError: When called: no pattern fuses these classes.
    """
    given = (additional_fuser_method_mapping or {}).get(tuple(op_list))
    if given is not None:
        return given
    return lambda is_qat, *modules: fuse_known_modules(list(modules), is_qat)[0]
