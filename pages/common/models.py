"""Which models the app offers: the sample models, and before them one from the command line.

`qlab explore package.module:factory` puts two names into the environment of the server that it
starts. They are read here and nowhere else: an address or a widget can only choose among the names
that are on offer, never name code.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

    from qlab.cli import Subject
    from sample_models import SampleModel

GREETING = "depthwise"
OWN_DATA = "Your own data, from the command line."


@dataclass(frozen=True)
class Offer:
    """One model as the sidebar lists it.

    Attributes:
        title: Its name for people.
        teaches: One or two sentences.
        trained: False for random weights, whose answers mean nothing.
        data: What its data are.
    """

    title: str
    teaches: str
    trained: bool
    data: str


@dataclass(frozen=True, eq=False)
class OwnModel:
    """A person's own model under the names that pages know of a sample model."""

    subject: Subject
    trained: bool = True

    @property
    def name(self) -> str:
        """As the command line has it."""
        return self.subject.name

    @property
    def title(self) -> str:
        """Its class."""
        return type(self.subject.model).__name__

    @property
    def data(self) -> str:
        """Where the data come from, in words."""
        return OWN_DATA

    @property
    def model(self) -> nn.Module:
        """The float model, in eval mode."""
        return self.subject.model

    @property
    def example_inputs(self) -> tuple[Any, ...]:
        """Inputs of one call."""
        return self.subject.example_inputs

    def calibration(self, samples: int, batch_size: int | None = None) -> list[Tensor]:
        """Batches of the model's input, `samples` in all or as many as there are.

        They come as the loader made them, or cut into smaller ones.
        """
        from qlab.cli.subject import limited

        given = [_parts(batch)[0] for batch in limited(self.subject.calibration, samples)]
        return [part for x in given for part in x.split(batch_size or max(1, len(x)))]

    def evaluation(self) -> list[tuple[Tensor, Any]]:
        """Batches with labels; of the calibration data where there are no others."""
        given = self.subject.evaluation
        batches = [_parts(b) for b in (self.subject.calibration if given is None else given)]
        return [(x, labels) for x, labels in batches if labels is not None]


def _parts(batch: Any) -> tuple[Any, Any]:
    """The one input of a batch, and its labels or None."""
    from torch import Tensor

    if isinstance(batch, Tensor):
        return batch, None
    return batch[0], batch[1] if len(batch) > 1 else None


def own() -> str | None:
    """The model that the command line named."""
    return os.environ.get("QLAB_EXPLORE_MODEL")


def greeting() -> str:
    """The model that is shown first."""
    return own() or GREETING


def offered() -> dict[str, Offer]:
    """All models by name."""
    from sample_models.catalog import MODELS

    first = own()
    mine = {} if first is None else {first: Offer(first, "From the command line.", True, OWN_DATA)}
    samples = {
        name: Offer(e.title, e.teaches, e.recipe is not None, e.images.description)
        for name, e in MODELS.items()
    }
    return mine | samples


def load(name: str) -> SampleModel | OwnModel:
    """A model by a name that is on offer; a sample model is a new one at each call."""
    import sample_models

    return _load_own(name) if name == own() else sample_models.load(name)


@lru_cache(maxsize=1)
def _load_own(name: str) -> OwnModel:
    from qlab.cli import load_subject

    return OwnModel(load_subject(name, os.environ.get("QLAB_EXPLORE_DATA")))
