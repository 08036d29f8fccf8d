"""Quantized pooling and resizing; the output keeps the input's scale and zero point."""

from __future__ import annotations

from torch import nn

from qlab import ops
from qlab.nn import functions
from qlab.nn.quantized.families import SharedModule

_MAX_POOL = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")
_AVG_POOL = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad")

_NO_INDICES = {"return_indices": False}


class MaxPool1d(SharedModule):
    """Largest code of each window over 1 axis."""

    float_types = (nn.MaxPool1d,)
    fields = _MAX_POOL
    required = _NO_INDICES
    op = staticmethod(ops.max_pool1d)


class MaxPool2d(SharedModule):
    """Largest code of each window over 2 axes."""

    float_types = (nn.MaxPool2d,)
    own_memory = True
    fields = _MAX_POOL
    required = _NO_INDICES
    op = staticmethod(ops.max_pool2d)


class MaxPool3d(SharedModule):
    """Largest code of each window over 3 axes."""

    float_types = (nn.MaxPool3d,)
    fields = _MAX_POOL
    required = _NO_INDICES
    op = staticmethod(ops.max_pool3d)


class AdaptiveMaxPool1d(SharedModule):
    """Maximum over windows that give 1 axis of a wanted length."""

    float_types = (nn.AdaptiveMaxPool1d,)
    fields = ("output_size",)
    required = _NO_INDICES
    op = staticmethod(ops.adaptive_max_pool1d)


class AdaptiveMaxPool2d(SharedModule):
    """Maximum over windows that give 2 axes of wanted lengths."""

    float_types = (nn.AdaptiveMaxPool2d,)
    fields = ("output_size",)
    required = _NO_INDICES
    op = staticmethod(ops.adaptive_max_pool2d)


class AdaptiveMaxPool3d(SharedModule):
    """Maximum over windows that give 3 axes of wanted lengths."""

    float_types = (nn.AdaptiveMaxPool3d,)
    fields = ("output_size",)
    required = _NO_INDICES
    op = staticmethod(ops.adaptive_max_pool3d)


class AvgPool1d(SharedModule):
    """Mean of each window over 1 axis, rounded once."""

    float_types = (nn.AvgPool1d,)
    fields = _AVG_POOL
    op = staticmethod(ops.avg_pool1d)


class AvgPool2d(SharedModule):
    """Mean of each window over 2 axes, rounded once."""

    float_types = (nn.AvgPool2d,)
    fields = (*_AVG_POOL, "divisor_override")
    op = staticmethod(ops.avg_pool2d)


class AvgPool3d(SharedModule):
    """Mean of each window over 3 axes, rounded once."""

    float_types = (nn.AvgPool3d,)
    fields = (*_AVG_POOL, "divisor_override")
    op = staticmethod(ops.avg_pool3d)


class AdaptiveAvgPool1d(SharedModule):
    """Mean over windows that give 1 axis of a wanted length."""

    float_types = (nn.AdaptiveAvgPool1d,)
    fields = ("output_size",)
    op = staticmethod(ops.adaptive_avg_pool1d)


class AdaptiveAvgPool2d(SharedModule):
    """Mean over windows that give 2 axes of wanted lengths."""

    float_types = (nn.AdaptiveAvgPool2d,)
    fields = ("output_size",)
    op = staticmethod(ops.adaptive_avg_pool2d)


class AdaptiveAvgPool3d(SharedModule):
    """Mean over windows that give 3 axes of wanted lengths."""

    float_types = (nn.AdaptiveAvgPool3d,)
    fields = ("output_size",)
    op = staticmethod(ops.adaptive_avg_pool3d)


class Mean(SharedModule):
    """Mean over axes, rounded once."""

    float_types = (functions.Mean,)
    fields = ("dim", "keepdim")
    op = staticmethod(ops.mean)


class Upsample(SharedModule):
    """Resizes the spatial axes, as ``nn.Upsample`` and ``F.interpolate``."""

    float_types = (nn.Upsample,)
    fields = ("size", "scale_factor", "mode", "align_corners", "recompute_scale_factor")
    op = staticmethod(ops.interpolate)
