"""Recurrent cells that quantize their input and state as they come."""

from __future__ import annotations

from torch import Tensor, nn

from qlab.dtypes import qint8
from qlab.errors import UnknownNameError
from qlab.nn.quantized.dynamic.recurrent import (
    ELMAN_UNITS,
    GRU_UNIT,
    LSTM_UNIT,
    Hidden,
    Recurrence,
    RecurrentModule,
)
from qlab.nn.quantized.dynamic.request import WeightDType


class _Cell(RecurrentModule):
    """One time step; arguments as in the float module of the same name, and ``dtype``.

    Args:
        input_size: Features of the input.
        hidden_size: Features of the state.
        bias: Whether there are biases.
        dtype: Quantized data type of the weights, or ``torch.float16``.
    """

    fields = ("input_size", "hidden_size", "bias")

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        dtype: WeightDType | str = qint8,
    ) -> None:
        super().__init__(input_size, hidden_size, bias)
        self._add_linears("", input_size, dtype)

    def _suffixes(self) -> tuple[str, ...]:
        return ("",)

    def forward(self, input: Tensor, hx: Hidden = None) -> Hidden:
        """The next state.

        Args:
            input: Real numbers, (N, input_size) or (input_size,).
            hx: The state, (N, hidden_size) or (hidden_size,); for LSTMCell two. Zeros if not given.

        Raises:
            DTypeError: The input is quantized, or not floating point.
            ShapeError: Input or state has the wrong shape.
            NonFiniteError: NaN or infinity in the input, with integer weights.
        """
        self._check_input(input, (1, 2))
        states = self._states(hx, (*input.shape[:-1], self.hidden_size), input)
        hidden = self.get_submodule("hh")(states[0])
        new = self.recurrence.step(self.get_submodule("ih")(input), hidden, states)
        return new if len(new) > 1 else new[0]

    def extra_repr(self) -> str:
        return self._shown({"bias": True})


class LSTMCell(_Cell):
    """One step of `LSTM`."""

    float_type = nn.LSTMCell
    recurrence = LSTM_UNIT


class GRUCell(_Cell):
    """One step of `GRU`."""

    float_type = nn.GRUCell
    recurrence = GRU_UNIT


class RNNCell(_Cell):
    """``h' = tanh(W_ih x + b_ih + W_hh h + b_hh)``, or ReLU in place of tanh.

    Args:
        input_size: Features of the input.
        hidden_size: Features of the state.
        bias: Whether there are biases.
        nonlinearity: ``"tanh"`` or ``"relu"``.
        dtype: Quantized data type of the weights, or ``torch.float16``.
    """

    float_type = nn.RNNCell
    fields = ("input_size", "hidden_size", "bias", "nonlinearity")

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        dtype: WeightDType | str = qint8,
    ) -> None:
        if nonlinearity not in ("tanh", "relu"):
            raise UnknownNameError.of("nonlinearity", nonlinearity, ("tanh", "relu"))
        self.nonlinearity = nonlinearity
        super().__init__(input_size, hidden_size, bias, dtype)

    @property
    def recurrence(self) -> Recurrence:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The unit with the chosen nonlinearity."""
        return ELMAN_UNITS[self.nonlinearity]

    def extra_repr(self) -> str:
        return self._shown({"bias": True, "nonlinearity": "tanh"})
