"""Modules whose weights are quantized once, and whose inputs are quantized as they come."""

from qlab.aliases import submodules
from qlab.nn.quantized.dynamic.cells import GRUCell, LSTMCell, RNNCell
from qlab.nn.quantized.dynamic.conv import (
    Conv1d,
    Conv2d,
    Conv3d,
    ConvTranspose1d,
    ConvTranspose2d,
    ConvTranspose3d,
)
from qlab.nn.quantized.dynamic.layers import GRU, LSTM
from qlab.nn.quantized.dynamic.linear import Linear

__getattr__ = submodules(__name__)

__all__ = [
    "GRU",
    "LSTM",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "GRUCell",
    "LSTMCell",
    "Linear",
    "RNNCell",
]
