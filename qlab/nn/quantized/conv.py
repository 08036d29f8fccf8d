"""Quantized convolutions: one class, whose names fix the rank."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn.modules.utils import _ntuple

from qlab import ops
from qlab.errors import ArgumentError, UnknownNameError
from qlab.nn import intrinsic as nni
from qlab.nn.quantized.packed_params import ConvPackedParams
from qlab.nn.quantized.weighted import WeightedModule

Ints = int | Sequence[int]


_PADDING_MODES = ("zeros", "reflect", "replicate", "circular")


def _check_groups(owner: str, in_channels: int, out_channels: int, groups: int) -> None:
    whole = all(isinstance(number, int) for number in (in_channels, out_channels, groups))
    if not whole or groups < 1 or in_channels % groups or out_channels % groups:
        raise ArgumentError(
            f"{owner}: the channels do not divide into groups",
            expected="in_channels and out_channels divisible by groups",
            received=f"in_channels={in_channels!r}, out_channels={out_channels!r}, "
            f"groups={groups!r}",
        )


class _AnyConv(WeightedModule):
    """What convolutions and transposed ones share."""

    rank: ClassVar[int]
    in_channels: int
    out_channels: int
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def _packed_params(self) -> ConvPackedParams:
        """The weight as code written for the reference asks for it."""
        return ConvPackedParams(self)

    def _shown(self, plain: dict[str, Any]) -> str:
        """Sizes and output, and those of some attributes that differ from their plain values."""
        shown = [f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}"]
        shown += [f"stride={self.stride}", *self._shown_output()]
        shown += [f"{k}={getattr(self, k)}" for k, v in plain.items() if getattr(self, k) != v]
        shown += [] if self.bias() is not None else ["bias=False"]
        return ", ".join([*shown, *self._shown_weight()])


class _ConvNd(_AnyConv):
    """Cross-correlation on codes over ``rank`` axes; see `qlab.ops.conv2d` for the exact formula.

    A new module has a weight of zeros; `from_float`, `from_qparams`, `set_weight_bias` or
    ``load_state_dict`` give it its numbers.

    Args:
        in_channels: Channels of the input, its axis 1.
        out_channels: Channels of the output.
        kernel_size: Size of the window, one number or one per axis.
        stride: Step of the window.
        padding: Elements on both sides, or ``"valid"`` or ``"same"``; zeros are the zero point.
        dilation: Distance between elements of the window.
        groups: Channel groups that do not see each other.
        bias: Whether there is a bias.
        padding_mode: ``"zeros"``, ``"reflect"``, ``"replicate"`` or ``"circular"``.
        device: Where the buffers lie.
        dtype: Kept for the reference's sake; the bias is float32.

    Raises:
        ArgumentError: The channels do not divide into the groups, or a size is not positive.
    """

    fields = (
        "in_channels",
        "out_channels",
        "kernel_size",
        "stride",
        "padding",
        "dilation",
        "groups",
        "padding_mode",
    )

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Ints,
        stride: Ints = 1,
        padding: Ints | str = 0,
        dilation: Ints = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        _check_groups(type(self).__name__, in_channels, out_channels, groups)
        if padding_mode not in _PADDING_MODES:
            raise UnknownNameError.of("padding mode", str(padding_mode), _PADDING_MODES)
        per_axis = _ntuple(self.rank)
        kernel = tuple(per_axis(kernel_size))
        super().__init__((out_channels, in_channels // groups, *kernel), bias)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = kernel
        self.stride = tuple(per_axis(stride))
        self.padding = padding if isinstance(padding, str) else tuple(per_axis(padding))
        self.dilation = tuple(per_axis(dilation))
        self.groups = groups
        self.padding_mode = padding_mode
        self.to(device)

    def _options(self) -> dict[str, Any]:
        names = ("stride", "padding", "dilation", "groups", "padding_mode", "relu")
        return {name: getattr(self, name) for name in names}

    def _example(self) -> tuple[int, ...]:
        window = zip(self.kernel_size, self.dilation, strict=True)
        return (1, self.in_channels, *((size - 1) * step + 1 for size, step in window))

    def extra_repr(self) -> str:
        zeros, ones = (0,) * self.rank, (1,) * self.rank
        plain = {"padding": zeros, "dilation": ones, "groups": 1, "padding_mode": "zeros"}
        return self._shown(plain)


class Conv1d(_ConvNd):
    __doc__ = _ConvNd.__doc__
    rank = 1
    float_types = (nn.Conv1d, nni.ConvBn1d)
    op = staticmethod(ops.conv1d)


class Conv2d(_ConvNd):
    __doc__ = _ConvNd.__doc__
    rank = 2
    float_types = (nn.Conv2d, nni.ConvBn2d)
    op = staticmethod(ops.conv2d)


class Conv3d(_ConvNd):
    __doc__ = _ConvNd.__doc__
    rank = 3
    float_types = (nn.Conv3d, nni.ConvBn3d)
    op = staticmethod(ops.conv3d)


class _ConvTransposeNd(_AnyConv):
    """Transposed convolution on codes over ``rank`` axes; see `qlab.ops.conv_transpose2d`.

    A new module has a weight of zeros; `from_float`, `from_qparams`, `set_weight_bias` or
    ``load_state_dict`` give it its numbers. Output channels lie along axis 1 of the weight.

    Args:
        in_channels: Channels of the input, its axis 1.
        out_channels: Channels of the output.
        kernel_size: Size of the window, one number or one per axis.
        stride: Step of the window in the output.
        padding: Elements taken off both sides of the output.
        output_padding: Elements added to one side of the output.
        groups: Channel groups that do not see each other.
        bias: Whether there is a bias.
        dilation: Distance between elements of the window.
        padding_mode: ``"zeros"``, the only one there is.
        device: Where the buffers lie.
        dtype: Kept for the reference's sake; the bias is float32.

    Raises:
        ArgumentError: The channels do not divide into the groups, a size is not positive, or
            another padding mode.
    """

    fields = (
        "in_channels",
        "out_channels",
        "kernel_size",
        "stride",
        "padding",
        "output_padding",
        "groups",
        "dilation",
        "padding_mode",
    )

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Ints,
        stride: Ints = 1,
        padding: Ints = 0,
        output_padding: Ints = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Ints = 1,
        padding_mode: str = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if padding_mode != "zeros":
            raise ArgumentError(
                f"{type(self).__name__}: transposed convolutions pad with zeros only",
                expected="padding_mode='zeros'",
                received=repr(padding_mode),
            )
        _check_groups(type(self).__name__, in_channels, out_channels, groups)
        per_axis = _ntuple(self.rank)
        kernel = tuple(per_axis(kernel_size))
        super().__init__((in_channels, out_channels // groups, *kernel), bias, out_channels)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = kernel
        self.stride = tuple(per_axis(stride))
        self.padding = tuple(per_axis(padding))
        self.output_padding = tuple(per_axis(output_padding))
        self.groups = groups
        self.dilation = tuple(per_axis(dilation))
        self.padding_mode = padding_mode
        self.to(device)

    def _options(self) -> dict[str, Any]:
        names = ("stride", "padding", "output_padding", "groups", "dilation", "relu")
        return {name: getattr(self, name) for name in names}

    def _example(self) -> tuple[int, ...]:
        return (1, self.in_channels, *(2 * size + 1 for size in self.padding))

    def extra_repr(self) -> str:
        zeros, ones = (0,) * self.rank, (1,) * self.rank
        return self._shown(
            {"padding": zeros, "output_padding": zeros, "dilation": ones, "groups": 1}
        )


class ConvTranspose1d(_ConvTransposeNd):
    __doc__ = _ConvTransposeNd.__doc__
    rank = 1
    float_types = (nn.ConvTranspose1d,)
    op = staticmethod(ops.conv_transpose1d)


class ConvTranspose2d(_ConvTransposeNd):
    __doc__ = _ConvTransposeNd.__doc__
    rank = 2
    float_types = (nn.ConvTranspose2d,)
    op = staticmethod(ops.conv_transpose2d)


class ConvTranspose3d(_ConvTransposeNd):
    __doc__ = _ConvTransposeNd.__doc__
    rank = 3
    float_types = (nn.ConvTranspose3d,)
    op = staticmethod(ops.conv_transpose3d)
