"""Errors of qlab: each says what was expected, what came, and what to do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from reprlib import repr as brief
from types import NoneType
from typing import Any, Self


class QlabError(Exception):
    """Base of every error that qlab raises on purpose.

    Args:
        problem: One sentence that names the operation and what is wrong.
        expected: What would have been accepted.
        received: What came instead.
        fix: What the caller can do about it.
    """

    def __init__(
        self,
        problem: str,
        *,
        expected: object = None,
        received: object = None,
        fix: str | None = None,
    ) -> None:
        self.problem = problem
        self.expected = expected
        self.received = received
        self.fix = fix
        super().__init__(self._message())

    def _message(self) -> str:
        parts = [self.problem.rstrip(".") + "."]
        if self.expected is not None:
            parts.append(f"Expected {self.expected}.")
        if self.received is not None:
            parts.append(f"Received {self.received}.")
        if self.fix is not None:
            parts.append(self.fix)
        return " ".join(parts)


class DTypeError(QlabError, TypeError):
    """A tensor or argument has a type that the operation does not take."""


class ShapeError(QlabError, ValueError):
    """A tensor has a shape, or an axis an index, that does not fit."""


class ArgumentError(QlabError, ValueError):
    """An argument has the right type and a value that makes no sense."""


class OperandError(QlabError, RuntimeError, IndexError, ValueError):
    """PyTorch refuses an operation on a quantized tensor: a shape, an index or a number is wrong.

    It is each of the errors that PyTorch raises for the same call on a float tensor; but a
    `DTypeError` comes for its TypeError, by which Python learns that two things do not compare.
    """


class MissingDataError(ArgumentError):
    """Data that a question needs is not there, as in a Lab that was loaded without it."""


class NonFiniteError(QlabError, ValueError):
    """NaN or infinity where only finite numbers have a meaning."""


class UnfinishedError(QlabError, RuntimeError):
    """Something outside qlab failed in the middle of long work: a loader, a worker, an executor.

    Attributes:
        partial: What was measured until then; None where that is nothing.
    """

    partial: Any = None

    @classmethod
    def of(cls, problem: str, error: BaseException, fix: str, partial: Any = None) -> Self:
        """Builds the error for another one.

        Args:
            problem: What could not be done, and where.
            error: What was raised.
            fix: What the caller can do about it.
            partial: What was measured until then.
        """
        words = f"{type(error).__name__}: {error}".rstrip(": ")
        made = cls(problem, received=words.rstrip("."), fix=fix)
        made.partial = partial
        return made


class UncalibratedError(QlabError, RuntimeError):
    """Quantization parameters were asked of something that has seen no data."""


class StateError(QlabError, RuntimeError):
    """A state dict does not fit the model that it is loaded into."""


class UnsupportedError(QlabError, NotImplementedError):
    """The operation exists, but not for this combination of inputs."""


class TraceError(QlabError, RuntimeError):
    """A model could not be turned into a graph.

    Attributes:
        module: Path of the module that stopped it; empty for the model itself.
        file: The file of the line that stopped it; None where it is in nobody's code.
        line: The number of that line.
        why: What was raised there.
    """

    module: str = ""
    file: str | None = None
    line: int | None = None
    why: str = ""


class FormatError(QlabError, ValueError):
    """A file or a serialised object is not what it claims to be."""


class UnknownNameError(QlabError, LookupError):
    """A name is not among the known ones."""

    @classmethod
    def of(cls, kind: str, name: object, known: Iterable[object]) -> Self:
        """Builds the error for ``name``, listing what is known and the nearest match.

        Args:
            kind: What the name stands for, such as ``"layer"``.
            name: The name that was not found.
            known: The valid names.
        """
        names = [str(k) for k in known]
        near = get_close_matches(str(name), names, n=1)
        return cls(
            f"Unknown {kind} {name!r}",
            expected="one of: " + (", ".join(names) or "none exist"),
            fix=f"Did you mean {near[0]!r}?" if near else None,
        )


def check_type(
    caller: str, what: str, value: object, kinds: type | tuple[type, ...], expected: str
) -> None:
    """Raises `DTypeError` unless an argument is of one of some types; text is no sequence here.

    Args:
        caller: The function that was called.
        what: The argument, in words.
        value: The argument.
        kinds: Types that are taken.
        expected: These in words, with an example.
    """
    if not isinstance(value, kinds) or (isinstance(value, str) and not _means_text(kinds)):
        raise DTypeError(
            f"{caller}: {what} cannot be used", expected=expected, received=brief(value)
        )


def _means_text(kinds: type | tuple[type, ...]) -> bool:
    return str in (kinds if isinstance(kinds, tuple) else (kinds,))


def check_dict(caller: str, what: str, given: Any) -> Mapping[Any, Any]:
    """What was given, or an empty dict for None; raises `DTypeError` for anything else."""
    check_type(caller, what, given, (Mapping, NoneType), "a dict, or None")
    return given or {}


def check_callable(caller: str, what: str, value: object) -> None:
    """Raises `DTypeError` unless an argument can be called."""
    if not callable(value):
        raise DTypeError(
            f"{caller}: {what} cannot be called", expected="a function", received=brief(value)
        )


def check_maker(kind: Any, method: str) -> None:
    """Raises `ArgumentError` unless a class can make a module out of another one."""
    if not callable(getattr(kind, method, None)):
        raise ArgumentError(
            f"{getattr(kind, '__name__', kind)} cannot take another module's place",
            expected=f"a class with a method {method}",
        )
