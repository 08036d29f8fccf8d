"""Counting compiled by numba: one pass over float32 data gives bins, sums and extrema.

Loaded by `qlab.counting` once a process has so much to count that it pays; importing this module
compiles, or reads what was compiled before from numba's cache (beside this file, or in the user's
cache folder where that is read-only; where neither can be written every process compiles anew).

Extrema are taken of keys, int32 in the order of the floats: ``bits ^ ((bits >> 31) & 0x7fffffff)``.
Integers are compared eight or more at a time without leave to reorder floats, and NaN, which lies
beyond the infinities, shows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import int32, int64, njit

KEYS = 2**16
BLOCK = 2**22  # elements between two drains: counts stay below 2**23, sums below 2**40
CHUNK = 2**11  # elements that stay in a core's first-level cache between extrema and counting
LEAST_KEY, MOST_KEY = -(2**31), 2**31 - 1
_UNIT = 2**40  # added with every offset, so that one sum holds count and offsets
_CARRY = 32
_MANY_ZEROS = 8  # from one zero in so many on it pays to take zeros out first


def _compiled(signature: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compiles at once, for one signature, without Python's global lock while it runs."""

    def compile_(function: Callable[..., Any]) -> Callable[..., Any]:
        try:
            return njit(signature, nogil=True, cache=True)(function)
        except (OSError, RuntimeError):  # no folder for the cache, or none that can be written
            return njit(signature, nogil=True)(function)

    return compile_


@_compiled("void(int32[::1], int64[::1])")
def _add(bits: Any, table: Any) -> None:
    """Adds elements to the table: ``[2k]`` is Σ(2**40 + o), ``[2k + 1]`` is Σo² of key k."""
    for i in range(bits.size):
        offset = int64(bits[i]) & 0xFFFF
        at = ((int64(bits[i]) >> 16) & 0xFFFF) * 2
        table[at] += _UNIT + offset
        table[at + 1] += offset * offset


@_compiled("void(int32[::1], int64[::1], int32[::1])")
def _add_chunk(bits: Any, table: Any, buffer: Any) -> None:
    """As `_add`; many zeros, as after ReLU, would each wait for the last one's sum: left out."""
    zeros = int32(0)
    for i in range(bits.size):
        zeros += int32(bits[i] == 0)
    if zeros * _MANY_ZEROS < bits.size:
        _add(bits, table)
        return
    others = 0
    for i in range(bits.size):
        buffer[others] = bits[i]
        others += int64(bits[i] != 0)
    table[0] += int64(zeros) * _UNIT
    _add(buffer[:others], table)


@_compiled("void(int32[::1], int32[::1], int32[::1])")
def _row_extrema(row: Any, low: Any, high: Any) -> None:
    """Least and greatest key of every channel, of one value each."""
    for c in range(row.size):
        key = row[c] ^ ((row[c] >> 31) & int32(MOST_KEY))
        low[c] = min(low[c], key)
        high[c] = max(high[c], key)


@_compiled("UniTuple(int32, 2)(int32[::1])")
def _ends(bits: Any) -> Any:
    """Least and greatest key."""
    least, most = int32(MOST_KEY), int32(LEAST_KEY)
    for i in range(bits.size):
        key = bits[i] ^ ((bits[i] >> 31) & int32(MOST_KEY))
        least = min(least, key)
        most = max(most, key)
    return least, most


