"""Counting a tensor's elements into bins: with torch on any device, or compiled on the CPU.

What either gives is the same bit by bit, since all sums are of integers.
"""

from __future__ import annotations

import importlib
import math
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

KEYS = 2**16
CARRY = 32  # bits of the lower limb of a sum of squares
ROWS = 4  # count, sum of offsets, sum of squared offsets in two limbs
_LOW = 0xFFFF
_INFINITY_KEY = 0x7F80  # keys from here on (sign aside) hold infinity and NaN
# Elements per call: temporaries stay in a core's second-level cache, and torch, which would share
# more than these among its own threads, waits for none.
_CHUNK = 2**15
_SHARE = 2**16  # elements that are worth a thread of their own
_FEW = 2**12  # up to so many elements, sorting them beats counting in a full-length array
_BLOCK = 2**22  # elements per flush: sums of offsets then stay below _UNIT
_UNIT = 2**40  # added to every element's bits, so that their sum tells how many they were
_KEY_WORD = 1 if sys.byteorder == "little" else 0
_SHORT_ROWS = 2**10  # images of fewer pixels are reduced over the batch first, in long rows
_ROW = 2**9  # elements that a loop over channels takes at least
_FEW_CHANNELS = 2**16  # of more the extrema would not stay in a cache
# To load the compiled kernels costs a process about half a second, as counting so many elements
# with torch does. So whatever it has to count, it never spends much more than twice the least.
LOADING_PAYS = 2**26

Table = tuple[Tensor, Tensor]
_ArrayTable = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Counted:
    """What one pass over a tensor found.

    Attributes:
        table: Keys, int32 ``(K,)``, ascending and each once, and rows, int64 ``(4, K)``: counts,
            sums of offsets, sums of squared offsets (lower and upper limb); not finite ones too.
        low: Least value of each channel, float32 ``(C,)``; of all, ``(1,)``, without channels.
        high: Greatest value, likewise.
        finite: Whether all values are; the extrema mean nothing where they are not.
    """

    table: Table
    low: Tensor
    high: Tensor
    finite: bool


def empty_table() -> Table:
    """Keys and table of a histogram that has seen nothing."""
    return torch.zeros(0, dtype=torch.int32), torch.zeros(ROWS, 0, dtype=torch.int64)


@lru_cache(maxsize=1)
def load() -> ModuleType | None:
    """The compiled kernels, loaded once per process; None where compiling is switched off."""
    numba = importlib.import_module("numba")
    if numba.config.DISABLE_JIT:
        return None
    return importlib.import_module("qlab.compiled")


def loaded() -> bool:
    """Whether this process has loaded the compiled kernels."""
    return load.cache_info().currsize > 0


class _Spent:
    """How many elements this process has counted with torch; threads may lose a few."""

    elements = 0


def _kernels(x: Tensor) -> ModuleType | None:
    """The compiled kernels for a tensor, where they serve it and pay."""
    if x.device.type != "cpu" or x.numel() <= _FEW:
        return None
    if not loaded():
        _Spent.elements += x.numel()
        if _Spent.elements <= LOADING_PAYS:
            return None
    return load()


def count_compiled(x: Tensor, channel_axis: int | None) -> Counted | None:
    """Bins and extrema of a tensor in one pass over its memory; None where torch is to do it.

    Args:
        x: float32, any shape and device; NaN and infinity included.
        channel_axis: The axis whose indices get extrema of their own, 0 or above; None for none.
    """
    kernels = _kernels(x)
    if kernels is None:
        return None
    flat, channels, inner = _in_memory_order(x, channel_axis)
    if channels > _FEW_CHANNELS:
        return None
    return _Tally(kernels, flat.view(torch.int32).numpy(), channels, inner).run()


