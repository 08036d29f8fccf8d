"""Modules taken apart, so that observers find what happens inside them."""

from qlab.nn.quantizable.attention import MultiheadAttention
from qlab.nn.quantizable.rnn import LSTM, LSTMCell

__all__ = ["LSTM", "LSTMCell", "MultiheadAttention"]
