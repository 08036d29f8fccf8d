"""Quantized normalizations: one family. Weights and statistics stay float32."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from qlab import ops
from qlab.errors import UnsupportedError, check_type
from qlab.nn import intrinsic as nni
from qlab.nn.quantized.base import QuantizedModule
from qlab.nn.quantized.holder import OUTPUT, float_copy, qparams_of_numbers
from qlab.ops import checks
from qlab.qparams import QParams

Affine = Tensor | None
Device = torch.device | str | None


class _Norm(QuantizedModule):
    """``(x - mean) / sqrt(var + eps) · weight + bias``, as ``quantize(norm(dequantize(x)))``.

    What mean and variance are taken over is what the members differ in.
    """

    tensors = ("weight", "bias")
    weight: Tensor | None
    bias: Tensor | None

    def __init__(
        self, affine: tuple[Affine, Affine], scale: float, zero_point: int, eps: float
    ) -> None:
        super().__init__()
        for name, value in zip(("weight", "bias"), affine, strict=True):
            self.register_buffer(name, float_copy(value))
        self.eps = eps
        self.set_qparams(OUTPUT, qparams_of_numbers(scale, zero_point))


class LayerNorm(_Norm):
    """Mean and variance over the last axes.

    Args:
        normalized_shape: Lengths of those axes.
        weight: Floating point of that shape, or None for 1.
        bias: Likewise, or None for 0.
        scale: Scale of the output, real units per code.
        zero_point: Zero point of the output, a quint8 code.
        eps: Added to the variance.
        elementwise_affine: Kept for the reference's sake; weight and bias say it.
        device: Where the buffers lie.
        dtype: Kept for the reference's sake; the buffers are float32.
    """

    float_types = (nn.LayerNorm,)
    fields = ("normalized_shape", "eps", "elementwise_affine")

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        weight: Affine = None,
        bias: Affine = None,
        scale: float = 1.0,
        zero_point: int = 0,
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__((weight, bias), scale, zero_point, eps)
        shape = (normalized_shape,) if isinstance(normalized_shape, int) else normalized_shape
        check_type("LayerNorm", "normalized_shape", shape, Sequence, "a number, or one per axis")
        self.normalized_shape = checks.whole_numbers(
            "LayerNorm", "shape to normalize", shape, len(shape), minimum=1
        )
        self.elementwise_affine = elementwise_affine
        self.to(device)

    def compute(self, x: Tensor, x_qparams: QParams) -> Tensor:
        """Layer norm on codes."""
        shape, output = self.normalized_shape, self._own_output()
        return ops.layer_norm(x, x_qparams, shape, self.weight, self.bias, self.eps, output)


class GroupNorm(_Norm):
    """Mean and variance over each group of channels.

    Args:
        num_groups: Number of groups.
        num_channels: Number of channels, the input's axis 1.
        weight: Floating point (channels,), or None for 1.
        bias: Likewise, or None for 0.
        scale: Scale of the output, real units per code.
        zero_point: Zero point of the output, a quint8 code.
        eps: Added to the variance.
        affine: Kept for the reference's sake; weight and bias say it.
        device: Where the buffers lie.
        dtype: Kept for the reference's sake; the buffers are float32.
    """

    float_types = (nn.GroupNorm,)
    fields = ("num_groups", "num_channels", "eps", "affine")

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        weight: Affine = None,
        bias: Affine = None,
        scale: float = 1.0,
        zero_point: int = 0,
        eps: float = 1e-5,
        affine: bool = True,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__((weight, bias), scale, zero_point, eps)
        self.num_groups = num_groups
        self.num_channels = num_channels
        self.affine = affine
        self.to(device)

    def compute(self, x: Tensor, x_qparams: QParams) -> Tensor:
        """Group norm on codes."""
        groups, output = self.num_groups, self._own_output()
        return ops.group_norm(x, x_qparams, groups, self.weight, self.bias, self.eps, output)


class _RunningNorm(_Norm):
    """Norms of channels that may know running statistics.

    Attributes:
        relu: Whether negative results become 0 before quantization.
    """

    relu: ClassVar[bool] = False
    tensors = ("weight", "bias", "running_mean", "running_var")
    running_mean: Tensor | None
    running_var: Tensor | None

    def _with_statistics(self, x: Tensor, x_qparams: QParams) -> Tensor:
        mean, var = self.get_buffer("running_mean"), self.get_buffer("running_var")
        affine, output = (self.weight, self.bias), self._own_output()
        return ops.batch_norm(x, x_qparams, *affine, mean, var, self.eps, output, relu=self.relu)


class _InstanceNorm(_RunningNorm):
    """Mean and variance over the spatial axes of each channel of each sample.

    Where the float module tracked running statistics it uses those in evaluation mode, and so
    does this one.

    Args:
        num_features: Number of channels, the input's axis 1.
        weight: Floating point (channels,), or None for 1.
        bias: Likewise, or None for 0.
        scale: Scale of the output, real units per code.
        zero_point: Zero point of the output, a quint8 code.
        eps: Added to the variance.
        momentum: Kept for the reference's sake; nothing is trained here.
        affine: Kept for the reference's sake; weight and bias say it.
        track_running_stats: Kept for the reference's sake; the buffers say it.
        device: Where the buffers lie.
        dtype: Kept for the reference's sake; the buffers are float32.
    """

    fields = ("num_features", "eps", "momentum", "affine", "track_running_stats")

    def __init__(
        self,
        num_features: int,
        weight: Affine = None,
        bias: Affine = None,
        scale: float = 1.0,
        zero_point: int = 0,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__((weight, bias), scale, zero_point, eps)
        self.register_buffer("running_mean", None)
        self.register_buffer("running_var", None)
        self.num_features = num_features
        self.momentum = momentum
        self.affine = affine
        self.track_running_stats = track_running_stats
        self.to(device)

    def compute(self, x: Tensor, x_qparams: QParams) -> Tensor:
        """Instance norm on codes."""
        if self.running_mean is not None:
            return self._with_statistics(x, x_qparams)
        affine = (self.weight, self.bias)
        return ops.instance_norm(x, x_qparams, *affine, self.eps, self._own_output())


class InstanceNorm1d(_InstanceNorm):
    __doc__ = _InstanceNorm.__doc__
    float_types = (nn.InstanceNorm1d,)


class InstanceNorm2d(_InstanceNorm):
    __doc__ = _InstanceNorm.__doc__
    float_types = (nn.InstanceNorm2d,)


class InstanceNorm3d(_InstanceNorm):
    __doc__ = _InstanceNorm.__doc__
    float_types = (nn.InstanceNorm3d,)


class _BatchNorm(_RunningNorm):
    """Running mean and variance of each channel.

    Args:
        num_features: Number of channels, the input's axis 1.
        eps: Added to the variance.
        momentum: Kept for the reference's sake; nothing is trained here.
        device: Where the buffers lie.
        dtype: Kept for the reference's sake; the buffers are float32.
    """

    fields = ("num_features", "eps", "momentum")

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        checks.whole_numbers("BatchNorm", "number of features", num_features, 1, minimum=1)
        ones, zeros = torch.ones(num_features), torch.zeros(num_features)
        super().__init__((ones, zeros), 1.0, 0, eps)
        self.register_buffer("running_mean", zeros.clone())
        self.register_buffer("running_var", ones.clone())
        self.num_features = num_features
        self.momentum = momentum
        self.to(device)

    @classmethod
    def _accept(cls, mod: nn.Module) -> nn.Module:
        super()._accept(mod)
        batch_norm = mod[0] if isinstance(mod, nni.FusedModule) else mod
        if batch_norm.running_mean is None:
            raise UnsupportedError(
                "A batch norm without running statistics has no integer form",
                expected="track_running_stats=True",
                received=repr(batch_norm),
            )
        return mod

    def compute(self, x: Tensor, x_qparams: QParams) -> Tensor:
        """Batch norm on codes."""
        return self._with_statistics(x, x_qparams)


class BatchNorm2d(_BatchNorm):
    __doc__ = _BatchNorm.__doc__
    float_types = (nn.BatchNorm2d,)


class BatchNorm3d(_BatchNorm):
    __doc__ = _BatchNorm.__doc__
    float_types = (nn.BatchNorm3d,)
