"""How a custom module has its insides prepared and converted.

The eager workflow, which lies above the modules, hands its own functions in when it is imported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from torch import nn

from qlab.errors import DTypeError, UncalibratedError, UnsupportedError

Step = Callable[[nn.Module], nn.Module]


def _missing(module: nn.Module) -> nn.Module:
    raise UnsupportedError(
        f"{type(module).__name__}: nothing can prepare or convert what is inside",
        fix="Import qlab.eager first.",
    )


@dataclass
class Insides:
    """What to do with the insides of a custom module.

    Attributes:
        prepare: Hangs observers on them, in place.
        convert: Gives a copy whose observed modules are quantized ones.
    """

    prepare: Step = _missing
    convert: Step = _missing


INSIDES = Insides()
TRAINED: ContextVar[bool | None] = ContextVar("trained", default=None)
"""Whether the workflow under way trains; None outside of prepare and prepare_qat."""


@contextmanager
def insides_are(*, trained: bool) -> Iterator[None]:
    """Says which workflow is under way, to what prepares the insides of custom modules."""
    token = TRAINED.set(trained)
    try:
        yield
    finally:
        TRAINED.reset(token)


def check_source(target: type[nn.Module], mod: nn.Module, expected: type[nn.Module]) -> None:
    """Raises `DTypeError` unless a custom module can be made from ``mod``."""
    if type(mod) is not expected:
        raise DTypeError(
            f"{target.__module__.rpartition('.')[0]}.{target.__name__} cannot be made from this "
            "module",
            expected=f"{expected.__module__}.{expected.__name__}",
            received=f"{type(mod).__module__}.{type(mod).__name__}",
            fix="A float module becomes a quantizable one in prepare, and that a quantized one in "
            "convert.",
        )


def qconfig_of(mod: nn.Module, given: Any = None) -> Any:
    """The ``qconfig`` of a module, else ``given``.

    Raises:
        UncalibratedError: There is neither.
    """
    if "qconfig" not in vars(mod) and given is None:
        raise UncalibratedError(
            f"{type(mod).__name__} has no qconfig",
            fix="Set module.qconfig, or call prepare on the model.",
        )
    return vars(mod).get("qconfig", given)
