"""Whole sequences of LSTM and GRU on int8 codes, with few calls per time step.

The arithmetic is that of the units' definitions in `qlab.nn.quantized.dynamic.recurrent`, bit by
bit: products by `torch._int_mm`, sigmoid and tanh by PyTorch, and compiled loops for the rest, all
in memory that is taken once per sequence.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from qlab.ops.compiled import Product, Quantized
from qlab.ops.kernels import count

_FLOAT = 4  # bytes
#: PyTorch's sigmoid computes what is left of a row after blocks of so many elements otherwise, and
#: cuts tensors of more elements than the second number into one part per thread.
_BLOCK, _GRAIN = 32, 32768
Step = Callable[[int, int, int], None]
"""Runs a step: addresses of the input's product, of the state before and of the state after."""


def _loops() -> Any:
    from qlab.ops import recurrent_loops

    return recurrent_loops


def scannable(rows: int, size: int) -> bool:
    """Whether `scan` gives a step's results bit by bit for so many sequences and features."""
    return size % _BLOCK == 0 and 3 * rows * size <= _GRAIN


def scan(
    unit: str,
    layer: tuple[Product, tuple[int, int], float],
    given: Tensor,
    state: Sequence[Tensor],
    *,
    backwards: bool = False,
) -> tuple[Tensor, tuple[Tensor, ...]] | None:
    """One layer in one direction over sequences of one length, of a shape that is `scannable`.

    Args:
        unit: ``"lstm"`` or ``"gru"``.
        layer: The state's product, the limits of the state's quint8 codes, the smallest scale.
        given: The input's product, step after step, (L · N, gates · size), float32 and dense.
        state: h, for LSTM and c, each (N, size), float32 and dense.
        backwards: Whether to begin at the end.

    Returns:
        The outputs, (L · N, size), and the last state; None where a state is not finite.
    """
    product, limits, least = layer
    rows, size = state[0].shape
    length = len(given) // rows
    outputs = torch.empty((length, rows, size), dtype=torch.float32)
    quantized = Quantized((rows, size), limits, least)
    sums = torch.empty((rows, product.outputs), dtype=torch.int32)
    step, kept = _UNITS[unit](product, sums, quantized.found, state)
    given_at, outputs_at = given.data_ptr(), outputs.data_ptr()
    given_row, outputs_row = _FLOAT * rows * product.outputs, _FLOAT * rows * size
    before = state[0].data_ptr()
    for at in range(length - 1, -1, -1) if backwards else range(length):
        if not quantized(before):
            return None
        torch._int_mm(quantized.codes, product.turned, out=sums)  # pyright: ignore[reportPrivateImportUsage]
        after = outputs_at + at * outputs_row
        step(given_at + at * given_row, before, after)
        before = after
    count("linear", "onednn", length)
    last = outputs[0 if backwards else -1].clone()
    return outputs.view(-1, size), (last, *kept)


def _lstm(
    product: Product, sums: Tensor, found: ctypes.Array[Any], state: Sequence[Tensor]
) -> tuple[Step, tuple[Tensor, ...]]:
    loops, (rows, size), n = _loops(), state[0].shape, state[0].numel()
    gates, c = torch.empty((4, rows, size)), state[1].clone()
    bounded, cell, squashed = gates[:3], gates[3], torch.empty_like(c)
    make, update, times = loops.lstm_gates(), loops.lstm_cell(), loops.times()
    gates_at, c_at, squashed_at = gates.data_ptr(), c.data_ptr(), squashed.data_ptr()
    out_at, read = gates[2].data_ptr(), (sums.data_ptr(), *product.addresses, found)

    def step(given: int, before: int, after: int) -> None:
        make(*read, given, gates_at, rows, size)
        bounded.sigmoid_()
        cell.tanh_()
        update(gates_at, c_at, n)
        torch.tanh(c, out=squashed)
        times(out_at, squashed_at, after, n)

    return step, (c,)


def _gru(
    product: Product, sums: Tensor, found: ctypes.Array[Any], state: Sequence[Tensor]
) -> tuple[Step, tuple[Tensor, ...]]:
    loops, (rows, size), n = _loops(), state[0].shape, state[0].numel()
    gates = torch.empty((3, rows, size))
    bounded, new = gates[:2], gates[2]
    make, reset, update = loops.gru_gates(), loops.gru_new(), loops.gru_state()
    gates_at, read = gates.data_ptr(), (sums.data_ptr(), *product.addresses, found)

    def step(given: int, before: int, after: int) -> None:
        make(*read, given, gates_at, rows, size)
        bounded.sigmoid_()
        reset(gates_at, given, rows, size)
        new.tanh_()
        update(gates_at, before, after, n)

    return step, ()


_UNITS = {"lstm": _lstm, "gru": _gru}
