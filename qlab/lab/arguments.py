"""What people pass to a Lab, in one shape: configurations, and example inputs of a graph."""

from __future__ import annotations

from collections.abc import Mapping as Named
from typing import Any

from qlab import presets
from qlab.errors import DTypeError
from qlab.graph.shapes import tensors_in
from qlab.qconfig import QConfigMapping

Mapping = QConfigMapping | str | None
DEFAULT_PRESET = "int8"


def resolve_mapping(mapping: Mapping) -> QConfigMapping:
    """A configuration from any of its spellings.

    Raises:
        UnknownNameError: No preset has this name.
        DTypeError: Neither a `QConfigMapping`, a preset's name nor None.
    """
    if isinstance(mapping, QConfigMapping):
        return mapping
    if mapping is None or isinstance(mapping, str):
        return presets.get(DEFAULT_PRESET if mapping is None else mapping).mapping()
    raise DTypeError(
        "Not a configuration",
        expected="a QConfigMapping, the name of a preset, or None",
        received=type(mapping).__name__,
    )


def tensors_alone(inputs: Any) -> Any:
    """Example inputs without what a graph has fixed."""
    if isinstance(inputs, Named):
        return {name: value for name, value in inputs.items() if tensors_in(value)}
    if isinstance(inputs, tuple | list):
        return tuple(value for value in inputs if tensors_in(value))
    return inputs
