"""qlab: quantization for PyTorch models, on any device."""

from qlab import aliases, eager, ops, presets
from qlab.analysis.search import Candidate
from qlab.dtypes import QDType, float8_e4m3fn, float8_e5m2, qint8, qint32, quint4x2, quint8
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
from qlab.io.checkpoint import load_quantized
from qlab.io.migrate import migrate
from qlab.io.uploads import load_model
from qlab.lab import Lab
from qlab.nn.quantized.functional import quantized_batch_norm
from qlab.qconfig import QConfig, QConfigMapping, qconfig_of
from qlab.qparams import QParams
from qlab.qtensor import (
    QTensor,
    _empty_affine_quantized,
    _empty_per_channel_affine_quantized,
    _make_per_channel_quantized_tensor,
    _make_per_tensor_quantized_tensor,
    dequantize,
    quantize_per_channel,
    quantize_per_tensor,
    quantize_per_tensor_dynamic,
)
from qlab.ranges import TensorSpec
from qlab.runs import Run, Runs
from qlab.saved import load_lab

aliases.install()
__getattr__ = aliases.submodules(__name__)

__all__ = [
    "Candidate",
    "Granularity",
    "Lab",
    "PerAxis",
    "PerGroup",
    "PerTensor",
    "QConfig",
    "QConfigMapping",
    "QDType",
    "QParams",
    "QTensor",
    "QlabError",
    "Run",
    "Runs",
    "TensorSpec",
    "_empty_affine_quantized",
    "_empty_per_channel_affine_quantized",
    "_make_per_channel_quantized_tensor",
    "_make_per_tensor_quantized_tensor",
    "dequantize",
    "eager",
    "float8_e4m3fn",
    "float8_e5m2",
    "load_lab",
    "load_model",
    "load_quantized",
    "migrate",
    "ops",
    "per_channel_affine",
    "per_channel_affine_float_qparams",
    "per_channel_symmetric",
    "per_tensor_affine",
    "per_tensor_symmetric",
    "presets",
    "qconfig_of",
    "qint8",
    "qint32",
    "quantize_per_channel",
    "quantize_per_tensor",
    "quantize_per_tensor_dynamic",
    "quantized_batch_norm",
    "quint4x2",
    "quint8",
]
