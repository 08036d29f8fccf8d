"""What remains of a configuration where only weights, or only activations, are quantized."""

from __future__ import annotations

from typing import Literal

from qlab.observers import PlaceholderObserver
from qlab.qconfig import QConfig, QConfigMapping
from qlab.qconfig.mapping import INTEGER_BIASES


def only(mapping: QConfigMapping, part: Literal["weight", "activation"]) -> QConfigMapping:
    """The same rules, each asking for one part only and leaving the other in float.

    Args:
        mapping: A configuration; it stays as it is.
        part: What stays quantized.
    """
    other = "activation" if part == "weight" else "weight"

    def reduced(qconfig: QConfig | None) -> QConfig | None:
        return None if qconfig is None else qconfig._replace(**{other: PlaceholderObserver})

    rules = mapping.to_dict()
    rules.pop(INTEGER_BIASES, None)
    made = QConfigMapping.from_dict(
        {
            style: reduced(found)
            if style == ""
            else [(*rule[:-1], reduced(rule[-1])) for rule in found]
            for style, found in rules.items()
        }
    )
    return made.set_integer_biases(mapping.integer_biases)


def with_halves(mapping: QConfigMapping) -> tuple[QConfigMapping, QConfigMapping, QConfigMapping]:
    """A configuration, what it asks of weights alone, and what it asks of activations alone."""
    return mapping, only(mapping, "weight"), only(mapping, "activation")
