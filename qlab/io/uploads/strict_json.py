"""JSON of a stranger: no key twice, no NaN, no deep nesting, and typed access to its fields."""

from __future__ import annotations

import json
import re
import reprlib
from typing import Any, NoReturn, TypeVar, cast

from qlab.errors import FormatError
from qlab.io.uploads.limits import Limits

_STRINGS = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
_NO_BRACKETS = re.compile(rb"[^\[\]{}]++")
_INT64 = 2**63
T = TypeVar("T")


def load(content: bytes, what: str, limits: Limits) -> Any:
    """Parses JSON.

    Args:
        content: UTF-8 text.
        what: The file or member, for messages.
        limits: Bounds on its bytes and depth.

    Raises:
        FormatError: Not JSON, or JSON that no program writes by accident.
    """
    limits.check("json_bytes", len(content), f"{what} is too large")
    limits.check("json_depth", _depth(content), f"{what} is nested too deeply")
    try:
        return json.loads(content, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except FormatError:
        raise
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{what} is not readable as JSON: {error}") from error


def _depth(content: bytes) -> int:
    depth = deepest = 0
    for bracket in _NO_BRACKETS.sub(b"", _STRINGS.sub(b"", content)):
        depth += 1 if bracket in b"[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise FormatError("A JSON object has one name twice", received=shown(twice))
    return found


def _refuse_constant(text: str) -> NoReturn:
    raise FormatError("A number in the JSON is not finite", received=text)


def shown(value: object) -> str:
    """A value from the file, short enough for a message."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = 80
    return short.repr(value)


def of(value: Any, kind: type[T], what: str) -> T:
    """The value, if it is of the given JSON type (a bool is no int).

    Raises:
        FormatError: It is of another.
    """
    fits = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    if not fits:
        raise FormatError(
            f"{what} is not readable", expected=f"a JSON {kind.__name__}", received=shown(value)
        )
    if isinstance(value, int) and not -_INT64 <= value < _INT64:
        raise FormatError(f"{what} does not fit in 64 bits", received=shown(value))
    return cast("T", value)


def field(data: Any, name: str, kind: type[T], what: str) -> T:
    """One required field of an object, of the given type."""
    entry = of(data, dict, what)
    if name not in entry:
        raise FormatError(f"{what} lacks the field {name!r}", received=shown(sorted(entry)))
    return of(entry[name], kind, f"{name!r} of {what}")


def union(data: Any, what: str) -> tuple[str, Any]:
    """Tag and value of ``{"as_int": 3}``: an object of exactly one field."""
    entry = of(data, dict, what)
    if len(entry) != 1:
        raise FormatError(f"{what} is not one value with its type", received=shown(entry))
    return next(iter(entry.items()))
