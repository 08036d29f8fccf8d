"""Named ways of quantizing a whole model."""

from __future__ import annotations

from dataclasses import dataclass

from qlab.dtypes import float8_e4m3fn, integer, qint8, quint8
from qlab.errors import UnknownNameError
from qlab.granularity import PerAxis
from qlab.qconfig import QConfigMapping, qconfig_of
from qlab.ranges import MSE, TensorSpec

_PER_CHANNEL = PerAxis(0)
_ACTIVATION = TensorSpec(quint8, policy=MSE())
_WEIGHT = TensorSpec(qint8, symmetric=True, granularity=_PER_CHANNEL)


@dataclass(frozen=True)
class Preset:
    """A way of quantizing a whole model, by name.

    Attributes:
        name: What code calls it.
        title: What people call it.
        description: One sentence on when to choose it.
        activation: How activations are quantized; None keeps them in float.
        weight: How weights are quantized.
    """

    name: str
    title: str
    description: str
    activation: TensorSpec | None
    weight: TensorSpec

    def mapping(self) -> QConfigMapping:
        """A new mapping that asks this of every layer.

        Operators whose output range is fixed by mathematics (sigmoid, tanh, softmax) take that
        range whatever the mapping says; see `qlab.registry.OutputRule`.
        """
        return QConfigMapping().set_global(qconfig_of(self.activation, self.weight))


_ALL = (
    Preset(
        "int8",
        "8-bit",
        "The usual choice: 8-bit integers throughout, one scale per output channel of each weight,"
        " activation ranges that minimise the squared error.",
        _ACTIVATION,
        _WEIGHT,
    ),
    Preset(
        "int8-minmax",
        "8-bit, min-max ranges",
        "As 8-bit, but activation ranges cover every value seen: nothing is clipped, and one"
        " outlier coarsens all other values.",
        TensorSpec(quint8),
        _WEIGHT,
    ),
    Preset(
        "int8-per-tensor",
        "8-bit, per-tensor weights",
        "As 8-bit, but with a single scale for each weight, as some hardware asks for; channels of"
        " small weights suffer.",
        _ACTIVATION,
        TensorSpec(qint8, symmetric=True),
    ),
    Preset(
        "int8-weights-only",
        "8-bit weights, float activations",
        "Only the weights become 8-bit integers: a quarter of the size, nearly no error, and no"
        " faster arithmetic.",
        None,
        _WEIGHT,
    ),
    Preset(
        "int4-weights",
        "4-bit weights",
        "4-bit weights with 8-bit activations: an eighth of the float size, at an error that"
        " deserves a look at every layer.",
        _ACTIVATION,
        TensorSpec(integer(4, signed=True), symmetric=True, granularity=_PER_CHANNEL, policy=MSE()),
    ),
    Preset(
        "int16-activations",
        "16-bit activations",
        "8-bit weights with 16-bit activations: tells whether activations or weights cause an"
        " error.",
        TensorSpec(integer(16, signed=True), symmetric=True),
        _WEIGHT,
    ),
    Preset(
        "float8",
        "8-bit floating point",
        "Floating-point numbers of 8 bits (e4m3): finer near zero, coarser far from it, so"
        " outliers cost little.",
        TensorSpec(float8_e4m3fn, symmetric=True),
        TensorSpec(float8_e4m3fn, symmetric=True, granularity=_PER_CHANNEL),
    ),
)

#: Every preset by name, the default first.
PRESETS: dict[str, Preset] = {preset.name: preset for preset in _ALL}

DEFAULT = "int8"


def get(name: str = DEFAULT) -> Preset:
    """The preset of a name.

    Raises:
        UnknownNameError: There is none; the message lists those that there are.
    """
    if not isinstance(name, str) or name not in PRESETS:
        raise UnknownNameError.of("preset", name, PRESETS)
    return PRESETS[name]