@_compiled("void(int32[::1], int64, int64, int64[::1], int32[:, ::1])")
def _extrema(bits: Any, begin: int, end: int, shape: Any, ends: Any) -> None:
    """Least and greatest key of every channel of data ``(any, *shape)`` in memory."""
    channels, inner = shape[0], shape[1]
    low, high = ends[0], ends[1]
    if inner == 1:
        for row in range(begin, end, channels):
            _row_extrema(bits[row : min(row + channels, end)], low, high)
        return
    at = begin
    while at < end:
        until = min((at // inner + 1) * inner, end)
        least, most = _ends(bits[at:until])
        c = at // inner % channels
        low[c] = min(low[c], least)
        high[c] = max(high[c], most)
        at = until


@_compiled("void(int32[::1], int64[::1], int64[::1], int32[::1], int32[:, ::1])")
def tally(bits: Any, span: Any, table: Any, buffer: Any, ends: Any) -> None:
    """Counts a part of the data into the table and takes every channel's extrema.

    Args:
        bits: float32 data as int32, in the order of memory: ``(any, channels, inner)``.
        span: int64 ``(4,)``: the part's first element, where ``inner`` is 1 one of channel 0; one
            behind its last, at most `BLOCK` further; ``channels``, 1 for extrema of all; and
            ``inner``, the elements of one channel that follow each other.
        table: int64 ``(2 * KEYS,)``: as `_add` says; 0 before.
        buffer: int32 ``(CHUNK + 1,)``: room to work in.
        ends: int32 ``(2, channels)``: least and greatest keys so far.
    """
    begin, end, channels, inner = span[0], span[1], span[2], span[3]
    step = CHUNK if inner > 1 else max(CHUNK // channels, 1) * channels
    for first in range(begin, end, step):
        last = min(first + step, end)
        _extrema(bits, first, last, span[2:], ends)
        for part in range(first, last, CHUNK):
            _add_chunk(bits[part : min(part + CHUNK, last)], table, buffer)


@_compiled("int64(int64[::1], int64, int64[:, :])")
def _drain(table: Any, first: int, out: Any) -> int:
    """Moves what `tally` counted of the keys from ``first`` on into columns: key and rows."""
    found = 0
    for i in range(table.size // 2):
        total = table[2 * i]
        if total:
            out[0, found] = first + i
            out[1, found] = total >> 40
            out[2, found] = total & (_UNIT - 1)
            out[3, found] = table[2 * i + 1]
            out[4, found] = 0
            table[2 * i] = 0
            table[2 * i + 1] = 0
            found += 1
    return found


@_compiled("int64(int32[::1], int64[:, ::1], int32[::1], int64[:, ::1], int64[:, :])")
def _merge(keys_a: Any, rows_a: Any, keys_b: Any, rows_b: Any, out: Any) -> int:
    """Sum of two tables with ascending keys, as columns; carries what exceeds a lower limb."""
    i = j = found = 0
    while i < keys_a.size or j < keys_b.size:
        from_a = j == keys_b.size or (i < keys_a.size and keys_a[i] <= keys_b[j])
        from_b = i == keys_a.size or (j < keys_b.size and keys_b[j] <= keys_a[i])
        out[0, found] = keys_a[i] if from_a else keys_b[j]
        for row in range(4):
            mine, theirs = rows_a[row, i] if from_a else 0, rows_b[row, j] if from_b else 0
            out[1 + row, found] = mine + theirs
        carry = out[3, found] >> _CARRY
        out[3, found] -= carry << _CARRY
        out[4, found] += carry
        i += int64(from_a)
        j += int64(from_b)
        found += 1
    return found


def _table_of(columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return columns[0].astype(np.int32), np.ascontiguousarray(columns[1:])


def drain(table: np.ndarray, low: int, high: int) -> tuple[np.ndarray, np.ndarray]:
    """Empties a table that holds elements whose order keys lie from ``low`` to ``high``.

    Returns:
        Keys, int32 ``(K,)``, ascending, and rows, int64 ``(4, K)``.
    """
    spans = []
    if high >= 0:
        spans.append((max(low, 0) >> 16, high >> 16))
    if low < 0:  # of negative floats the one nearest 0 has the greatest order key
        spans.append((KEYS // 2 + (~min(high, -1) >> 16), KEYS // 2 + (~low >> 16)))
    columns, found = np.empty((5, sum(last - first + 1 for first, last in spans)), np.int64), 0
    for first, last in spans:
        found += _drain(table[2 * first : 2 * last + 2], first, columns[:, found:])
    return _table_of(columns[:, :found])


def merge(
    a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Sum of two tables, each with its keys ascending and each once."""
    columns = np.empty((5, min(a[0].size + b[0].size, KEYS)), np.int64)
    return _table_of(columns[:, : _merge(*a, *b, columns)])
