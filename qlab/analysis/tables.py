"""Tables of layers: packed for keeping, and two of them side by side."""

from __future__ import annotations

import json
import math
import zlib
from typing import Any

import numpy as np
import pandas as pd

from qlab.errors import ArgumentError, FormatError

_LARGEST = 256 * 2**20
_KINDS = {"b": "bool", "i": "int64", "u": "int64", "f": "float64"}


def pack_table(table: pd.DataFrame) -> bytes:
    """A table with a named row per layer as compressed JSON, column by column.

    Args:
        table: Columns of numbers (infinities and NaN included), booleans or text, with names for
            rows and columns.

    Returns:
        Bytes that `unpack_table` reads back exactly.

    Raises:
        ArgumentError: A column of something else, or rows or columns without plain names.
    """
    if not isinstance(table, pd.DataFrame) or table.index.nlevels > 1 or table.columns.nlevels > 1:
        raise ArgumentError(
            "Not a table of layers",
            expected="a DataFrame with one level of names for rows and columns",
            received=type(table).__name__,
        )
    columns = {str(name): _packed_column(name, table[name]) for name in table.columns}
    data = {
        "index": [str(row) for row in table.index],
        "name": table.index.name,
        "columns": columns,
    }
    return zlib.compress(json.dumps(data, separators=(",", ":"), allow_nan=False).encode())


def _packed_column(name: object, column: Any) -> dict[str, Any]:
    kind = _KINDS.get(getattr(column.dtype, "kind", "O"))
    values = column.tolist()
    if kind is None and not all(isinstance(value, str) for value in values):
        raise ArgumentError(
            f"The column {name!r} cannot be kept",
            expected="numbers, booleans or text",
            received=str(column.dtype),
        )
    if kind == "float64":
        values = [v if math.isfinite(v) else str(v) for v in values]
    return {"kind": kind or "str", "values": values}


def unpack_table(packed: bytes) -> pd.DataFrame:
    """Inverse of `pack_table`.

    Raises:
        FormatError: Not what `pack_table` writes.
    """
    try:
        reader = zlib.decompressobj()
        data = json.loads(reader.decompress(packed, _LARGEST))
        if not reader.eof:
            raise ValueError("truncated")
        index = pd.Index(data["index"], dtype="str", name=data["name"])
        columns = {name: _unpacked_column(column) for name, column in data["columns"].items()}
        return pd.DataFrame(columns, index=index)
    except (zlib.error, ValueError, LookupError, TypeError, AttributeError) as error:
        raise FormatError(f"Not a stored table of layers: {error}") from error


def _unpacked_column(column: dict[str, Any]) -> Any:
    kind, values = column["kind"], column["values"]
    if kind == "str":
        return pd.array(values, dtype="str")
    if kind not in _KINDS.values():
        raise ValueError(f"a column of {kind!r}")
    return np.array([float(v) for v in values] if kind == "float64" else values, dtype=kind)


def compare_tables(a: pd.DataFrame, b: pd.DataFrame) -> pd.DataFrame:
    """Two tables of layers side by side.

    Args:
        a: One row per layer.
        b: The same of another configuration; may have other layers and columns.

    Returns:
        All rows of ``a``, then those that only ``b`` has. For each column of either
        ``<column>_a`` and ``<column>_b``, and ``<column>_change`` (b minus a) where both are
        numbers: 0 where they are equal, infinities included; NaN where a layer is in one only.
    """
    rows = [*a.index, *(row for row in b.index if row not in a.index)]
    parts: dict[str, Any] = {}
    for name in dict.fromkeys([*a.columns, *b.columns]):
        sides = [t[name].reindex(rows) if name in t else None for t in (a, b)]
        for label, side in zip("ab", sides, strict=True):
            if side is not None:
                parts[f"{name}_{label}"] = side
        one, other = sides
        if one is not None and other is not None and _numeric(one) and _numeric(other):
            x, y = one.to_numpy(np.float64), other.to_numpy(np.float64)
            with np.errstate(invalid="ignore"):
                parts[f"{name}_change"] = np.where(x == y, 0.0, y - x)
    return pd.DataFrame(parts, index=pd.Index(rows, name=a.index.name))


def _numeric(column: Any) -> bool:
    return pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
