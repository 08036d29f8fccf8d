"""Fusing two or three modules by hand, under the reference's names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from qlab.eager.fuse import fuse_known_modules
from qlab.errors import ArgumentError, UnknownNameError, UnsupportedError, check_type
from qlab.nn.intrinsic.fold import fold_batch_norm
from qlab.registry.backend.utils import pattern_to_human_readable


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


def fuse_convtranspose_bn(is_qat: bool, convt: nn.Module, bn: nn.Module) -> nn.Module:
    """A transposed convolution with its batch norm folded in.

    Args:
        is_qat: Must be False: there is no form for training.
        convt: ``nn.ConvTranspose1d``, ``nn.ConvTranspose2d`` or ``nn.ConvTranspose3d``.
        bn: The batch norm of the same rank.

    Raises:
        UnsupportedError: For training; or another class of layer; or no running statistics.
        ArgumentError: One is in training mode.
    """
    if is_qat:
        raise UnsupportedError(
            "A transposed convolution with batch norm has no form for training",
            fix="Train it unfused; fuse it in evaluation mode.",
        )
    if convt.training or bn.training:
        raise ArgumentError(
            "fuse_convtranspose_bn: a module is in training mode", fix="Call model.eval() first."
        )
    return fold_batch_norm(convt, bn)  # pyright: ignore[reportArgumentType]


def get_fuser_method_new(
    op_pattern: Any, fuser_method_mapping: Mapping[Any, Callable[..., nn.Module]]
) -> Callable[..., nn.Module]:
    """What fuses a chain, from a mapping such as `get_fuser_method_mapping` of a backend.

    Args:
        op_pattern: Classes of the chain, in order.
        fuser_method_mapping: Chain → method.

    Raises:
        UnknownNameError: The mapping has no such chain.
    """
    if op_pattern not in fuser_method_mapping:
        known = [pattern_to_human_readable(pattern) for pattern in fuser_method_mapping]
        given = pattern_to_human_readable(op_pattern)
        raise UnknownNameError.of("chain to fuse", str(given), map(str, known))
    return fuser_method_mapping[op_pattern]


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
    check_type("get_fuser_method", "op_list", op_list, Sequence, "classes, in order")
    given = (additional_fuser_method_mapping or {}).get(tuple(op_list))
    if given is not None:
        return given
    return lambda is_qat, *modules: fuse_known_modules(list(modules), is_qat)[0]
