"""Recurrent layers that quantize their inputs and states as they come."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from qlab.dtypes import qint8
from qlab.errors import ArgumentError, ShapeError, UnsupportedError
from qlab.nn.quantized.dynamic.recurrent import (
    GRU_UNIT,
    LSTM_UNIT,
    Hidden,
    RecurrentModule,
    State,
)
from qlab.nn.quantized.dynamic.request import WeightDType
from qlab.ops import checks
from qlab.ops.dynamic import dense
from qlab.ops.recurrent import scannable


class _Layer(RecurrentModule):
    """Recurrent layers over sequences; see ``torch.nn.LSTM`` and ``torch.nn.GRU``.

    The input's product is quantized over the whole sequence, the state's in every time step, each
    with half the codes of quint8: the reference's ``reduce_range``. Dropout between layers acts in
    training mode only.

    Args:
        input_size: Features of the input.
        hidden_size: Features of the state.
        num_layers: Layers on top of each other.
        bias: Whether there are biases.
        batch_first: Whether tensors are (N, L, features) rather than (L, N, features).
        dropout: Probability of dropping a layer's output in training mode.
        bidirectional: Whether a second direction runs from the end.
        dtype: Quantized data type of the weights, or ``torch.float16``.
    """

    fields = (
        "input_size",
        "hidden_size",
        "num_layers",
        "bias",
        "batch_first",
        "dropout",
        "bidirectional",
    )

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        dtype: WeightDType | str = qint8,
    ) -> None:
        super().__init__(input_size, hidden_size, bias)
        checks.whole_numbers(type(self).__name__, "number of layers", num_layers, 1, minimum=1)
        checks.number(type(self).__name__, "dropout", dropout)
        if not 0 <= dropout <= 1:
            raise ArgumentError(
                f"{type(self).__name__}: arguments out of range",
                expected="dropout from 0 to 1",
                received=f"dropout={dropout}",
            )
        self.num_layers = num_layers
        self.batch_first = batch_first
        self.dropout = float(dropout)
        self.bidirectional = bidirectional
        for suffix in self._suffixes():
            first = suffix in ("_l0", "_l0_reverse")
            size = input_size if first else hidden_size * self._directions
            self._add_linears(suffix, size, dtype)

    @property
    def _directions(self) -> int:
        return 2 if self.bidirectional else 1

    def _suffixes(self) -> tuple[str, ...]:
        ends = ("", "_reverse")[: self._directions]
        return tuple(f"_l{layer}{end}" for layer in range(self.num_layers) for end in ends)

    @classmethod
    def from_float(cls, mod: nn.Module, use_precomputed_fake_quant: bool = False) -> Self:
        if getattr(mod, "proj_size", 0):
            raise UnsupportedError(
                f"{cls.__name__}: projections have no quantized form",
                expected="proj_size=0",
                received=f"proj_size={mod.proj_size}",
            )
        return super().from_float(mod, use_precomputed_fake_quant)

    def forward(
        self, input: Tensor | PackedSequence, hx: Hidden = None
    ) -> tuple[Tensor | PackedSequence, Hidden]:
        """Runs the layers over sequences.

        Args:
            input: Real numbers, (L, N, input_size), or (N, L, input_size) if ``batch_first``, or
                (L, input_size) for one sequence; or a packed sequence.
            hx: The initial state, (layers · directions, N, hidden_size); for LSTM two of them.
                Zeros if not given.

        Returns:
            The last layer's outputs, in the form of ``input``, with directions · hidden_size
            features; and the last state, in the form of ``hx``.

        Raises:
            DTypeError: The input is quantized, or not floating point.
            ShapeError: Input or state has the wrong shape.
            NonFiniteError: NaN or infinity in the input, with integer weights.
        """
        if isinstance(input, PackedSequence):
            return self._forward_packed(input, hx)
        self._check_input(input, (2, 3))
        single = input.dim() == 2
        x = input.unsqueeze(1) if single else input
        x = x.transpose(0, 1) if self.batch_first and not single else x
        length, batch = x.shape[:2]
        if not (length and batch):
            raise ShapeError(f"{self._get_name()}: the sequence is empty", received=tuple(x.shape))
        shape = (self.num_layers * self._directions, batch, self.hidden_size)
        if single and hx is not None:
            hx = tuple(h.unsqueeze(1) for h in ((hx,) if isinstance(hx, Tensor) else hx))
        states = self._states(hx, shape, input)
        y, states = self._run(x.reshape(length * batch, -1), [batch] * length, states)
        y = y.reshape(length, batch, -1)
        if single:
            return y.squeeze(1), self._given(tuple(state.squeeze(1) for state in states))
        return (y.transpose(0, 1) if self.batch_first else y), self._given(states)

    def _forward_packed(self, packed: PackedSequence, hx: Hidden) -> tuple[PackedSequence, Hidden]:
        self._check_input(packed.data, (2,))
        sizes = packed.batch_sizes.tolist()
        shape = (self.num_layers * self._directions, sizes[0], self.hidden_size)
        states = self._states(hx, shape, packed.data)
        if hx is not None and packed.sorted_indices is not None:
            states = tuple(state.index_select(1, packed.sorted_indices) for state in states)
        y, states = self._run(packed.data, sizes, states)
        if packed.unsorted_indices is not None:
            states = tuple(state.index_select(1, packed.unsorted_indices) for state in states)
        return packed._replace(data=y), self._given(states)

    def _given(self, states: State) -> Hidden:
        return states if len(states) > 1 else states[0]

    def _run(self, x: Tensor, sizes: list[int], states: State) -> tuple[Tensor, State]:
        """All layers; x is (sum of ``sizes``, features), step after step."""
        last: list[State] = []
        suffixes = self._suffixes()
        for layer in range(self.num_layers):
            outputs = []
            for direction in range(self._directions):
                index = layer * self._directions + direction
                initial = tuple(state[index] for state in states)
                y, final = self._scan(suffixes[index], x, sizes, initial, direction == 1)
                outputs.append(y)
                last.append(final)
            x = torch.cat(outputs, -1)
            if layer + 1 < self.num_layers:
                x = nn.functional.dropout(x, self.dropout, self.training)
        return x, tuple(map(torch.stack, zip(*last, strict=True)))

    def _scan(
        self, suffix: str, x: Tensor, sizes: list[int], state: State, backwards: bool
    ) -> tuple[Tensor, State]:
        """One layer in one direction. Sequences that ended, or did not begin, keep their state."""
        hidden: Any = self.get_submodule(f"hh{suffix}")
        product = self.get_submodule(f"ih{suffix}")(x)
        bound = hidden.bound(state[0])
        if bound is not None and self._scannable(product, sizes, state):
            scanned = bound.scan(self.recurrence.scan, product, state, backwards=backwards)
            if scanned is not None:
                return scanned
        steps = list(product.split(sizes))
        outputs: list[Tensor] = []
        for from_input in reversed(steps) if backwards else steps:
            size = len(from_input)
            whole = size == len(state[0])
            running = state if whole else tuple(part[:size] for part in state)
            product = None if bound is None else bound(running[0])
            product = hidden(running[0]) if product is None else product
            new = self.recurrence.step(from_input, product, running)
            outputs.append(new[0])
            if not whole:
                waiting = (part[size:] for part in state)
                new = tuple(torch.cat(pair) for pair in zip(new, waiting, strict=True))
            state = new
        return torch.cat(outputs[::-1] if backwards else outputs), state

    def _scannable(self, product: Tensor, sizes: list[int], state: State) -> bool:
        """Whether compiled loops may run through a whole batch: all of one length, all dense."""
        unit = self.recurrence.scan
        whole = bool(unit) and sizes[0] == sizes[-1] and scannable(*state[0].shape)
        return whole and all(map(dense, (product, *state)))

    def extra_repr(self) -> str:
        defaults = {"num_layers": 1, "bias": True, "batch_first": False, "dropout": 0.0}
        return self._shown({**defaults, "bidirectional": False})


class LSTM(_Layer):
    """Long short-term memory whose inputs and states are quantized as they come.

    Args: those of ``torch.nn.LSTM`` but for ``proj_size``, and ``dtype`` of the weights.
    """

    float_type = nn.LSTM
    recurrence = LSTM_UNIT


class GRU(_Layer):
    """Gated recurrent units whose inputs and states are quantized as they come.

    Args: those of ``torch.nn.GRU``, and ``dtype`` of the weights.
    """

    float_type = nn.GRU
    recurrence = GRU_UNIT
