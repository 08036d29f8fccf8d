"""Long short-term memory whose steps can be observed and quantized."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Self

import torch
from torch import Tensor, nn

from qlab.dtypes import quint8
from qlab.errors import ArgumentError, DTypeError, ShapeError, UnsupportedError
from qlab.nn.quantizable.insides import INSIDES, check_source, qconfig_of
from qlab.nn.quantized.functional_modules import FloatFunctional
from qlab.ops import checks
from qlab.qtensor import QTensor, quantize_per_tensor

_GATES = ("input", "forget", "cell", "output")
Pair = tuple[Tensor, Tensor]


def _zeros(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """An initial state: zeros, quantized if ``x`` is, with scale 1."""
    zeros = torch.zeros(shape, device=x.device)
    return quantize_per_tensor(zeros, 1.0, 0, x.qdtype) if isinstance(x, QTensor) else zeros


class LSTMCell(nn.Module):
    """One time step: ``c' = f·c + i·g``, ``h' = o·tanh(c')``.

    Args:
        input_dim: Features of the input.
        hidden_dim: Features of the state.
        bias: Whether there are biases.
        device: Where the parameters lie.
        dtype: Of the parameters.
        split_gates: Keep a pair of linear layers for each gate, with scales of its own.
    """

    def __init__(
        self,
        input_dim: int,
        hidden_dim: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        split_gates: bool = False,
    ) -> None:
        super().__init__()
        sizes = (input_dim, hidden_dim)
        checks.whole_numbers("LSTMCell", "sizes", sizes, 2, minimum=1)
        self.input_size = input_dim
        self.hidden_size = hidden_dim
        self.bias = bias
        self.split_gates = split_gates

        def linear(features: int, length: int) -> nn.Linear:
            return nn.Linear(features, length, bias, device, dtype)

        if split_gates:
            self.igates = nn.ModuleDict({g: linear(input_dim, hidden_dim) for g in _GATES})
            self.hgates = nn.ModuleDict({g: linear(hidden_dim, hidden_dim) for g in _GATES})
            self.gates = nn.ModuleDict({g: FloatFunctional() for g in _GATES})
        else:
            self.igates = linear(input_dim, 4 * hidden_dim)
            self.hgates = linear(hidden_dim, 4 * hidden_dim)
            self.gates = FloatFunctional()
        self.input_gate, self.forget_gate = nn.Sigmoid(), nn.Sigmoid()
        self.cell_gate, self.output_gate = nn.Tanh(), nn.Sigmoid()
        self.fgate_cx, self.igate_cgate = FloatFunctional(), FloatFunctional()
        self.fgate_cx_igate_cgate, self.ogate_cy = FloatFunctional(), FloatFunctional()

    def forward(self, x: Tensor, hidden: Pair | None = None) -> Pair:
        """The next state.

        Args:
            x: (N, input_dim), real numbers, or quantized after convert.
            hidden: h and c, (N, hidden_dim) each; zeros if not given.

        Returns:
            The new h and c.
        """
        h, c = hidden or [_zeros(x, (x.shape[0], self.hidden_size))] * 2
        enter, forget, cell, out = self._gates(x, h)
        enter, forget = self.input_gate(enter), self.forget_gate(forget)
        cell, out = self.cell_gate(cell), self.output_gate(out)
        kept, new = self.fgate_cx.mul(forget, c), self.igate_cgate.mul(enter, cell)
        c = self.fgate_cx_igate_cgate.add(kept, new)
        return self.ogate_cy.mul(out, torch.tanh(c)), c

    def _gates(self, x: Tensor, h: Tensor) -> Sequence[Tensor]:
        gates: Any = self.gates
        if not self.split_gates:
            return gates.add(self.igates(x), self.hgates(h)).chunk(4, -1)
        ih: Any = self.igates
        hh: Any = self.hgates
        return [gates[gate].add(ih[gate](x), hh[gate](h)) for gate in _GATES]

    def initialize_hidden(self, batch_size: int, is_quantized: bool = False) -> Pair:
        """Zeros for h and c, (batch_size, hidden_dim) each; as quint8 with scale 1 if asked."""
        zeros = torch.zeros(batch_size, self.hidden_size)
        h: Tensor = quantize_per_tensor(zeros, 1.0, 0, quint8) if is_quantized else zeros
        return h, h

    @classmethod
    def from_params(
        cls,
        wi: Tensor,
        wh: Tensor,
        bi: Tensor | None = None,
        bh: Tensor | None = None,
        split_gates: bool = False,
    ) -> Self:
        """A cell of given weights.

        Args:
            wi: (4·hidden, input), the gates' weights one below the other.
            wh: (4·hidden, hidden).
            bi: (4·hidden,), or None.
            bh: (4·hidden,), or None.
            split_gates: As in the constructor.

        Raises:
            ArgumentError: Only one of the biases is given.
        """
        if (bi is None) != (bh is None):
            raise ArgumentError("LSTMCell: give both biases or none")
        made = cls(wi.shape[1], wh.shape[1], bi is not None, split_gates=split_gates)
        for linears, weight, bias in ((made.igates, wi, bi), (made.hgates, wh, bh)):
            targets: Any = linears.values() if isinstance(linears, nn.ModuleDict) else [linears]
            parts = len(targets)
            biases = [None] * parts if bias is None else bias.chunk(parts)
            for linear, w, b in zip(targets, weight.chunk(parts), biases, strict=True):
                linear.weight = nn.Parameter(w.detach().clone())
                linear.bias = None if b is None else nn.Parameter(b.detach().clone())
        return made

    @classmethod
    def from_float(
        cls,
        other: nn.Module,
        use_precomputed_fake_quant: bool = False,
        split_gates: bool = False,
    ) -> Self:
        """The quantizable form of ``nn.LSTMCell``; its ``qconfig`` is taken over.

        Raises:
            DTypeError: Another class of module.
            UncalibratedError: It has no ``qconfig``.
        """
        check_source(cls, other, nn.LSTMCell)
        source: Any = other
        bi, bh = (source.bias_ih, source.bias_hh) if source.bias else (None, None)
        made = cls.from_params(source.weight_ih, source.weight_hh, bi, bh, split_gates)
        vars(made)["qconfig"] = qconfig_of(other)
        return made.train(other.training)

    def _get_name(self) -> str:
        return f"Quantizable{type(self).__name__}"


class _Direction(nn.Module):
    """A cell run along the sequence."""

    def __init__(self, cell: LSTMCell) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x: Tensor, hidden: Pair) -> tuple[Tensor, Pair]:
        outputs = []
        for index in range(x.shape[0]):
            hidden = self.cell(x[index], hidden)
            outputs.append(hidden[0])
        return torch.stack(outputs, 0), hidden


class _Layer(nn.Module):
    """One or two directions over the same input."""

    def __init__(self, forward: LSTMCell, backward: LSTMCell | None) -> None:
        super().__init__()
        self.layer_fw = _Direction(forward)
        self.layer_bw = None if backward is None else _Direction(backward)

    def forward(self, x: Tensor, states: Sequence[Pair]) -> tuple[Tensor, list[Pair]]:
        y, state = self.layer_fw(x, states[0])
        if self.layer_bw is None:
            return y, [state]
        back, last = self.layer_bw(x.flip(0), states[1])
        return torch.cat([y, back.flip(0)], -1), [state, last]


class LSTM(nn.Module):
    """Layers of `LSTMCell`; arguments as ``torch.nn.LSTM``, dropout is ignored.

    ``prepare`` puts it in the place of ``torch.nn.LSTM``; ``convert`` makes it a
    `qlab.nn.quantized.LSTM`.

    Args:
        input_size: Features of the input.
        hidden_size: Features of the state.
        num_layers: Layers on top of each other.
        bias: Whether there are biases.
        batch_first: Whether tensors are (N, L, features) rather than (L, N, features).
        dropout: Kept, not applied: train with ``torch.nn.LSTM``.
        bidirectional: Whether a second direction runs from the end.
        device: Where the parameters lie.
        dtype: Of the parameters.
        split_gates: Keep a pair of linear layers for each gate, with scales of its own.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        split_gates: bool = False,
    ) -> None:
        super().__init__()
        checks.whole_numbers("LSTM", "number of layers", num_layers, 1, minimum=1)
        checks.number("LSTM", "dropout", dropout)
        if not 0 <= dropout <= 1:
            raise ArgumentError(
                "LSTM: arguments out of range",
                expected="dropout from 0 to 1",
                received=f"dropout={dropout}",
            )
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.bias = bias
        self.batch_first = batch_first
        self.dropout = float(dropout)
        self.bidirectional = bidirectional
        directions = 2 if bidirectional else 1
        sizes = [input_size, *[directions * hidden_size] * num_layers]

        def cell(size: int) -> LSTMCell:
            return LSTMCell(size, hidden_size, bias, device, dtype, split_gates=split_gates)

        self.layers = nn.ModuleList(
            _Layer(cell(size), cell(size) if bidirectional else None) for size, _ in pairwise(sizes)
        )

    def forward(self, x: Tensor, hidden: Pair | None = None) -> tuple[Tensor, Pair]:
        """Runs the layers over sequences.

        Args:
            x: (L, N, input_size), or (N, L, input_size) if ``batch_first``; real numbers, or
                quantized after convert.
            hidden: h and c, (layers · directions, N, hidden_size) each, quantized if ``x`` is;
                zeros if not given.

        Returns:
            The outputs, with directions · hidden_size features, and the last h and c.

        Raises:
            ShapeError: Input or state has the wrong shape.
            DTypeError: One of input and state is quantized, the other not.
        """
        checks.tensor(self._get_name(), "input", x)
        if x.dim() != 3 or x.shape[-1] != self.input_size or not x.shape[1 - self.batch_first]:
            raise ShapeError(
                f"{self._get_name()}: the input has the wrong shape",
                expected=f"three axes, the last of length {self.input_size}",
                received=f"shape {tuple(x.shape)}",
            )
        x = x.transpose(0, 1) if self.batch_first else x
        states = self._initial(x, hidden)
        last: list[Pair] = []
        directions = 2 if self.bidirectional else 1
        for index, layer in enumerate(self.layers):
            x, new = layer(x, states[index * directions : (index + 1) * directions])
            last += new
        h, c = (torch.stack(list(part), 0) for part in zip(*last, strict=True))
        return (x.transpose(0, 1) if self.batch_first else x), (h, c)

    def _initial(self, x: Tensor, hidden: Pair | None) -> list[Pair]:
        count = self.num_layers * (2 if self.bidirectional else 1)
        shape = (x.shape[1], self.hidden_size)
        if hidden is None:
            zeros = _zeros(x, shape)
            return [(zeros, zeros)] * count
        for part in hidden:
            if part.shape != (count, *shape):
                raise ShapeError(
                    f"{self._get_name()}: the initial state does not fit the input",
                    expected=f"shape {(count, *shape)}",
                    received=f"shape {tuple(part.shape)}",
                )
            if part.is_quantized != x.is_quantized:
                raise DTypeError(
                    f"{self._get_name()}: input and initial state are not of one kind",
                    expected="both quantized, or both real numbers",
                    received=f"{type(x).__name__} and {type(part).__name__}",
                )
        h, c = hidden
        return [(h[index], c[index]) for index in range(count)]

    @classmethod
    def from_float(cls, other: nn.Module, qconfig: Any = None, split_gates: bool = False) -> Self:
        """The observed form of ``nn.LSTM``.

        Args:
            other: With a ``qconfig``.
            qconfig: Instead, if it has none.
            split_gates: As in the constructor.

        Raises:
            DTypeError: Another class of module.
            UncalibratedError: There is no qconfig.
            UnsupportedError: It has a projection.
        """
        check_source(cls, other, nn.LSTM)
        source: Any = other
        if source.proj_size:
            raise UnsupportedError(
                "LSTM: projections have no quantized form",
                expected="proj_size=0",
                received=f"proj_size={source.proj_size}",
            )
        made = cls(
            source.input_size,
            source.hidden_size,
            source.num_layers,
            source.bias,
            source.batch_first,
            source.dropout,
            source.bidirectional,
            split_gates=split_gates,
        )
        for index, layer in enumerate(made.layers):
            for name, suffix in (("layer_fw", ""), ("layer_bw", "_reverse")):
                direction = getattr(layer, name)
                if direction is not None:
                    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")[
                        : 4 if made.bias else 2
                    ]
                    given = (getattr(source, f"{n}_l{index}{suffix}") for n in names)
                    direction.cell = LSTMCell.from_params(*given, split_gates=split_gates)
        vars(made)["qconfig"] = qconfig_of(other, qconfig)
        made.train(other.training)
        INSIDES.prepare(made)
        return made

    @classmethod
    def from_observed(cls, other: nn.Module) -> Self:
        """Raises `UnsupportedError`: see `qlab.nn.quantized.LSTM`."""
        raise UnsupportedError(
            "A quantizable LSTM is made from a float one",
            fix="Call qlab.nn.quantized.LSTM.from_observed, or convert on the model.",
        )

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}, num_layers={self.num_layers}"

    def _get_name(self) -> str:
        return f"Quantizable{type(self).__name__}"
