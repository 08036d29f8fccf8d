"""Second moments of a layer's inputs: they give the error of its output for any change of weights.

A linear layer or convolution is ``y = W x`` for every column x that its weight meets, so that with
``H = Σ x xᵀ`` over all data the squared error of an output channel whose weights change by d is
``dᵀ H d``: exact, and without another pass over the data.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qlab.errors import ArgumentError, ShapeError, UnsupportedError
from qlab.nn.intrinsic.fold import core

_COLUMN_ELEMENTS = 2**24  # that are laid out at once: 64 MiB


@dataclass(frozen=True, eq=False)
class Moments:
    """``Σ x xᵀ`` over the columns x that a weight meets, for each group of input channels.

    Attributes:
        sums: float64 (G, I, I): G is the layer's ``groups``, 1 for a linear layer, I the number of
            weights of an output channel.
        magnitudes: ``Σ |x|``, float64 (G, I).
        columns: How many columns there were.
    """

    sums: Tensor
    magnitudes: Tensor
    columns: int

    @classmethod
    def of(cls, layer: nn.Module, inputs: Iterable[Tensor]) -> Moments:
        """The moments of a layer's inputs.

        Args:
            layer: A linear layer or convolution, fused or not.
            inputs: What it reads, batch by batch.

        Raises:
            UnsupportedError: It is neither.
            ArgumentError: There are no inputs.
        """
        inner, found = linear_map(layer), None
        for batch in inputs:
            for part in _parts(inner, batch):
                wide = columns_of(inner, part.detach()).to(torch.float64)
                own = cls(wide.transpose(1, 2) @ wide, wide.abs().sum(1), wide.shape[1])
                found = own if found is None else found + own
        if found is None or not found.columns:
            raise ArgumentError(
                "Moments need inputs", expected="at least one batch", received="none"
            )
        return found

    def __add__(self, other: Moments) -> Moments:
        """The moments of both sets of inputs together."""
        return Moments(
            self.sums + other.sums, self.magnitudes + other.magnitudes, self.columns + other.columns
        )

    def grouped(self, weight: Tensor) -> Tensor:
        """A weight of shape (O, …) as float64 (G, O / G, I).

        Raises:
            ShapeError: It is no weight of the layer.
        """
        groups, length = self.sums.shape[0], self.sums.shape[-1]
        if weight.numel() % (groups * length) or weight.numel() != weight.shape[0] * length:
            raise ShapeError(
                "The weight does not fit the moments",
                expected=f"{groups} groups of output channels with {length} weights each",
                received=f"shape {tuple(weight.shape)}",
            )
        return weight.detach().to(torch.float64).reshape(groups, -1, length)

    def errors(self, change: Tensor) -> Tensor:
        """Squared error of each output channel over all data, if its weights change so.

        Args:
            change: The change, in the weight's shape (O, …).

        Returns:
            ``dᵀ H d`` of each output channel, float64 (O,).
        """
        rows = self.grouped(change)
        return ((rows @ self.sums) * rows).sum(-1).clamp(min=0).reshape(-1)

    def signal(self, weight: Tensor) -> float:
        """``Σ y²`` over all data and output channels, without bias."""
        return float(self.errors(weight).sum())

    def scaled(self, factors: Tensor) -> Moments:
        """The moments of inputs whose channels are multiplied by ``factors``.

        Args:
            factors: (I,) for a linear layer, or of another layer one per weight of an output
                channel; the same for all groups.
        """
        wide = factors.to(self.sums)
        sums = self.sums * wide * wide.unsqueeze(-1)
        return Moments(sums, self.magnitudes * wide.abs(), self.columns)


def linear_map(layer: nn.Module) -> Any:
    """The linear layer or convolution inside a layer.

    Raises:
        UnsupportedError: It is neither; names its type.
    """
    inner = core(layer)
    known = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    if not isinstance(inner, known):
        raise UnsupportedError(
            "Its output is no product of one weight with columns of its input",
            expected="a linear layer or a convolution",
            received=type(inner).__name__,
        )
    return inner


def columns_of(layer: nn.Module, x: Tensor) -> Tensor:
    """What a layer's weight is multiplied with.

    Args:
        layer: A linear layer or convolution.
        x: Its input.

    Returns:
        (G, N, I): N columns of I numbers for each group of input channels.
    """
    if isinstance(layer, nn.Linear):
        return x.reshape(1, -1, x.shape[-1])
    conv: Any = layer
    rank = len(conv.kernel_size)
    batched = x if x.ndim == rank + 2 else x.unsqueeze(0)
    mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
    windows = F.pad(batched, conv._reversed_padding_repeated_twice, mode=mode)
    for axis in range(rank):
        kernel, stride, dilation = (
            int(setting[axis]) for setting in (conv.kernel_size, conv.stride, conv.dilation)
        )
        reach = dilation * (kernel - 1) + 1
        windows = windows.unfold(2 + axis, reach, stride)[..., ::dilation]
    places = windows.movedim(1, 1 + rank)  # (N, *out, C, *kernel)
    groups = conv.groups
    return places.reshape(places.shape[: 1 + rank].numel(), groups, -1).transpose(0, 1)


def _parts(layer: Any, x: Tensor) -> Iterable[Tensor]:
    """A batch in parts whose columns are small enough to lie in memory."""
    if isinstance(layer, nn.Linear) or x.ndim != len(layer.kernel_size) + 2:
        return (x,)
    per_sample = x[0].numel() * int(torch.tensor(layer.kernel_size).prod())
    return x.split(max(1, _COLUMN_ELEMENTS // max(per_sample, 1)))
