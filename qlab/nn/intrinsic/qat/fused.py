"""Quantization-aware fused modules; batch norm is folded into the weight in every pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qlab.nn import intrinsic as nni
from qlab.nn import qat
from qlab.nn.aware import QuantizationAware
from qlab.nn.intrinsic.fold import fold_batch_norm
from qlab.nn.qat.layers import ConvNd, Size


class BatchNormed(QuantizationAware):
    """A layer and the batch norm behind it, trained with the weight that conversion will fold.

    With running variance σ², ε and γ of the batch norm and per output channel

    ``f = γ / sqrt(σ² + ε)``, ``y = bn(layer(x, fake_quantize(W · f)) / f + b)``

    The weight is rounded as folded, the statistics are those of the layer's unscaled output.

    Attributes:
        bn: The batch norm.
        freeze_bn: Whether its statistics stay as they are.

    Source: Krishnamoorthi 2018, "Quantizing deep convolutional networks for efficient inference",
    section 3.2.2.
    """

    bn: Any
    freeze_bn: bool
    training: bool

    def _take_batch_norm(self, bn: nn.Module, freeze_bn: bool) -> None:
        self.bn = bn
        self.freeze_bn = freeze_bn
        (self.freeze_bn_stats if freeze_bn else self.update_bn_stats)()

    def _share(self, mod: nn.Module) -> None:
        super()._share(mod)
        parts: Any = mod
        self.bn, self.freeze_bn = parts[1], not parts[1].training

    def forward(self, input: Tensor) -> Tensor:
        """Real numbers as the layer takes them → the batch norm's output, after ReLU if there."""
        factor = self.bn.weight / (self.bn.running_var + self.bn.eps).sqrt()
        rows = factor.reshape(-1, *[1] * (self.weight.dim() - 1))
        y = self._apply_layer(input, self.weight_fake_quant(self.weight * rows), None)
        channels = [1] * y.dim()
        channels[-1 if isinstance(self, nn.Linear) else -self.weight.dim() + 1] = -1
        y = y / factor.reshape(channels)
        if self.bias is not None:
            y = y + self.bias.reshape(channels)
        y = self.bn(y)
        return F.relu(y) if self.relu else y

    def to_float(self) -> nn.Module:
        """The float or fused module with the batch norm folded into the weight."""
        layer = fold_batch_norm(self._plain_layer(), self.bn)
        whole = _RELU_OF[type(layer)](layer, nn.ReLU()) if self.relu else layer
        return whole.train(self.training)

    def train(self, mode: bool = True) -> Any:
        """As in `torch.nn`, but a frozen batch norm keeps its mode."""
        self.training = mode
        if not self.freeze_bn:
            for module in self.children():
                module.train(mode)
        return self

    def freeze_bn_stats(self) -> Any:
        """Keeps the batch norm's statistics as they are, whatever the mode; returns the module."""
        self.freeze_bn = True
        self.bn.training = False
        return self

    def update_bn_stats(self) -> Any:
        """Lets the batch norm follow the data again; returns the module."""
        self.freeze_bn = False
        self.bn.training = True
        return self

    def reset_running_stats(self) -> None:
        """Sets the running mean to 0 and the running variance to 1."""
        self.bn.reset_running_stats()

    def reset_bn_parameters(self) -> None:
        """Sets the statistics to those of no data, β = 0, and γ at random in [0, 1)."""
        self.bn.reset_running_stats()
        nn.init.uniform_(self.bn.weight)
        nn.init.zeros_(self.bn.bias)


class ConvBnNd(BatchNormed, ConvNd):
    """A convolution with batch norm; see `BatchNormed` for the formula.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: One number, or one per axis.
        stride: Likewise.
        padding: Likewise, or ``"same"`` or ``"valid"``.
        dilation: Likewise.
        groups: Groups of channels that do not see each other.
        bias: Whether the convolution has a bias; None for no.
        padding_mode: ``"zeros"``, ``"reflect"``, ``"replicate"`` or ``"circular"``.
        eps: ε of the batch norm.
        momentum: Weight of the newest batch in its running statistics.
        freeze_bn: Whether its statistics stay as they are.
        qconfig: Its ``weight`` makes the fake quantizer.
        device: Where the parameters lie.
        dtype: Their floating type.

    Raises:
        ArgumentError: No qconfig, or one without a weight.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size | str = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool | None = None,
        padding_mode: str = "zeros",
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        freeze_bn: bool = False,
        qconfig: Any = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, False,
            padding_mode, qconfig, device, dtype,
        )  # fmt: skip
        kind: Any = self.float_type
        norm = kind.parts[1](out_channels, eps, momentum, device=device, dtype=dtype)
        if bias:
            self.bias = nn.Parameter(torch.empty(out_channels, device=device, dtype=dtype))
        self._take_batch_norm(norm, freeze_bn)
        self.reset_bn_parameters()

    def reset_bn_parameters(self) -> None:
        """As every `BatchNormed`, and a new bias of the convolution, if it has one."""
        super().reset_bn_parameters()
        if self.bias is not None:
            bound = self.weight[0].numel() ** -0.5
            nn.init.uniform_(self.bias, -bound, bound)


_ConvBnNd = ConvBnNd
"""The reference's name."""


