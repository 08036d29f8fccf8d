"""Names for what a qconfig rule can match: module classes, functions and methods.

Names are looked up in tables, never imported: a mapping read from a file can name what qlab knows
and nothing else.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any

import torch
from torch import nn

from qlab.errors import ArgumentError, FormatError, UnknownNameError, brief

ObjectType = type | Callable[..., Any] | str
"""A module class, a function, or the name of a tensor method."""


def _own_name(obj: ObjectType) -> str:
    return f"{getattr(obj, '__module__', None)}.{getattr(obj, '__qualname__', repr(obj))}"


def _known() -> dict[str, ObjectType]:
    """Module classes of torch.nn, and functions on tensors, by the names people write."""
    operators = set(dir(torch._C._VariableFunctions))  # pyright: ignore[reportAttributeAccessIssue]
    functions = {
        "torch": {n: f for n, f in vars(torch).items() if n in operators},
        "torch.nn.functional": vars(nn.functional),
        "operator": vars(operator),
    }
    classes = [c for c in vars(nn).values() if isinstance(c, type) and issubclass(c, nn.Module)]
    known: dict[str, ObjectType] = {_own_name(cls): cls for cls in classes}
    for module, names in functions.items():
        for name, function in names.items():
            if inspect.isroutine(function) and not name.startswith("_"):
                known[f"{module}.{name}"] = function
    return known


_KNOWN = _known()
_NAMES: dict[ObjectType, str] = {obj: name for name, obj in reversed(_KNOWN.items())}


def register_object_type(*types: ObjectType) -> None:
    """Lets module classes or functions of yours stand in the JSON form of a `QConfigMapping`.

    Args:
        types: Module classes or functions; each is known by its module and name.
    """
    for obj in types:
        _KNOWN[_own_name(obj)] = obj
        _NAMES[obj] = _own_name(obj)


def check_object_type(caller: str, given: Any) -> None:
    """Raises `ArgumentError` for what no operator can be of the type of.

    Args:
        caller: The function that was called.
        given: What should be an object type.
    """
    if isinstance(given, nn.Module):
        raise ArgumentError(
            f"{caller} takes a class, not a module",
            expected="a module class, a function, or the name of a tensor method",
            received=f"an instance of {type(given).__name__}",
            fix="Pass the class, or use set_module_name with the module's path.",
        )
    if not (isinstance(given, str) or callable(given)):
        raise ArgumentError(
            f"{caller} takes a class, a function or a name",
            expected="a module class, a function, or the name of a tensor method",
            received=brief(given),
        )


def object_type_to_dict(obj: ObjectType) -> dict[str, str]:
    """JSON form of an object type, read back by `object_type_from_dict`.

    Raises:
        UnknownNameError: A class or function that is not registered.
    """
    if isinstance(obj, str):
        return {"method": obj}
    name = _NAMES.get(obj)
    if name is None:
        raise UnknownNameError(
            f"{_own_name(obj)} is not known to qlab by name",
            expected="a class of torch.nn, a torch function, or the name of a tensor method",
            fix="Call qlab.object_types.register_object_type(cls), or name the module instead.",
        )
    return {"type" if isinstance(obj, type) else "function": name}


def object_type_from_dict(data: dict[str, str]) -> ObjectType:
    """Inverse of `object_type_to_dict`.

    Raises:
        UnknownNameError: No registered class or function has this name.
        FormatError: Not what `object_type_to_dict` writes.
    """
    match data:
        case {"method": str(name)} if len(data) == 1:
            return name
        case {"type": str(name)} | {"function": str(name)} if len(data) == 1:
            if name not in _KNOWN:
                near = get_close_matches(name, _KNOWN, n=1)
                raise UnknownNameError(
                    f"Unknown class or function {name!r}",
                    expected="a class of torch.nn, or a function of torch or operator",
                    fix=f"Did you mean {near[0]!r}?" if near else None,
                )
            return _KNOWN[name]
    raise FormatError(
        "Not an object type",
        expected='{"type": name}, {"function": name} or {"method": name}',
        received=repr(data),
    )


def describe_object_type(obj: ObjectType) -> str:
    """An object type in words: ``"type Conv2d"``, ``"function torch.add"``, ``"method add"``."""
    if isinstance(obj, str):
        return f"method {obj}"
    if not isinstance(obj, type):
        return f"function {_NAMES.get(obj, _own_name(obj))}"
    name = _own_name(obj)
    known = name.startswith("torch.nn.modules.")
    return f"type {obj.__name__ if known else name}"