class _Tally:
    """One compiled pass over data ``(any, channels, inner)``, shared among threads."""

    _own = threading.local()  # each thread's table and buffer, which a drain leaves as new

    def __init__(self, kernels: ModuleType, bits: np.ndarray, channels: int, inner: int) -> None:
        self.kernels, self.bits, self.channels, self.inner = kernels, bits, channels, inner
        self.unit = channels if inner == 1 else 1  # a share begins at channel 0
        # Short rows are taken several at a time, each column with extrema of its own.
        self.width = channels * max(_ROW // channels, 1) if inner == 1 else channels

    def run(self) -> Counted:
        """Counts everything, in as many threads as torch uses."""
        units = self.bits.size // self.unit
        shares = max(min(torch.get_num_threads(), self.bits.size // _SHARE, units), 1)
        at = [self.unit * (units * i // shares) for i in range(shares + 1)]
        tasks = [
            _workers(os.getpid()).submit(self._share, *at[i : i + 2]) for i in range(1, shares)
        ]
        table, ends = self._share(*at[:2])
        for task in tasks:
            other, others = task.result()
            table = self.kernels.merge(table, other)
            np.minimum(ends[0], others[0], out=ends[0])
            np.maximum(ends[1], others[1], out=ends[1])
        low = ends[0].reshape(-1, self.channels).min(0)
        high = ends[1].reshape(-1, self.channels).max(0)
        finite = low.min() > -0x7F80_0001 and high.max() < 0x7F80_0000
        keys, rows = map(torch.from_numpy, table)
        return Counted((keys, rows), _floats(low), _floats(high), bool(finite))

    def _share(self, begin: int, end: int) -> tuple[_ArrayTable, np.ndarray]:
        """The table of ``bits[begin:end]``, and every column's least and greatest order key."""
        kernels, own = self.kernels, self._own
        if not hasattr(own, "buffer"):
            own.buffer = np.zeros(kernels.CHUNK + 1, np.int32)
        ends = np.empty((2, self.width), np.int32)
        ends[0], ends[1] = kernels.MOST_KEY, kernels.LEAST_KEY
        step = max(kernels.BLOCK // self.unit, 1) * self.unit
        found: _ArrayTable = np.empty(0, np.int32), np.empty((ROWS, 0), np.int64)
        for first in range(begin, end, step):
            table = own.__dict__.pop("table", None)  # gone if this is interrupted
            table = np.zeros(2 * KEYS, np.int64) if table is None else table
            span = np.array([first, min(first + step, end), self.width, self.inner])
            kernels.tally(self.bits, span, table, own.buffer, ends)
            drained = kernels.drain(table, int(ends[0].min()), int(ends[1].max()))
            own.table = table
            found = kernels.merge(found, drained) if found[0].size else drained
        return found, ends


def _floats(keys: np.ndarray) -> Tensor:
    """The floats of order keys; 0 for either zero."""
    bits = keys ^ ((keys >> 31) & np.int32(0x7FFFFFFF))
    return torch.from_numpy(bits.view(np.float32) + np.float32(0))


def _in_memory_order(x: Tensor, channel_axis: int | None) -> tuple[Tensor, int, int]:
    """All elements as they lie in memory, and what ``(any, channels, inner)`` they form.

    Without a copy where the memory has no gaps.
    """
    order = sorted(range(x.dim()), key=x.stride, reverse=True)
    flat = x.permute(order).reshape(-1).contiguous()
    if channel_axis is None:
        return flat, 1, x.numel()
    behind = order[order.index(channel_axis) + 1 :]
    return flat, x.shape[channel_axis], math.prod(x.shape[axis] for axis in behind)


def extrema(x: Tensor, channel_axis: int | None) -> tuple[Tensor, Tensor]:
    """Minimum and maximum over all dimensions, or all but that of the channels, with torch."""
    if channel_axis is None:
        return x.aminmax()
    others = [d for d in range(x.dim()) if d != channel_axis]
    if x.dim() == 4 and channel_axis == 1:
        if x.is_contiguous(memory_format=torch.channels_last):
            # Channels last: over the batch first, in long rows, then over what is left.
            rows, channels = x.permute(0, 2, 3, 1).flatten(1), x.shape[1]
            low, high = rows.amin(0).view(-1, channels), rows.amax(0).view(-1, channels)
            return low.amin(0), high.amax(0)
        if x.stride(1) < _SHORT_ROWS:
            low, high = x.amin(0), x.amax(0)
            return low.amin((1, 2)), high.amax((1, 2))
    return (x.amin(others), x.amax(others)) if others else (x, x)


def count_keys(x: Tensor) -> Table:
    """Sorts the elements of a tensor into bins, with torch.

    Args:
        x: float32, any shape and device; NaN and infinity included.

    Returns:
        Keys, int32 ``(K,)``, in any order and possibly repeated, and the table, int64 ``(4, K)``:
        counts, sums of offsets, sums of squared offsets (lower and upper limb). Both are on the
        CPU, exact, and meant for `add_tables`.
    """
    flat = _in_memory_order(x, None)[0]
    if flat.numel() <= _FEW:
        bits = flat.cpu().view(torch.int32)
        offsets = (bits & _LOW).to(torch.int64)
        table = torch.stack([torch.ones_like(offsets), offsets, offsets.square(), offsets * 0])
        return (bits >> 16) & _LOW, table
    blocks = [_count_block(block) for block in flat.split(_BLOCK)]
    keys, tables = zip(*blocks, strict=True)
    return torch.cat(keys), torch.cat(tables, 1)


def _count_block(block: Tensor) -> tuple[Tensor, Tensor]:
    sums, squares = _count_shared(block)
    keys = sums.nonzero().flatten()
    sums, squares, keys = sums[keys].cpu(), squares[keys].cpu(), keys.cpu()
    base = keys.to(torch.int16).to(torch.int64) << 16  # the bits of the bin's first float, signed
    counts = torch.div(sums, base + _UNIT, rounding_mode="floor")
    offsets = sums - counts * (base + _UNIT)
    squares -= (base + _UNIT) * (2 * offsets + counts * (base + _UNIT))
    return keys.to(torch.int32), torch.stack([counts, offsets, squares, squares * 0])


def _count_shared(block: Tensor) -> tuple[Tensor, Tensor]:
    """Counts in as many threads as torch uses; sums of integers do not depend on how many.

    Torch's own threads would meet after each of the steps; these meet once, so that a busy
    machine slows them down no more than anything else.
    """
    shares = min(torch.get_num_threads(), block.numel() // _SHARE)
    if block.device.type != "cpu" or shares < 2:
        return _count_dense(block)
    first, *others = block.tensor_split(shares)
    tasks = [_workers(os.getpid()).submit(_count_dense, share) for share in others]
    sums, squares = _count_dense(first)
    for task in tasks:
        for mine, theirs in zip((sums, squares), task.result(), strict=True):
            mine += theirs
    return sums, squares


@lru_cache(maxsize=1)
def _workers(process: int) -> ThreadPoolExecutor:
    """The threads of a process; a forked one has none of its parent's."""
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix=f"qlab-count-{process}")


def _count_dense(flat: Tensor) -> tuple[Tensor, Tensor]:
    """Σv and Σv² modulo 2**64 of every key, int64 ``(KEYS,)`` each, where v is 2**40 + the bits.

    A bin's n elements have bits b + o, b the bin's and o the offset. So Σv = n·(2**40 + b) + Σo
    holds both n and Σo, as Σo is below 2**40, and Σv² gives Σo², which is below 2**63. Fewer and
    smaller steps per element than to take offset and count apart first.
    """
    size = min(_CHUNK, flat.numel()) if flat.device.type == "cpu" else flat.numel()
    sums, squares = torch.zeros(2, KEYS, dtype=torch.int64, device=flat.device)
    index, value = torch.empty(2, size, dtype=torch.int64, device=flat.device)
    for part in flat.split(size):
        if part.numel() < size:
            index, value = index[: part.numel()], value[: part.numel()]
        index.copy_(part.view(torch.uint16)[_KEY_WORD::2])
        value.copy_(part.view(torch.int32)).add_(_UNIT)
        sums.scatter_add_(0, index, value)
        squares.scatter_add_(0, index, value.mul_(value))
    return sums, squares


def add_tables(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Sum of two histograms, with their keys in ascending order of bits, each once."""
    keys, where = torch.unique(torch.cat([a[0], b[0]]), return_inverse=True)
    table = torch.zeros(ROWS, keys.numel(), dtype=torch.int64)
    table.index_add_(1, where, torch.cat([a[1], b[1]], dim=1))
    carry = table[2] >> CARRY
    table[2] -= carry << CARRY
    table[3] += carry
    return keys, table


def merge_tables(a: Table, b: Table) -> Table:
    """As `add_tables`, of tables whose keys are already in order and each once."""
    kernels = load() if loaded() else None
    if kernels is None:
        return add_tables(a, b)
    keys, rows = kernels.merge(*([part.numpy() for part in table] for table in (a, b)))
    return torch.from_numpy(keys), torch.from_numpy(rows)


def without_nonfinite(keys: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
    """Drops the bins of infinity and NaN."""
    finite = (keys & 0x7FFF) < _INFINITY_KEY
    if bool(finite.all()):
        return keys, table
    return keys[finite], table[:, finite]


#: How many values are kept as they are: so many even out within a bin, to about 1 %.
KEPT_VALUES = 2**16


def keep_values(kept: tuple[Tensor, int], x: Tensor, count: int) -> Tensor:
    """Values of a tensor that are few enough to be kept.

    Args:
        kept: Those kept so far, float32 ``(K,)`` on the CPU, and how many finite ones were seen.
        x: More, float32, any shape and device; what is not finite is left out.
        count: How many finite ones were seen with them.

    Returns:
        All of them in no order, float32 ``(count,)``; empty where they are too many, or were not
        all kept before.
    """
    values, before = kept
    if count > KEPT_VALUES or values.numel() != before:
        return torch.zeros(0)
    more = x.flatten()
    more = (more if more.numel() == count - before else more[more.isfinite()]).cpu()
    return torch.cat([values, more + 0.0])  # one zero: -0.0 would tell apart equal statistics
