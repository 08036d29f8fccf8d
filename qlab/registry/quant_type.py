"""As what a module is quantized: statically, dynamically, its weight alone."""

from __future__ import annotations

from enum import IntEnum

from qlab.errors import UnknownNameError
from qlab.registry.asked import Asked


class QuantType(IntEnum):
    """How a module is quantized, as the reference numbers it."""

    DYNAMIC = 0
    STATIC = 1
    QAT = 2
    WEIGHT_ONLY = 3

    @classmethod
    def of(cls, given: QuantType | str) -> QuantType:
        """From itself or its name in lower case, such as ``"static"``.

        Raises:
            UnknownNameError: There is no such type.
        """
        if isinstance(given, QuantType):
            return given
        names = {kind.name.lower(): kind for kind in cls}
        if given not in names:
            raise UnknownNameError.of("quantization type", str(given), list(names))
        return names[given]


def kind_of(activation: Asked) -> QuantType:
    """As what a qconfig quantizes a module, from what it asks for the activation."""
    if activation.dynamic:
        return QuantType.DYNAMIC
    return QuantType.WEIGHT_ONLY if activation.spec is None else QuantType.STATIC
