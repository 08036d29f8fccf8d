"""Quantized modules: codes in, codes out."""

from qlab.aliases import submodules
from qlab.nn.quantized import functional as functional
from qlab.nn.quantized.activation import (
    ELU,
    GELU,
    Dropout,
    Hardsigmoid,
    Hardswish,
    Hardtanh,
    LeakyReLU,
    PReLU,
    ReLU,
    ReLU6,
    Sigmoid,
    Softmax,
    Tanh,
)
from qlab.nn.quantized.arithmetic import Add, AddScalar, Cat, MatMul, Mul, MulScalar, Stack
from qlab.nn.quantized.base import Output, QuantizedModule
from qlab.nn.quantized.conv import (
    Conv1d,
    Conv2d,
    Conv3d,
    ConvTranspose1d,
    ConvTranspose2d,
    ConvTranspose3d,
)
from qlab.nn.quantized.custom import LSTM, MultiheadAttention
from qlab.nn.quantized.embedding import Embedding, EmbeddingBag
from qlab.nn.quantized.functional_modules import (
    FloatFunctional,
    FXFloatFunctional,
    QFunctional,
)
from qlab.nn.quantized.linear import Linear
from qlab.nn.quantized.norm import (
    BatchNorm2d,
    BatchNorm3d,
    GroupNorm,
    InstanceNorm1d,
    InstanceNorm2d,
    InstanceNorm3d,
    LayerNorm,
)
from qlab.nn.quantized.pooling import (
    AdaptiveAvgPool1d,
    AdaptiveAvgPool2d,
    AdaptiveAvgPool3d,
    AdaptiveMaxPool1d,
    AdaptiveMaxPool2d,
    AdaptiveMaxPool3d,
    AvgPool1d,
    AvgPool2d,
    AvgPool3d,
    MaxPool1d,
    MaxPool2d,
    MaxPool3d,
    Mean,
    Upsample,
)
from qlab.nn.quantized.quantize import DeQuantize, Quantize

__getattr__ = submodules(__name__)

__all__ = [
    "ELU",
    "GELU",
    "LSTM",
    "AdaptiveAvgPool1d",
    "AdaptiveAvgPool2d",
    "AdaptiveAvgPool3d",
    "AdaptiveMaxPool1d",
    "AdaptiveMaxPool2d",
    "AdaptiveMaxPool3d",
    "Add",
    "AddScalar",
    "AvgPool1d",
    "AvgPool2d",
    "AvgPool3d",
    "BatchNorm2d",
    "BatchNorm3d",
    "Cat",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "DeQuantize",
    "Dropout",
    "Embedding",
    "EmbeddingBag",
    "FXFloatFunctional",
    "FloatFunctional",
    "GroupNorm",
    "Hardsigmoid",
    "Hardswish",
    "Hardtanh",
    "InstanceNorm1d",
    "InstanceNorm2d",
    "InstanceNorm3d",
    "LayerNorm",
    "LeakyReLU",
    "Linear",
    "MatMul",
    "MaxPool1d",
    "MaxPool2d",
    "MaxPool3d",
    "Mean",
    "Mul",
    "MulScalar",
    "MultiheadAttention",
    "Output",
    "PReLU",
    "QFunctional",
    "Quantize",
    "QuantizedModule",
    "ReLU",
    "ReLU6",
    "Sigmoid",
    "Softmax",
    "Stack",
    "Tanh",
    "Upsample",
]
