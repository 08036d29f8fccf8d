"""Functions on quantized tensors: `QTensor` in, `QTensor` out.

The reference's names and arguments. Unless an output scale and zero point are arguments, the
result keeps those of the input.
"""

from qlab.nn.quantized.functional.activations import (
    celu,
    clamp,
    elu,
    hardsigmoid,
    hardswish,
    hardtanh,
    leaky_relu,
    threshold,
)
from qlab.nn.quantized.functional.contractions import (
    conv1d,
    conv2d,
    conv3d,
    linear,
    quantized_batch_norm,
)
from qlab.nn.quantized.functional.pooling import (
    adaptive_avg_pool2d,
    adaptive_avg_pool3d,
    avg_pool2d,
    avg_pool3d,
    interpolate,
    max_pool1d,
    max_pool2d,
    upsample,
    upsample_bilinear,
    upsample_nearest,
)

__all__ = [
    "adaptive_avg_pool2d",
    "adaptive_avg_pool3d",
    "avg_pool2d",
    "avg_pool3d",
    "celu",
    "clamp",
    "conv1d",
    "conv2d",
    "conv3d",
    "elu",
    "hardsigmoid",
    "hardswish",
    "hardtanh",
    "interpolate",
    "leaky_relu",
    "linear",
    "max_pool1d",
    "max_pool2d",
    "quantized_batch_norm",
    "threshold",
    "upsample",
    "upsample_bilinear",
    "upsample_nearest",
]