class ConvBn1d(ConvBnNd, nn.Conv1d):
    __doc__ = ConvBnNd.__doc__
    float_type = nni.ConvBn1d


class ConvBn2d(ConvBnNd, nn.Conv2d):
    __doc__ = ConvBnNd.__doc__
    float_type = nni.ConvBn2d


class ConvBn3d(ConvBnNd, nn.Conv3d):
    __doc__ = ConvBnNd.__doc__
    float_type = nni.ConvBn3d


class ConvBnReLU1d(ConvBnNd, nn.Conv1d):
    __doc__ = ConvBnNd.__doc__
    float_type, relu = nni.ConvBnReLU1d, True


class ConvBnReLU2d(ConvBnNd, nn.Conv2d):
    __doc__ = ConvBnNd.__doc__
    float_type, relu = nni.ConvBnReLU2d, True


class ConvBnReLU3d(ConvBnNd, nn.Conv3d):
    __doc__ = ConvBnNd.__doc__
    float_type, relu = nni.ConvBnReLU3d, True


class ConvReLU1d(ConvNd, nn.Conv1d):
    __doc__ = ConvNd.__doc__
    float_type, relu = nni.ConvReLU1d, True


class ConvReLU2d(ConvNd, nn.Conv2d):
    __doc__ = ConvNd.__doc__
    float_type, relu = nni.ConvReLU2d, True


class ConvReLU3d(ConvNd, nn.Conv3d):
    __doc__ = ConvNd.__doc__
    float_type, relu = nni.ConvReLU3d, True


class LinearReLU(qat.Linear):
    """``y = relu(x fake_quantize(W)ᵀ + b)``.

    Args:
        in_features: Length of the input's last axis.
        out_features: Length of the output's last axis.
        bias: Whether there is a bias.
        qconfig: Its ``weight`` makes the fake quantizer.
        device: Where the parameters lie.
        dtype: Their floating type.

    Raises:
        ArgumentError: No qconfig, or one without a weight.
    """

    float_type, relu = nni.LinearReLU, True


class LinearBn1d(BatchNormed, qat.Linear):
    """A linear layer with batch norm; see `BatchNormed` for the formula.

    Args:
        in_features: Length of the input's last axis.
        out_features: Length of the output's last axis.
        bias: Whether the linear layer has a bias.
        eps: ε of the batch norm.
        momentum: Weight of the newest batch in its running statistics.
        freeze_bn: Whether its statistics stay as they are.
        qconfig: Its ``weight`` makes the fake quantizer.
        device: Where the parameters lie.
        dtype: Their floating type.

    Raises:
        ArgumentError: No qconfig, or one without a weight.
    """

    float_type = nni.LinearBn1d

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        freeze_bn: bool = False,
        qconfig: Any = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_features, out_features, bias, qconfig, device, dtype)
        norm = nn.BatchNorm1d(out_features, eps, momentum, device=device, dtype=dtype)
        self._take_batch_norm(norm, freeze_bn)
        self.reset_bn_parameters()


_RELU_OF: dict[type[nn.Module], Any] = {
    nn.Conv1d: nni.ConvReLU1d,
    nn.Conv2d: nni.ConvReLU2d,
    nn.Conv3d: nni.ConvReLU3d,
}


def update_bn_stats(mod: nn.Module) -> None:
    """Lets a fused module's batch norm follow the data; for ``model.apply(...)``."""
    if isinstance(mod, BatchNormed):
        mod.update_bn_stats()


def freeze_bn_stats(mod: nn.Module) -> None:
    """Keeps a fused module's batch norm statistics as they are; for ``model.apply(...)``."""
    if isinstance(mod, BatchNormed):
        mod.freeze_bn_stats()
