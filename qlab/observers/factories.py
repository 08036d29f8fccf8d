"""Factories: a class and the arguments to build it with, which is what qconfigs hold."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from qlab.errors import check_callable


@dataclass(frozen=True)
class Partial:
    """A factory: a class and the arguments to build it with; frozen, comparable, hashable.

    What ``Observer.with_args(...)`` returns and a `QConfig` holds. Calling it makes a new instance.

    Attributes:
        func: The observer or fake-quantize class.
        arguments: ``(name, value)`` pairs, sorted by name.
        callable_arguments: ``(name, function)`` pairs; each function is called for its argument
            whenever an instance is made.
    """

    func: Callable[..., Any]
    arguments: tuple[tuple[str, Any], ...] = ()
    callable_arguments: tuple[tuple[str, Callable[[], Any]], ...] = ()

    @property
    def keywords(self) -> dict[str, Any]:
        """The arguments as a new dict."""
        return dict(self.arguments)

    @property
    def p(self) -> functools.partial[Any]:
        """The same as a `functools.partial`, where the reference's factories keep theirs."""
        return functools.partial(self.func, **self.keywords)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        made = {name: make() for name, make in self.callable_arguments if name not in kwargs}
        return self.func(*args, **{**self.keywords, **made, **kwargs})

    def with_args(self, **kwargs: Any) -> Partial:
        """The same factory with further or other arguments."""
        return Partial(self.func, pairs(self.keywords | kwargs), self.callable_arguments)

    def with_callable_args(self, **kwargs: Callable[[], Any]) -> Partial:
        """The same factory with arguments that are computed for each instance."""
        for name, make in kwargs.items():
            check_callable("with_callable_args", name, make)
        merged = dict(self.callable_arguments) | kwargs
        return Partial(self.func, self.arguments, pairs(merged))

    def __repr__(self) -> str:
        name = getattr(self.func, "__name__", repr(self.func))
        shown = [f"{key}={value!r}" for key, value in self.arguments]
        shown += [f"{key}={make!r}()" for key, make in self.callable_arguments]
        return f"{name}.with_args({', '.join(shown)})"


def with_args(cls_or_self: Any, **kwargs: Any) -> Partial:
    """A factory of any class, or of a factory, with arguments filled in.

    ``Mine.with_args = classmethod(with_args)`` gives a class of one's own what observers have.
    """
    if isinstance(cls_or_self, Partial):
        return cls_or_self.with_args(**kwargs)
    return Partial(cls_or_self, pairs(kwargs))


def with_callable_args(cls_or_self: Any, **kwargs: Callable[[], Any]) -> Partial:
    """Likewise, with arguments that are computed for each instance."""
    if isinstance(cls_or_self, Partial):
        return cls_or_self.with_callable_args(**kwargs)
    return Partial(cls_or_self).with_callable_args(**kwargs)


def pairs(arguments: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    """Arguments in an order that does not depend on how they were given."""
    return tuple(sorted(arguments.items()))
