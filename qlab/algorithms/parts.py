"""Steps of equalization and bias correction that code calls on its own: names, weights, ranges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from qlab.errors import ArgumentError, UnknownNameError, UnsupportedError
from qlab.nn.intrinsic.fold import core
from qlab.ops import checks

Named = str | nn.Module


def layer_of(module: nn.Module) -> Any:
    """The linear layer or convolution of a module: itself, or what a fused one holds.

    Raises:
        UnsupportedError: There is none.
    """
    inner = core(module)
    if not isinstance(inner, nn.Linear | _ConvNd):
        raise UnsupportedError(
            "Equalization knows linear layers and convolutions",
            expected="one of them, fused with an activation or not",
            received=type(module).__name__,
        )
    return inner


def get_module_weight(module: nn.Module) -> Tensor:
    """The weight of a linear layer or convolution, fused or not."""
    return layer_of(module).weight


def get_module_bias(module: nn.Module) -> Tensor | None:
    """The bias of a linear layer or convolution, fused or not."""
    return layer_of(module).bias


def has_bias(module: nn.Module) -> bool:
    """Whether a linear layer or convolution, fused or not, has a bias."""
    return get_module_bias(module) is not None


def set_module_weight(module: nn.Module, weight: Tensor) -> None:
    """Gives a linear layer or convolution, fused or not, a new parameter as its weight."""
    layer_of(module).weight = nn.Parameter(weight)


def set_module_bias(module: nn.Module, bias: Tensor) -> None:
    """Gives a linear layer or convolution, fused or not, a new parameter as its bias."""
    layer_of(module).bias = nn.Parameter(bias)


def max_over_ndim(input: Tensor, axis_list: Sequence[int], keepdim: bool = False) -> Tensor:
    """The largest value over several axes."""
    return input.amax(tuple(axis_list), keepdim) if axis_list else input


def min_over_ndim(input: Tensor, axis_list: Sequence[int], keepdim: bool = False) -> Tensor:
    """The smallest value over several axes."""
    return input.amin(tuple(axis_list), keepdim) if axis_list else input


def channel_range(input: Tensor, axis: int = 0) -> Tensor:
    """Largest minus smallest value of each channel, (channels,).

    Args:
        input: A weight.
        axis: The axis of the channels.

    Raises:
        ShapeError: There is no such axis.
    """
    channels = checks.axis("channel_range", input, axis)
    others = [other for other in range(input.dim()) if other != channels]
    return max_over_ndim(input, others) - min_over_ndim(input, others)


def get_name_by_module(model: nn.Module, module: nn.Module) -> str:
    """The path of a module in a model.

    Raises:
        ArgumentError: It is not one of the model's.
    """
    for name, found in model.named_modules():
        if found is module:
            return name
    raise ArgumentError(
        "Equalization: a module is not part of the model", received=type(module).__name__
    )


def get_module(model: nn.Module, name: str) -> nn.Module:
    """The module at a path.

    Raises:
        UnknownNameError: There is none; lists those that exist.
    """
    known = dict(model.named_modules())
    if name not in known:
        raise UnknownNameError.of("layer", name, known)
    return known[name]


def get_param(module: nn.Module, attr: str) -> Any:
    """A parameter of a float or quantized module, whose ``weight`` is a method; None without it."""
    found = getattr(module, attr, None)
    return found() if callable(found) else found


def process_paired_modules_list_to_name(
    model: nn.Module, paired_modules_list: Sequence[Sequence[Named]]
) -> list[list[str]]:
    """The paths of modules that are given as modules or paths.

    Raises:
        ArgumentError: A module that is not the model's.
        UnknownNameError: No such path; lists those that exist.
    """

    def name(item: Named) -> str:
        if isinstance(item, str):
            get_module(model, item)
            return item
        return get_name_by_module(model, item)

    return [[name(item) for item in group] for group in paired_modules_list]


def expand_groups_in_paired_modules_list(
    paired_modules_list: Sequence[Sequence[Any]],
) -> list[list[Any]]:
    """Groups of layers that follow one another as pairs of neighbours.

    Raises:
        ArgumentError: A group of one.
    """
    if short := [group for group in paired_modules_list if len(group) < 2]:
        raise ArgumentError(
            "Equalization needs two or more layers that follow one another",
            received=f"{list(short[0])}",
        )
    return [list(pair) for group in paired_modules_list for pair in pairwise(group)]


def converged(
    curr_modules: Mapping[str, nn.Module],
    prev_modules: Mapping[str, nn.Module | None],
    threshold: float = 1e-4,
) -> bool:
    """Whether weights moved by less than a threshold: the norms of the differences, summed.

    Args:
        curr_modules: Layers by path.
        prev_modules: The same as they were before; None where they are not known yet, and then
            the answer is no.
        threshold: In units of the weights.

    Raises:
        ArgumentError: The two have other paths.
    """
    if curr_modules.keys() != prev_modules.keys():
        raise ArgumentError(
            "converged: the layers before and after are not the same",
            expected=", ".join(sorted(curr_modules)),
            received=", ".join(sorted(prev_modules)),
        )
    moved = 0.0
    for name, module in curr_modules.items():
        before = prev_modules[name]
        if before is None:
            return False
        old = get_module_weight(before).detach()
        moved += float((get_module_weight(module).detach() - old).norm())
    return moved < threshold
