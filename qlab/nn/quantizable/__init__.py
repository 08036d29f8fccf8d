"""Modules taken apart, so that observers find what happens inside them."""

from qlab.aliases import submodules
from qlab.nn.quantizable.attention import MultiheadAttention
from qlab.nn.quantizable.rnn import LSTM, LSTMCell

__getattr__ = submodules(__name__)

__all__ = ["LSTM", "LSTMCell", "MultiheadAttention"]
