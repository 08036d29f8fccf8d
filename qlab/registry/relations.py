"""Which operators are the same one, in float, fused, trained, static and dynamic form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from qlab.registry.patterns import PATTERNS
from qlab.registry.rows import Row
from qlab.registry.table import ROWS

#: A module class, a function, or the name of a tensor method.
Target = type[nn.Module] | Callable[..., Any] | str


def base_rows() -> dict[str, str]:
    """Name of each row → name of the row of the layer that it is a fusion of, mostly its own."""
    rows = {module: row.name for row in ROWS for module in (*row.modules, *row.qat)}
    bases = {row.name: row.name for row in ROWS}
    for pattern in PATTERNS:
        for fused in filter(None, (pattern.fused, pattern.train)):
            bases[rows[fused]] = rows[pattern.modules[0]]
    return bases


def related_operators() -> dict[str, set[Target]]:
    """Operators that do the same on different kinds of numbers, by the name of the plain one.

    ``"conv2d"``: ``nn.Conv2d``, ``F.conv2d``, the fused ``ConvBn2d``, ``ConvReLU2d`` and their
    likes, those for training, and the integer modules of all of them. Made anew in every call.
    """
    bases = base_rows()
    sets: dict[str, set[Target]] = {}
    for row in ROWS:
        sets.setdefault(bases[row.name], set()).update(forms(row))
    return sets


def forms(row: Row) -> set[Target]:
    """Everything that a row names: classes of every workflow, functions and methods."""
    modules = (*row.qat, row.static, row.dynamic, row.qat_dynamic, *(row.custom or ()))
    known: set[Target] = {*row.modules, *row.functions, *row.methods}
    return known | {module for module in modules if module is not None}
