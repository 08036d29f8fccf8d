"""Quantized convolutions: one class, whose names fix the rank."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import nn
from torch.nn.modules.utils import _ntuple

from qlab import ops
from qlab.errors import ArgumentError
from qlab.nn import intrinsic as nni
from qlab.nn.quantized.weighted import WeightedModule

Ints = int | Sequence[int]


class _ConvNd(WeightedModule):
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

    Raises:
        ArgumentError: The channels do not divide into the groups, or a size is not positive.
    """

    rank: ClassVar[int]
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
    ) -> None:
        if groups < 1 or in_channels % groups or out_channels % groups:
            raise ArgumentError(
                f"{type(self).__name__}: the channels do not divide into groups",
                expected="in_channels and out_channels divisible by groups",
                received=f"in_channels={in_channels}, out_channels={out_channels}, groups={groups}",
            )
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

    def _options(self) -> dict[str, Any]:
        names = ("stride", "padding", "dilation", "groups", "padding_mode", "relu")
        return {name: getattr(self, name) for name in names}

    def _example(self) -> tuple[int, ...]:
        window = zip(self.kernel_size, self.dilation, strict=True)
        return (1, self.in_channels, *((size - 1) * step + 1 for size, step in window))

    def extra_repr(self) -> str:
        plain = {
            "padding": (0,) * self.rank,
            "dilation": (1,) * self.rank,
            "groups": 1,
            "padding_mode": "zeros",
        }
        shown = [f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}"]
        shown += [f"stride={self.stride}", *self._shown_output()]
        shown += [f"{k}={getattr(self, k)}" for k, v in plain.items() if getattr(self, k) != v]
        shown += [] if self.bias() is not None else ["bias=False"]
        return ", ".join([*shown, *self._shown_weight()])


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
