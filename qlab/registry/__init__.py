"""What qlab can quantize: one table of operators, one of patterns that are fused.

Eager and graph workflows, analysis, the page of supported layers and the tests read these two
tables; a new operator is a new row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from qlab.errors import UnknownNameError
from qlab.nn.aware import QuantizationAware
from qlab.nn.quantized import QuantizedModule
from qlab.registry.patterns import ON_REQUEST, PATTERNS, Pattern, patterns_of
from qlab.registry.rows import (
    FLOAT,
    OBSERVED,
    SHARED,
    SIGNED_UNIT_INTERVAL,
    UNIT_INTERVAL,
    OutputKind,
    OutputRule,
    Row,
    lift_call,
)
from qlab.registry.table import ROWS

__all__ = [
    "FLOAT",
    "OBSERVED",
    "ON_REQUEST",
    "PATTERNS",
    "ROWS",
    "SHARED",
    "SIGNED_UNIT_INTERVAL",
    "UNIT_INTERVAL",
    "OutputKind",
    "OutputRule",
    "Pattern",
    "Row",
    "lift_call",
    "patterns_of",
    "qat_modules",
    "quantized_module",
    "row_for_function",
    "row_for_method",
    "row_for_module",
]

_QAT = {aware.float_type: aware for row in ROWS for aware in row.qat}
_BY_MODULE = {
    module: row for row in ROWS for module in (*row.modules, *row.qat, row.qat_dynamic) if module
}
_BY_FUNCTION = {function: row for row in ROWS for function in row.functions}
_BY_METHOD = {method: row for row in ROWS for method in row.methods}
_STATIC = {row.static.__name__: row.static for row in ROWS if row.static is not None}


def row_for_module(module: type[nn.Module]) -> Row | None:
    """The row that covers a module class, float, fused or quantization-aware.

    Exact classes only, since a subclass may do more.
    """
    return _BY_MODULE.get(module)


def qat_modules() -> dict[type[nn.Module], type[QuantizationAware]]:
    """Which quantization-aware class takes the place of which float or fused class."""
    return dict(_QAT)


def row_for_function(function: Callable[..., Any]) -> Row | None:
    """The row that covers a function, as ``call_function`` nodes name it."""
    return _BY_FUNCTION.get(function)


def row_for_method(name: str) -> Row | None:
    """The row that covers a tensor method, as ``call_method`` nodes name it."""
    return _BY_METHOD.get(name)


def quantized_module(name: str) -> type[QuantizedModule]:
    """The quantized module class of a name such as ``"ConvReLU2d"``, as files name it.

    Raises:
        UnknownNameError: The registry has no such class.
    """
    if name not in _STATIC:
        raise UnknownNameError.of("quantized module", name, sorted(_STATIC))
    return _STATIC[name]
