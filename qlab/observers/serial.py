"""JSON form of the factories that qconfigs hold."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from qlab.dtypes import QDType, as_qdtype
from qlab.errors import FormatError, UnknownNameError, UnsupportedError
from qlab.granularity import QScheme
from qlab.observers.base import Partial
from qlab.observers.specs import Factory, registered_name, registered_observers
from qlab.ranges import TensorSpec

_TORCH_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


def factory_to_dict(factory: Factory | None) -> dict[str, Any] | None:
    """JSON form of an observer or fake-quantize factory, read back by `factory_from_dict`.

    Args:
        factory: A registered class, a `Partial` or `functools.partial` of one, or None.

    Raises:
        UnknownNameError: The factory makes no registered class.
        UnsupportedError: An argument has no JSON form.
    """
    if factory is None:
        return None
    name, arguments = registered_name(factory), {}
    while isinstance(factory, Partial | functools.partial):
        computed = factory.callable_arguments if isinstance(factory, Partial) else factory.args
        if computed:
            raise UnsupportedError(
                f"{factory!r} has no JSON form",
                expected="arguments given by name and value",
                fix="Use with_args(name=value).",
            )
        arguments = {**factory.keywords, **arguments}
        factory = factory.func
    return {"observer": name, "args": {k: _encode(v, name, k) for k, v in arguments.items()}}


def _encode(value: Any, owner: str, argument: str) -> Any:
    match value:
        case None | bool() | int() | float() | str():
            return value
        case QDType():
            return {"dtype": value.name}
        case QScheme() | torch.qscheme():
            return {"qscheme": QScheme.parse(value).value}
        case TensorSpec():
            return {"spec": value.to_dict()}
        case torch.dtype():
            name = str(value).removeprefix("torch.")
            return {"torch": name} if name in _TORCH_DTYPES else {"dtype": as_qdtype(value).name}
        case Partial() | functools.partial() | type():
            return factory_to_dict(value)
    raise UnsupportedError(
        f"{owner}: the argument {argument!r} has no JSON form",
        expected="a number, a string, a data type, a scheme, a spec or an observer",
        received=repr(value),
    )


def factory_from_dict(data: dict[str, Any] | None) -> Factory | None:
    """Inverse of `factory_to_dict`; makes nothing but registered classes.

    Raises:
        UnknownNameError: An unknown observer, data type, scheme or policy.
        FormatError: Anything else that `factory_to_dict` does not write.
    """
    if data is None:
        return None
    if not isinstance(data, dict) or not {"observer"} <= data.keys() <= {"observer", "args"}:
        raise FormatError(
            "Not an observer", expected='{"observer": name, "args": {...}}', received=repr(data)
        )
    known = registered_observers()
    if data["observer"] not in known:
        raise UnknownNameError.of("observer", data["observer"], known)
    cls: Any = known[data["observer"]]
    arguments = {name: _decode(value) for name, value in data.get("args", {}).items()}
    if not arguments:
        return cls
    made = Partial(cls, tuple(sorted(arguments.items())))
    try:
        made()
    except TypeError as error:
        raise FormatError(
            f"{data['observer']} does not take these arguments", received=f"{error}"
        ) from error
    return made


_DECODERS: dict[frozenset[str], Callable[[dict[str, Any]], Any]] = {
    frozenset({"dtype"}): lambda data: as_qdtype(data["dtype"]),
    frozenset({"qscheme"}): lambda data: QScheme.parse(data["qscheme"]),
    frozenset({"spec"}): lambda data: TensorSpec.from_dict(data["spec"]),
    frozenset({"torch"}): lambda data: _torch_dtype(data["torch"]),
    frozenset({"observer", "args"}): factory_from_dict,
}


def _decode(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, dict) and (decoder := _DECODERS.get(frozenset(value))):
        return decoder(value)
    raise FormatError("Not an argument of an observer", received=repr(value))


def _torch_dtype(name: str) -> torch.dtype:
    if name not in _TORCH_DTYPES:
        raise UnknownNameError.of("floating-point type", name, _TORCH_DTYPES)
    return _TORCH_DTYPES[name]
