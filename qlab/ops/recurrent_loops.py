"""What a time step of a recurrent unit does between its product and its sigmoids, in few passes.

As in `qlab.ops.loops`: float32, every operation rounded, in the order of the units' definitions.
Only `qlab.ops.recurrent` calls them. Gates lie one after the other, (gate, batch, size), those of a
sigmoid before those of a tanh, so that PyTorch's sigmoid and tanh go through them in one call each.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numba import carray, types  # pyright: ignore[reportPrivateImportUsage]

from qlab.ops.loops import Loop, machine_code

_INT, _FLOAT = types.int64, types.float32
_PRODUCT = (types.int32, types.int32, _FLOAT, _FLOAT, types.float64)


def _lstm_gates(sums_at, offsets_at, scales_at, bias_at, found_at, given_at, gates_at, rows, size):
    sums, given = carray(sums_at, (rows, 4, size)), carray(given_at, (rows, 4, size))
    offsets, scales = carray(offsets_at, (4, size)), carray(scales_at, (4, size))
    bias, gates = carray(bias_at, (4, size)), carray(gates_at, (4, rows, size))
    found = carray(found_at, 2)
    scale, zero_point = np.float32(found[0]), np.int32(found[1]) - np.int32(128)
    for r in range(rows):
        for g in range(4):
            place = g if g < 2 else 5 - g  # input, forget, output; the cell comes last
            for c in range(size):
                total = np.float32(np.int32(sums[r, g, c] - zero_point * offsets[g, c]))
                product = total * (scales[g, c] * scale) + bias[g, c]
                gates[place, r, c] = given[r, g, c] + product


@cache
def lstm_gates() -> Loop:
    """``W_ih x + b_ih + f32(sums - z · offsets) · (scales · s) + bias``, gate by gate.

    Takes the addresses of int32 sums (rows, 4, size) and offsets, of float32 scales and bias, of
    two float64 s and z + 128, of the input's product (rows, 4, size) and of the gates
    (input, forget, output, cell; rows; size); then rows and size.
    """
    return machine_code(_lstm_gates, (*_PRODUCT, _FLOAT, _FLOAT), [_INT, _INT])


def _lstm_cell(gates_at, c_at, n):
    gates, c = carray(gates_at, (4, n)), carray(c_at, n)
    for k in range(n):
        c[k] = gates[1, k] * c[k] + gates[0, k] * gates[3, k]


@cache
def lstm_cell() -> Loop:
    """``c = forget · c + input · cell``. Takes the addresses of gates and c, and its length."""
    return machine_code(_lstm_cell, (_FLOAT, _FLOAT), [_INT])


def _times(a_at, b_at, y_at, n):
    a, b, y = carray(a_at, n), carray(b_at, n), carray(y_at, n)
    for k in range(n):
        y[k] = a[k] * b[k]


@cache
def times() -> Loop:
    """``y = a · b`` of float32. Takes their addresses and their length."""
    return machine_code(_times, (_FLOAT, _FLOAT, _FLOAT), [_INT])


def _gru_gates(sums_at, offsets_at, scales_at, bias_at, found_at, given_at, gates_at, rows, size):
    sums, given = carray(sums_at, (rows, 3, size)), carray(given_at, (rows, 3, size))
    offsets, scales = carray(offsets_at, (3, size)), carray(scales_at, (3, size))
    bias, gates = carray(bias_at, (3, size)), carray(gates_at, (3, rows, size))
    found = carray(found_at, 2)
    scale, zero_point = np.float32(found[0]), np.int32(found[1]) - np.int32(128)
    for r in range(rows):
        for g in range(3):
            for c in range(size):
                total = np.float32(np.int32(sums[r, g, c] - zero_point * offsets[g, c]))
                product = total * (scales[g, c] * scale) + bias[g, c]
                gates[g, r, c] = given[r, g, c] + product if g < 2 else product


@cache
def gru_gates() -> Loop:
    """As `lstm_gates` for reset and update; the third gate is the state's product alone."""
    return machine_code(_gru_gates, (*_PRODUCT, _FLOAT, _FLOAT), [_INT, _INT])


def _gru_new(gates_at, given_at, rows, size):
    gates, given = carray(gates_at, (3, rows, size)), carray(given_at, (rows, 3, size))
    for r in range(rows):
        for c in range(size):
            gates[2, r, c] = given[r, 2, c] + gates[0, r, c] * gates[2, r, c]


@cache
def gru_new() -> Loop:
    """``W_n x + reset · W_n h``. Takes the addresses of gates and input product, rows, size."""
    return machine_code(_gru_new, (_FLOAT, _FLOAT), [_INT, _INT])


def _gru_state(gates_at, before_at, y_at, n):
    gates, before, y = carray(gates_at, (3, n)), carray(before_at, n), carray(y_at, n)
    for k in range(n):
        y[k] = (before[k] - gates[2, k]) * gates[1, k] + gates[2, k]


@cache
def gru_state() -> Loop:
    """``(h - new) · update + new``. Takes the addresses of gates, h and result, and a length."""
    return machine_code(_gru_state, (_FLOAT, _FLOAT, _FLOAT), [_INT])
