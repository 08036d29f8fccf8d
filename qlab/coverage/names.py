"""The public names of the reference, and where qlab has each."""

from __future__ import annotations

import csv
import importlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any


@dataclass(frozen=True)
class Name:
    """One public name.

    Attributes:
        place: Module of qlab, or class, such as ``"qlab.QTensor"``.
        name: The name there.
        reference: Where the reference has it, with its full path.
    """

    place: str
    name: str
    reference: str

    @property
    def path(self) -> str:
        """``"qlab.nn.quantized.Linear"``."""
        return f"{self.place}.{self.name}"

    def resolve(self) -> Any:
        """The object of that name.

        Raises:
            ImportError: There is no such module.
            AttributeError: It has no such name.
        """
        try:
            owner = importlib.import_module(self.place)
        except ModuleNotFoundError:
            module, _, attribute = self.place.rpartition(".")
            owner = getattr(importlib.import_module(module), attribute)
        return getattr(owner, self.name)


@cache
def names() -> tuple[Name, ...]:
    """Every public name of the reference, in its order: 201 of them."""
    text = files("qlab.coverage").joinpath("reference_api.csv").read_text(encoding="utf-8")
    rows = csv.DictReader(text.splitlines())
    return tuple(Name(row["qlab_module"], row["name"], row["reference_name"]) for row in rows)
