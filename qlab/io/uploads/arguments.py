"""Values of a program by name, and the arguments of its operators from their JSON."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from qlab.errors import FormatError, UnsupportedError
from qlab.io.uploads import strict_json
from qlab.io.uploads.limits import Limits
from qlab.io.uploads.payload import DTYPES
from qlab.io.uploads.strict_json import shown

_FORMATS = {
    1: torch.contiguous_format,
    2: torch.channels_last,
    3: torch.channels_last_3d,
    4: torch.preserve_format,
}
_NOT_FINITE = {"Infinity": math.inf, "-Infinity": -math.inf, "NaN": math.nan}


@dataclass(frozen=True)
class Ref:
    """An argument that is another value of the program."""

    name: str


class Scope:
    """The names of the values that exist so far, and arguments that may refer to them."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.known: set[str] = set()

    def define(self, name: Any) -> str:
        text = strict_json.of(name, str, "the name of a value")
        self.limits.check("text", len(text), "The name of a value is too long")
        if text in self.known:
            raise FormatError("Two values of the program have one name", received=shown(text))
        self.known.add(text)
        return text

    def argument(self, data: Any, what: str) -> Any:
        tag, value = strict_json.union(data, what)
        if tag not in _DECODERS:
            raise UnsupportedError(
                f"{what} is of a kind that an uploaded program may not hold",
                expected="tensors, numbers, sizes, dtypes and lists of them",
                received=shown(tag),
            )
        return _DECODERS[tag](self, value, what)

    def ref(self, value: Any, what: str, name: str = "name") -> Ref:
        text = strict_json.field(value, name, str, what)
        if text not in self.known:
            raise FormatError(f"{what} is a value that does not exist yet", received=shown(text))
        return Ref(text)

    def symbolic(self, value: Any, what: str) -> Any:
        tag, inner = strict_json.union(value, what)
        if tag == "as_name":
            return self.ref(value, what, "as_name")
        return _plain({"as_int": int, "as_bool": bool, "as_float": float}, tag, inner, what)

    def optional(self, value: Any, what: str) -> Any:
        tag, inner = strict_json.union(value, what)
        return None if tag == "as_none" else self.ref(inner, what)


def _plain(kinds: dict[str, type], tag: str, value: Any, what: str) -> Any:
    if tag not in kinds:
        raise FormatError(f"{what} is not readable", expected=list(kinds), received=shown(tag))
    return _number(value, what) if kinds[tag] is float else strict_json.of(value, kinds[tag], what)


def _number(value: Any, what: str) -> float:
    if isinstance(value, str) and value in _NOT_FINITE:
        return _NOT_FINITE[value]
    number = strict_json.of(value, int if isinstance(value, int) else float, what)
    if not math.isfinite(number):  # JSON's 1e999
        raise FormatError(f"{what} is not finite", received=number)
    return number


def _dtype(value: Any, what: str) -> torch.dtype:
    number = strict_json.of(value, int, what)
    if number not in DTYPES:
        raise UnsupportedError(f"{what} is a dtype that is not read", received=number)
    return DTYPES[number]


def _format(value: Any, what: str) -> torch.memory_format:
    number = strict_json.of(value, int, what)
    if number not in _FORMATS:
        raise FormatError(f"{what} is no memory format", received=number)
    return _FORMATS[number]


def _layout(value: Any, what: str) -> torch.layout:
    if strict_json.of(value, int, what) != 7:
        raise UnsupportedError(f"{what} is a layout that is not read", received=value)
    return torch.strided


def _text(value: Any, what: str) -> str:
    text = strict_json.of(value, str, what)
    if len(text) > 64:
        raise FormatError(f"{what} is too long a text", received=shown(text))
    return text


_Decoder = Callable[[Scope, Any, str], Any]


def _each(decode: _Decoder) -> _Decoder:
    return lambda scope, value, what: [
        decode(scope, item, what) for item in strict_json.of(value, list, what)
    ]


_int: _Decoder = lambda _, value, what: strict_json.of(value, int, what)  # noqa: E731
_float: _Decoder = lambda _, value, what: _number(value, what)  # noqa: E731
_bool: _Decoder = lambda _, value, what: strict_json.of(value, bool, what)  # noqa: E731
_DECODERS: dict[str, _Decoder] = {
    "as_none": lambda *_: None,
    "as_tensor": lambda scope, value, what: scope.ref(value, what),
    "as_tensors": _each(lambda scope, value, what: scope.ref(value, what)),
    "as_nested_tensors": _each(_each(lambda scope, value, what: scope.ref(value, what))),
    "as_optional_tensor": lambda scope, value, what: scope.optional(value, what),
    "as_optional_tensors": _each(lambda scope, value, what: scope.optional(value, what)),
    "as_int": _int,
    "as_ints": _each(_int),
    "as_int_lists": _each(_each(_int)),
    "as_float": _float,
    "as_floats": _each(_float),
    "as_float_lists": _each(_each(_float)),
    "as_bool": _bool,
    "as_bools": _each(_bool),
    "as_string": lambda _, value, what: _text(value, what),
    "as_sym_int": lambda scope, value, what: scope.symbolic(value, what),
    "as_sym_ints": _each(lambda scope, value, what: scope.symbolic(value, what)),
    "as_sym_bool": lambda scope, value, what: scope.symbolic(value, what),
    "as_sym_float": lambda scope, value, what: scope.symbolic(value, what),
    "as_scalar_type": lambda _, value, what: _dtype(value, what),
    "as_memory_format": lambda _, value, what: _format(value, what),
    "as_layout": lambda _, value, what: _layout(value, what),
    "as_device": lambda *_: torch.device("cpu"),
}
