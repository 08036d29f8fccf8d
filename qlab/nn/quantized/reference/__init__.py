"""Reference modules: float modules that compute with the weights that their codes stand for."""

from qlab.aliases import submodules
from qlab.nn.quantized.reference.base import ReferenceQuantizedModule
from qlab.nn.quantized.reference.layers import (
    Conv1d,
    Conv2d,
    Conv3d,
    ConvTranspose1d,
    ConvTranspose2d,
    ConvTranspose3d,
    Embedding,
    EmbeddingBag,
    Linear,
)
from qlab.nn.quantized.reference.recurrent import (
    GRU,
    LSTM,
    GRUCell,
    LSTMCell,
    RNNBase,
    RNNCell,
    RNNCellBase,
    get_quantized_weight,
)

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
    "Embedding",
    "EmbeddingBag",
    "GRUCell",
    "LSTMCell",
    "Linear",
    "RNNBase",
    "RNNCell",
    "RNNCellBase",
    "ReferenceQuantizedModule",
    "get_quantized_weight",
]
