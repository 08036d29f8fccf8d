"""Attributes of a model that its graphs shall have too."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import fx, nn

from qlab.errors import ArgumentError, check_type

#: Where `torch.fx` looks for attributes that a copy of a graph module shall have.
_KEPT_BY_COPIES = "_user_preserved_attributes"


def preserved(model: nn.Module, names: Iterable[str]) -> dict[str, Any]:
    """The attributes of these names.

    Raises:
        ArgumentError: The model lacks one; names it.
    """
    missing = [name for name in names if not hasattr(model, name)]
    if missing:
        raise ArgumentError(
            "A preserved attribute is not there",
            expected=f"names of attributes of {type(model).__name__}",
            received=", ".join(map(repr, missing)),
        )
    return {name: getattr(model, name) for name in names}


def attach_preserved_attrs_to_model(
    model: fx.GraphModule, preserved_attrs: Mapping[str, Any]
) -> None:
    """Gives a graph module attributes that its copies have too, in place."""
    check_type("attach_preserved_attrs_to_model", "model", model, fx.GraphModule, "a graph module")
    check_type("attach_preserved_attrs_to_model", "attributes", preserved_attrs, Mapping, "a dict")
    model.meta[_KEPT_BY_COPIES] = dict(preserved_attrs)
    for name, value in preserved_attrs.items():
        setattr(model, name, value)
