"""The recurrent modules and their base classes, which have the reference's names here."""

from qlab.nn.quantized.dynamic.cells import GRUCell, LSTMCell, RNNCell
from qlab.nn.quantized.dynamic.cells import _Cell as RNNCellBase
from qlab.nn.quantized.dynamic.layers import GRU, LSTM
from qlab.nn.quantized.dynamic.layers import _Layer as RNNBase

__all__ = ["GRU", "LSTM", "GRUCell", "LSTMCell", "RNNBase", "RNNCell", "RNNCellBase"]
