"""Integer operators on plain tensors: codes and `QParams` in, codes out.

One public function per operator. Behind those that have several kernels stands a small table;
`kernel_for` tells which one a call would run, `use` forces one, `counts` tells which ones ran.
"""

from qlab.ops.activations import (
    celu,
    elu,
    gelu,
    hardsigmoid,
    hardswish,
    hardtanh,
    leaky_relu,
    prelu,
    relu,
    relu6,
    sigmoid,
    softmax,
    tanh,
    threshold,
)
from qlab.ops.arithmetic import add, cat, dequantize, mul, quantize
from qlab.ops.contractions import ConvOptions, conv1d, conv2d, conv3d, linear, matmul
from qlab.ops.dynamic import dynamic_qparams, linear_dynamic
from qlab.ops.embeddings import embedding, embedding_bag
from qlab.ops.fused import conv2d_add, linear_gelu
from qlab.ops.kernels import counts, kernel_for, reset_counts, use
from qlab.ops.normalization import batch_norm, group_norm, instance_norm, layer_norm
from qlab.ops.packed import PackedWeight, Ready
from qlab.ops.pooling import (
    adaptive_avg_pool1d,
    adaptive_avg_pool2d,
    adaptive_avg_pool3d,
    adaptive_max_pool1d,
    adaptive_max_pool2d,
    adaptive_max_pool3d,
    avg_pool1d,
    avg_pool2d,
    avg_pool3d,
    max_pool1d,
    max_pool2d,
    max_pool3d,
    mean,
)
from qlab.ops.resampling import interpolate
from qlab.ops.scalars import add_scalar, add_scalar_qparams, mul_scalar, mul_scalar_qparams
from qlab.ops.transposed import (
    ConvTransposeOptions,
    conv_transpose1d,
    conv_transpose2d,
    conv_transpose3d,
)

__all__ = [
    "ConvOptions",
    "ConvTransposeOptions",
    "PackedWeight",
    "Ready",
    "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
    "adaptive_avg_pool3d",
    "adaptive_max_pool1d",
    "adaptive_max_pool2d",
    "adaptive_max_pool3d",
    "add",
    "add_scalar",
    "add_scalar_qparams",
    "avg_pool1d",
    "avg_pool2d",
    "avg_pool3d",
    "batch_norm",
    "cat",
    "celu",
    "conv1d",
    "conv2d",
    "conv2d_add",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "counts",
    "dequantize",
    "dynamic_qparams",
    "elu",
    "embedding",
    "embedding_bag",
    "gelu",
    "group_norm",
    "hardsigmoid",
    "hardswish",
    "hardtanh",
    "instance_norm",
    "interpolate",
    "kernel_for",
    "layer_norm",
    "leaky_relu",
    "linear",
    "linear_dynamic",
    "linear_gelu",
    "matmul",
    "max_pool1d",
    "max_pool2d",
    "max_pool3d",
    "mean",
    "mul",
    "mul_scalar",
    "mul_scalar_qparams",
    "prelu",
    "quantize",
    "relu",
    "relu6",
    "reset_counts",
    "sigmoid",
    "softmax",
    "tanh",
    "threshold",
    "use",
]
