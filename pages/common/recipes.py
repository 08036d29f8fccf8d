"""How a model was repaired, so that it can be done again: what a workspace keeps of it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qlab.qconfig import QConfigMapping


@dataclass(frozen=True)
class Recipe:
    """One repair of a model.

    Attributes:
        algorithm: Its name in `qlab.algorithms.ALGORITHMS`.
        mapping: The configuration that it was done for.
        layers: The layers that it was to change; None for all.
        settings: The algorithm's own, by name; the same ones give the same model.
        title: What the algorithm is called.
        subject: Fingerprint of the model that it made; empty before it was applied.
    """

    algorithm: str
    mapping: QConfigMapping
    layers: tuple[str, ...] | None = None
    settings: tuple[tuple[str, Any], ...] = ()
    title: str = field(default="", compare=False)
    subject: str = field(default="", compare=False)

    def to_dict(self) -> dict[str, Any]:
        """JSON form, read back by `from_dict`.

        Raises:
            UnknownNameError: The configuration holds something unregistered.
        """
        return {
            "algorithm": self.algorithm,
            "mapping": json.loads(self.mapping.to_json()),
            "layers": self.layers,
            "settings": dict(self.settings),
            "title": self.title,
            "subject": self.subject,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Recipe:
        """Inverse of `to_dict`.

        Raises:
            FormatError: A configuration that is none.
        """
        from qlab.qconfig import QConfigMapping

        layers = data["layers"]
        return cls(
            algorithm=str(data["algorithm"]),
            mapping=QConfigMapping.from_json(json.dumps(data["mapping"])),
            layers=None if layers is None else tuple(map(str, layers)),
            settings=tuple(sorted(data["settings"].items())),
            title=str(data["title"]),
            subject=str(data["subject"]),
        )


@dataclass(frozen=True)
class Goal:
    """What an automatic repair is asked for.

    Attributes:
        mapping: The configuration to repair the model for.
        least: The least value of each metric that is to be reached, by its name in a report.
        seconds: How long it may look.
        keep_size: Whether no layer may stay in float.
    """

    mapping: QConfigMapping
    least: tuple[tuple[str, float], ...]
    seconds: float
    keep_size: bool = False

    def to_dict(self) -> dict[str, Any]:
        """JSON form, read back by `from_dict`.

        Raises:
            UnknownNameError: The configuration holds something unregistered.
        """
        return {
            "mapping": json.loads(self.mapping.to_json()),
            "least": dict(self.least),
            "seconds": self.seconds,
            "keep_size": self.keep_size,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Goal:
        """Inverse of `to_dict`.

        Raises:
            FormatError: A configuration that is none.
        """
        from qlab.qconfig import QConfigMapping

        return cls(
            mapping=QConfigMapping.from_json(json.dumps(data["mapping"])),
            least=tuple((str(name), float(value)) for name, value in data["least"].items()),
            seconds=float(data["seconds"]),
            keep_size=bool(data["keep_size"]),
        )


@dataclass(frozen=True)
class Automatic:
    """An automatic repair that was applied.

    Attributes:
        place: How many changes there were before it.
        steps: How many changes it made.
        log: What it found, tried and decided, a sentence or two for each.
    """

    place: int
    steps: int
    log: tuple[str, ...]


#: Repairs one after the other, each of what the one before it made.
Chain = tuple[Recipe, ...]


@dataclass(frozen=True)
class Origin:
    """Where a repaired model comes from.

    Attributes:
        subject: Fingerprint of the original model and its data.
        chain: What was done to it.
    """

    subject: str
    chain: Chain


def in_words(chain: Chain) -> str:
    """What was done, in order: `Cross-layer equalization, then Bias correction`."""
    return ", then ".join(recipe.title or recipe.algorithm for recipe in chain)
