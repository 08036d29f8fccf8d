"""`QConfig`: which observers a layer's activations and weights get."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import nn

from qlab.errors import ArgumentError, FormatError
from qlab.observers import (
    Factory,
    PlaceholderObserver,
    factory_from_dict,
    factory_to_dict,
    observer_for,
    spec_of,
)
from qlab.ranges import TensorSpec


class _Fields(NamedTuple):
    activation: Factory | None
    weight: Factory | None


class QConfig(_Fields):
    """How to quantize a layer: a factory of observers for its output, and one for its weight.

    A named tuple of two callables without arguments, such as an observer class or
    ``Observer.with_args(...)``; a fresh observer is made for each tensor. Built from registered
    observers it is hashable and has a JSON form.

    Args:
        activation: Factory for the activation; None or a placeholder keeps it in floating point.
        weight: Factory for the weight; None for layers without one.

    Raises:
        ArgumentError: An observer instance, or something that cannot be called.

    Example:
        >>> from qlab.observers import MinMaxObserver
        >>> q = QConfig(MinMaxObserver, MinMaxObserver.with_args(dtype="qint8"))
        >>> q.weight_spec.describe()
        'int8 affine per tensor, min-max'
    """

    __slots__ = ()

    def __new__(cls, activation: Factory | None, weight: Factory | None) -> QConfig:
        for name, factory in (("activation", activation), ("weight", weight)):
            if isinstance(factory, nn.Module):
                raise ArgumentError(
                    f"QConfig: {name} is an observer that already exists",
                    expected="a class or a factory, from which each tensor gets its own",
                    received=repr(factory),
                    fix=f"Pass {type(factory).__name__} or {type(factory).__name__}.with_args().",
                )
            if factory is not None and not callable(factory):
                raise ArgumentError(
                    f"QConfig: {name} cannot be called",
                    expected="an observer class, Observer.with_args(...), or None",
                    received=repr(factory),
                    fix="For a TensorSpec use qlab.qconfig.qconfig_of(activation, weight).",
                )
        return super().__new__(cls, activation, weight)

    @property
    def activation_spec(self) -> TensorSpec | None:
        """How the activation is to be quantized; errors as in `qlab.observers.spec_of`."""
        return spec_of(self.activation)

    @property
    def weight_spec(self) -> TensorSpec | None:
        """How the weight is to be quantized; errors as in `qlab.observers.spec_of`."""
        return spec_of(self.weight)


class QConfigDynamic(QConfig):
    """A `QConfig` for dynamic quantization, as old code writes it: the weight alone is enough.

    Args:
        activation: Factory for the activation; in floating point if not given.
        weight: Factory for the weight; in floating point if not given.

    Raises:
        ArgumentError: As `QConfig`.
    """

    __slots__ = ()

    def __new__(
        cls, activation: Factory | None = nn.Identity, weight: Factory | None = nn.Identity
    ) -> QConfigDynamic:
        made: Any = super().__new__(cls, activation, weight)
        return made


QConfigAny = QConfig | None


def qconfig_of(activation: TensorSpec | None, weight: TensorSpec | None) -> QConfig:
    """A qconfig from specs.

    Args:
        activation: How to quantize the activation; None keeps it in floating point.
        weight: How to quantize the weight; None keeps it in floating point.
    """
    specs = (activation, weight)
    return QConfig(*(PlaceholderObserver if s is None else observer_for(s) for s in specs))


def qconfig_equals(q1: QConfig | None, q2: QConfig | None) -> bool:
    """Whether two qconfigs make the same observers."""
    return q1 == q2


def qconfig_to_dict(qconfig: QConfig | None) -> dict[str, Any] | None:
    """JSON form of a qconfig, read back by `qconfig_from_dict`.

    Raises:
        UnknownNameError: A factory that makes no registered observer.
        UnsupportedError: An argument of an observer has no JSON form.
    """
    if qconfig is None:
        return None
    return {name: factory_to_dict(part) for name, part in qconfig._asdict().items()}


def qconfig_from_dict(data: dict[str, Any] | None) -> QConfig | None:
    """Inverse of `qconfig_to_dict`.

    Raises:
        FormatError: Not what `qconfig_to_dict` writes.
        UnknownNameError: An unknown observer, data type, scheme or policy.
    """
    if data is None:
        return None
    if not isinstance(data, dict) or data.keys() != set(QConfig._fields):
        raise FormatError(
            "Not a qconfig", expected='{"activation": ..., "weight": ...}', received=repr(data)
        )
    return QConfig(factory_from_dict(data["activation"]), factory_from_dict(data["weight"]))
