"""qlab: quantization for PyTorch models, on any device."""

from qlab.dtypes import QDType, float8_e4m3fn, float8_e5m2, qint8, qint32, quint8
from qlab.errors import QlabError
from qlab.granularity import (
    Granularity,
    PerAxis,
    PerGroup,
    PerTensor,
    per_channel_affine,
    per_channel_affine_float_qparams,
    per_channel_symmetric,
    per_tensor_affine,
    per_tensor_symmetric,
)
from qlab.qconfig import QConfig, QConfigMapping
from qlab.qparams import QParams
from qlab.qtensor import QTensor, dequantize, quantize_per_channel, quantize_per_tensor
from qlab.ranges import TensorSpec

__all__ = [
    "Granularity",
    "PerAxis",
    "PerGroup",
    "PerTensor",
    "QConfig",
    "QConfigMapping",
    "QDType",
    "QParams",
    "QTensor",
    "QlabError",
    "TensorSpec",
    "dequantize",
    "float8_e4m3fn",
    "float8_e5m2",
    "per_channel_affine",
    "per_channel_affine_float_qparams",
    "per_channel_symmetric",
    "per_tensor_affine",
    "per_tensor_symmetric",
    "qint8",
    "qint32",
    "quantize_per_channel",
    "quantize_per_tensor",
    "quint8",
]
