"""The cache of what kernels derive from a weight."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
#: Shapes of inputs for which a layer stays bound; the one used longest ago goes first.
SHAPES = 4
_Stamp = tuple[weakref.ref[Tensor], int, int] | None


@dataclass(frozen=True, slots=True)
class _Entry:
    key: Hashable
    stamps: tuple[_Stamp, ...]
    values: tuple[tuple[Hashable, Any], ...]  # by place, the last used first


@dataclass(frozen=True, slots=True)
class Ready:
    """A layer's call, checked and bound to everything but its input.

    Attributes:
        shape: Of the inputs that it serves.
        dtype: Likewise.
        device: Likewise.
        on_cpu: Whether that is the CPU.
        forced: The kernel that `qlab.ops.use` asked for.
        x_qparams: How the input is read.
        y_qparams: How the output is written; None for float32.
        run: Computes the call, and counts it.
    """

    shape: torch.Size
    dtype: torch.dtype
    device: torch.device
    on_cpu: bool
    forced: str | None
    x_qparams: Any
    y_qparams: Any
    stamps: tuple[_Stamp, ...]
    run: Callable[[Tensor], Tensor]

    def serves(
        self, x: object, asked: str | None, weight: Tensor | None, bias: Tensor | None
    ) -> bool:
        """Whether the call would be the same for another input and these weight and bias."""
        if type(x) is not Tensor or x.dtype is not self.dtype or x.shape != self.shape:
            return False
        if asked != self.forced or not (x.is_cpu if self.on_cpu else x.device == self.device):
            return False
        return unchanged(weight, self.stamps[0]) and unchanged(bias, self.stamps[1])


@dataclass(frozen=True, slots=True)
class ReadySum:
    """As `Ready`, of a layer whose result goes into a sum with a second tensor of codes.

    Attributes:
        first: What the first input must be; its ``run`` is not used.
        shape: Of the second.
        dtype: Likewise.
        other_qparams: How it is read.
        run: Computes the call, and counts it. Given True beside the two, it may write to the
            second.
    """

    first: Ready
    shape: torch.Size
    dtype: torch.dtype
    other_qparams: Any
    run: Callable[..., Tensor]

    def serves(
        self,
        x: object,
        other: object,
        asked: str | None,
        weight: Tensor | None,
        bias: Tensor | None,
    ) -> bool:
        """Whether the call would be the same for other inputs and these weight and bias."""
        if type(other) is not Tensor or other.dtype is not self.dtype or other.shape != self.shape:
            return False
        here = other.is_cpu if self.first.on_cpu else other.device == self.first.device
        return here and self.first.serves(x, asked, weight, bias)


def stamps_of(*tensors: Tensor | None) -> tuple[_Stamp, ...]:
    """What `Ready.serves` knows tensors by."""
    return tuple(map(_stamp, tensors))


class PackedWeight:
    """Holds a layer's weight in a kernel's own layout; rebuilt when the weight changes.

    A cache and nothing else: it is never part of a ``state_dict``, and copying or pickling gives
    an empty one. An entry is valid as long as the tensors it was built from are the same objects
    with the same storage and the same version counter. Changes that PyTorch does not count
    (through NumPy or ``.data``, or to inference tensors) call for `clear`.

    A call stays bound for the last `SHAPES` shapes of its inputs. oneDNN's layout of a convolution
    belongs to a shape: at most four copies of the weight as int8, one where the shape never varies.
    Threads may share a cache: entries are replaced as a whole, and one that gets lost is rebuilt.
    """

    __slots__ = ("_entries", "ready", "ready_sum")

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}
        self.ready: Ready | None = None
        self.ready_sum: ReadySum | None = None

    def clear(self) -> None:
        """Forgets everything."""
        self._entries.clear()
        self.ready = self.ready_sum = None

    def get(
        self,
        name: str,
        tensors: tuple[Tensor | None, ...],
        key: Hashable,
        build: Callable[[], T],
        *,
        place: Hashable = None,
    ) -> T:
        """What ``build()`` returned for these tensors, key and place, or returns now.

        Args:
            name: Which of the derived values.
            tensors: The tensors that ``build`` reads.
            key: Everything else that it reads; only values of one key are kept.
            build: Makes the value.
            place: Shapes that it reads; values for the last `SHAPES` of them are kept.
        """
        entry = self._entries.get(name)
        if entry is None or entry.key != key or not all(map(unchanged, tensors, entry.stamps)):
            entry = _Entry(key, tuple(map(_stamp, tensors)), ())
        for index, (known, value) in enumerate(entry.values):
            if known == place:
                if index:
                    self._put(name, entry, place, value)
                return value
        value = build()
        self._put(name, entry, place, value)
        return value

    def _put(self, name: str, entry: _Entry, place: Hashable, value: object) -> None:
        others = tuple(other for other in entry.values if other[0] != place)
        values = ((place, value), *others[: SHAPES - 1])
        self._entries[name] = _Entry(entry.key, entry.stamps, values)

    def __copy__(self) -> PackedWeight:
        return PackedWeight()

    def __deepcopy__(self, memo: dict[int, Any]) -> PackedWeight:
        return PackedWeight()

    def __reduce__(self) -> tuple[type[PackedWeight], tuple[()]]:
        return PackedWeight, ()

    def __repr__(self) -> str:
        return f"PackedWeight({', '.join(self._entries) or 'empty'})"


def _version(tensor: Tensor) -> int:
    return -1 if tensor.is_inference() else tensor._version


def _stamp(tensor: Tensor | None) -> _Stamp:
    return None if tensor is None else (weakref.ref(tensor), tensor.data_ptr(), _version(tensor))


def unchanged(tensor: Tensor | None, stamp: _Stamp) -> bool:
    """Whether a tensor is the one of a stamp, with the same contents."""
    if tensor is None or stamp is None:
        return tensor is None and stamp is None
    reference, address, version = stamp
    if reference() is not tensor or tensor.data_ptr() != address:
        return False
    return version == (tensor._version if version >= 0 else _version(tensor))


def kept(
    others: tuple[T, ...], made: T, weight: Tensor | None, bias: Tensor | None
) -> tuple[T, ...]:
    """A bound call, and before it the last that other shapes of inputs had; at most `SHAPES`.

    Args:
        others: `Ready` or `ReadySum`, the last used first; those of other contents are dropped.
        made: The same kind.
        weight: Of the layer, as it is now.
        bias: Likewise.
    """

    def shapes(call: Any) -> tuple[torch.Size, ...]:
        return (call.shape,) if isinstance(call, Ready) else (call.first.shape, call.shape)

    def valid(call: Any) -> bool:
        stamps = (call if isinstance(call, Ready) else call.first).stamps
        return unchanged(weight, stamps[0]) and unchanged(bias, stamps[1])

    rest = tuple(call for call in others if shapes(call) != shapes(made) and valid(call))
    return made, *rest[: SHAPES - 1]
