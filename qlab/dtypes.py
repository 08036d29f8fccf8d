"""Quantized data types: how many bits a code has, which codes it may take, where it is stored."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from qlab.errors import ArgumentError, DTypeError, UnknownNameError


@dataclass(frozen=True)
class QDType:
    """A quantized data type.

    Attributes:
        name: The field's name, such as ``"quint8"``.
        bits: Width of one code in bits.
        signed: Whether codes below zero exist.
        quant_min: Smallest code (for float8: smallest finite value).
        quant_max: Largest code (for float8: largest finite value).
        storage: The ``torch.dtype`` whose tensors hold the codes. Types narrower than a byte
            are held one code per element; packing is a matter of files.
    """

    name: str
    bits: int
    signed: bool
    quant_min: int
    quant_max: int
    storage: torch.dtype

    @property
    def is_float(self) -> bool:
        """True for the float8 formats, whose codes are not evenly spaced."""
        return self.storage.is_floating_point

    @property
    def levels(self) -> int:
        """How many codes there are: ``quant_max - quant_min + 1`` (integers), 2**bits (float8)."""
        return 2**self.bits if self.is_float else self.quant_max - self.quant_min + 1

    def __repr__(self) -> str:
        return f"qlab.{self.name}"


def _integer(bits: int, signed: bool, storage: torch.dtype) -> QDType:
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    return QDType(f"q{'' if signed else 'u'}int{bits}", bits, signed, low, high, storage)


def _float8(name: str, storage: torch.dtype) -> QDType:
    limit = int(torch.finfo(storage).max)
    return QDType(name, 8, True, -limit, limit, storage)


_SMALL_BITS = range(2, 9)
_ALL: dict[str, QDType] = {
    dtype.name: dtype
    for dtype in (
        *(_integer(bits, False, torch.uint8) for bits in _SMALL_BITS),
        *(_integer(bits, True, torch.int8) for bits in _SMALL_BITS),
        _integer(16, False, torch.int32),
        _integer(16, True, torch.int16),
        _integer(32, True, torch.int32),
        _float8("float8_e4m3fn", torch.float8_e4m3fn),
        _float8("float8_e5m2", torch.float8_e5m2),
    )
}

quint8 = _ALL["quint8"]
qint8 = _ALL["qint8"]
quint4x2 = _ALL["quint4"]  # the reference names it after how it packs two codes in a byte
qint32 = _ALL["qint32"]
float8_e4m3fn = _ALL["float8_e4m3fn"]
float8_e5m2 = _ALL["float8_e5m2"]

_TORCH_NAMES = {
    "uint8": "quint8",
    "int8": "qint8",
    "uint16": "quint16",
    "int16": "qint16",
    "int32": "qint32",
    "quint4x2": "quint4",
}


def all_dtypes() -> tuple[QDType, ...]:
    """Every quantized data type that qlab knows, integers first."""
    return tuple(_ALL.values())


def integer(bits: int, *, signed: bool) -> QDType:
    """The integer type of a given width.

    Args:
        bits: 2 to 8 or 16; 32 when signed.
        signed: Whether negative codes exist.

    Returns:
        The one instance for this width, so that ``integer(8, signed=True) is qint8``.

    Raises:
        ArgumentError: No such width.
    """
    found = _ALL.get(f"q{'' if signed else 'u'}int{bits}")
    if found is None:
        raise ArgumentError(
            f"No {'signed' if signed else 'unsigned'} quantized integer has {bits!r} bits",
            expected="2, 3, 4, 5, 6, 7, 8 or 16 bits" + (", or 32" if signed else ""),
            received=repr(bits),
        )
    return found


def as_qdtype(value: QDType | str | torch.dtype) -> QDType:
    """Reads a quantized data type from any of its spellings.

    Args:
        value: A `QDType`, its name (``"quint8"``), or the ``torch.dtype`` of that meaning
            (``torch.int8`` stands for `qint8`).

    Raises:
        UnknownNameError: A name that no quantized type has.
        DTypeError: Neither a type nor a name, or a ``torch.dtype`` without a quantized meaning.
    """
    if isinstance(value, QDType):
        return value
    if isinstance(value, str):
        if value not in _ALL:
            raise UnknownNameError.of("quantized data type", value, _ALL)
        return _ALL[value]
    if isinstance(value, torch.dtype):
        name = str(value).removeprefix("torch.")
        found = _ALL.get(_TORCH_NAMES.get(name, name))
        if found is not None:
            return found
    raise DTypeError(
        "Not a quantized data type",
        expected="a qlab.QDType such as qlab.quint8, or its name",
        received=repr(value),
        fix="Known: " + ", ".join(_ALL) + ".",
    )
