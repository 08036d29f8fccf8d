"""Dense storage of codes narrower than a byte: 4-bit weights take half a byte each in a file."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from qlab.dtypes import QDType
from qlab.errors import FormatError


def is_packed(dtype: QDType) -> bool:
    """Whether `pack` makes the codes of ``dtype`` smaller."""
    return dtype.bits < 8


def pack(codes: Tensor, dtype: QDType) -> Tensor:
    """Packs codes of 2 to 7 bits, least significant bit first.

    Args:
        codes: Codes in the storage type of ``dtype``, any shape.
        dtype: A type with ``is_packed(dtype)``.

    Returns:
        uint8, shape ``(ceil(elements * bits / 8),)``.
    """
    offset = codes.detach().cpu().to(torch.int16) - dtype.quant_min
    flat = offset.to(torch.uint8).numpy().reshape(-1, 1)
    bits = np.unpackbits(flat, axis=1, count=dtype.bits, bitorder="little")
    return torch.from_numpy(np.packbits(bits.reshape(-1), bitorder="little"))


def unpack(packed: Tensor, dtype: QDType, shape: tuple[int, ...]) -> Tensor:
    """Inverse of `pack`.

    Args:
        packed: uint8, as `pack` returned it.
        dtype: The codes' type.
        shape: The codes' shape.

    Raises:
        FormatError: The number of bytes does not fit the shape.
    """
    elements = int(np.prod(shape, dtype=np.int64))
    expected = -(-elements * dtype.bits // 8)
    if packed.dtype != torch.uint8 or packed.numel() != expected:
        raise FormatError(
            f"Packed {dtype.name} codes of shape {shape} have the wrong size",
            expected=f"{expected} bytes",
            received=f"{packed.numel()} elements of {packed.dtype}",
        )
    bits = np.unpackbits(
        packed.cpu().numpy(), count=elements * dtype.bits, bitorder="little"
    ).reshape(elements, dtype.bits)
    offset = np.packbits(bits, axis=1, bitorder="little").reshape(shape)
    codes = torch.from_numpy(np.asarray(offset, dtype=np.int16)) + dtype.quant_min
    return codes.to(dtype.storage)
