"""Which models the app offers: one from the command line, what was uploaded, the sample models.

`qlab explore package.module:factory` puts names into the environment of the server that it starts.
They are read here and nowhere else: an address or a widget can only choose among the names that are
on offer, never name code. What was uploaded is on offer in its own workspace only.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pages.common import uploads
from pages.common.jobs import Progress
from pages.common.workspace import Choice, Workspace

if TYPE_CHECKING:
    from torch import nn

    from qlab.cli import Subject
    from qlab.cli.files import FileData
    from qlab.io.replay import Origin
    from qlab.io.uploads import UploadedModel
    from sample_models import SampleModel

GREETING = "depthwise"
OWN_DATA = "Your own data, from the command line."
NO_DATA = "no data yet, so random inputs stand in for them"
#: Calibration samples to choose from, and the first choice. Large networks take seconds for each.
SIZES, FEW = (8, 16, 32, 64, 128, 256), (2, 4, 8, 16)
#: Bytes from which an uploaded network counts as a large one.
LARGE = 8 * 2**20


@dataclass(frozen=True)
class Offer:
    """One model as the sidebar lists it.

    Attributes:
        title: Its name for people.
        teaches: One or two sentences.
        trained: False for random weights, whose answers mean nothing.
        data: What its data are.
        noise: Whether they are random.
        large: Whether a sample takes long.
    """

    title: str
    teaches: str
    trained: bool
    data: str
    noise: bool = False
    large: bool = False

    @property
    def sizes(self) -> tuple[int, ...]:
        """Numbers of calibration samples on offer."""
        return FEW if self.large else SIZES

    @property
    def size(self) -> int:
        """The number that is chosen at first."""
        return 4 if self.large else 256


@dataclass(frozen=True, eq=False)
class OwnModel:
    """A person's own model under the names that pages know of a sample model.

    Attributes:
        subject: Model and data.
        name: What its numbers are kept under.
        called: What people call it.
        trained: Its weights are taken to mean something.
        found: What was found in its data's file, if they are of one.
    """

    subject: Subject
    name: str
    called: str
    trained: bool = True
    found: FileData | None = None

    @property
    def title(self) -> str:
        """Its class; an archive has none."""
        from torch import fx

        model = self.subject.model
        return "Exported program" if isinstance(model, fx.GraphModule) else type(model).__name__

    @property
    def data(self) -> str:
        """What the data are, in words."""
        return self.subject.about or OWN_DATA

    @property
    def noise(self) -> bool:
        """Whether the data are random."""
        return self.subject.made_up

    @property
    def model(self) -> nn.Module:
        """The float model, in eval mode."""
        return self.subject.model

    @property
    def example_inputs(self) -> Any:
        """Inputs of one call."""
        return self.subject.example_inputs

    def calibration(self, samples: int, batch_size: int | None = None) -> list[Any]:
        """Batches of the model's inputs, `samples` in all or as many as there are.

        They come as the loader made them, or cut into smaller ones where the model takes those.
        """
        from qlab.cli.batches import limited, pieces

        whole = self.subject.batch
        wanted = -(-samples // whole) * whole if whole else samples
        given = list(limited(self.subject.calibration, wanted))
        return given if batch_size is None or whole else list(pieces(given, batch_size))

    def evaluation(self) -> list[Any]:
        """Batches with labels; of the calibration data where there are no others."""
        given = self.subject.evaluation
        batches = self.subject.calibration if given is None else given
        return [batch for batch in batches if self._labelled(batch)]

    def _labelled(self, batch: Any) -> bool:
        from torch import Tensor

        if isinstance(batch, dict):
            return any(batch.get(name) is not None for name in ("labels", "label"))
        inputs = self.subject.example_inputs
        return not isinstance(batch, Tensor) and len(batch) > (
            1 if isinstance(inputs, Tensor) else len(inputs)
        )


def noise(sample: SampleModel | OwnModel) -> bool:
    """Whether a model's data are random, so that its errors say nothing of real data."""
    return sample.noise if isinstance(sample, OwnModel) else not sample.trained


def kind_of_data(sample: SampleModel | OwnModel) -> str:
    """What a model's evaluation data are called."""
    if isinstance(sample, OwnModel):
        return "random samples" if sample.noise else "samples"
    return "test images" if sample.trained else "noise images"


def own() -> str | None:
    """The model that the command line named."""
    return os.environ.get("QLAB_EXPLORE_MODEL")


def greeting() -> str:
    """The model that is shown first."""
    return own() or GREETING


def offered(space: Workspace | None = None) -> dict[str, Offer]:
    """All models by name: those of everybody, and what was uploaded in a workspace."""
    from sample_models.catalog import MODELS

    first = own()
    mine = {}
    if first is not None:
        made_up = os.environ.get("QLAB_EXPLORE_DATA") == "random"
        title = Path(first).name
        mine[first] = Offer(title, "From the command line.", True, OWN_DATA, noise=made_up)
    brought = {} if space is None else {name: _uploaded(space, name) for name in space.models}
    samples = {}
    for name, e in MODELS.items():
        trained = e.recipe is not None
        data, is_noise = e.images.description, not trained
        if space is not None and name in space.samples:
            data, is_noise = space.samples[name].title, False
        samples[name] = Offer(e.title, e.teaches, trained, data, is_noise, not trained)
    return mine | brought | samples


def _uploaded(space: Workspace, name: str) -> Offer:
    file, data = space.models[name], space.samples.get(name)
    kind = f"Weights of {file.architecture}" if file.architecture else "Exported program"
    told = NO_DATA if data is None else data.title
    return Offer(kind, "Uploaded here.", True, told, data is None, file.size > LARGE)


def load(
    name: str, space: Workspace | None = None, progress: Progress | None = None
) -> SampleModel | OwnModel:
    """A model by a name that is on offer; a sample model is a new one at each call.

    Args:
        name: The name.
        space: Whose uploads are on offer, too.
        progress: Told how reading a file goes, and asked whether to stop.
    """
    import sample_models

    base = space.models.get(name) if space is not None else None
    data = space.samples.get(name) if space is not None else None
    if space is None or (base is None and data is None):
        return _load_own(name) if name == own() else sample_models.load(name)
    told = progress or _Silent()
    model = without_data(name, space, told)
    if data is None:
        from qlab.cli.files import MADE_UP, data_for

        found = data_for(model, MADE_UP)
    else:
        found = uploads.read_samples(space, data, model, told)
    identity = uploads.identity(space, name)
    return OwnModel(_subject(name, model, found), identity, name, _is_trained(name), found)


def origin(choice: Choice, space: Workspace) -> Origin:
    """How a script finds a model and its data again, uploads by the names that their files had."""
    from qlab.cli.files import MADE_UP
    from qlab.io.replay import Origin

    name, samples = choice.model, choice.samples
    file, data = space.models.get(name), space.samples.get(name)
    if file is None and data is None:
        mine = name == own()
        options = json.loads(os.environ.get("QLAB_EXPLORE_OPTIONS", "{}")) if mine else {}
        source = os.environ.get("QLAB_EXPLORE_DATA") if mine else None
        return Origin(name, source, samples, **options)
    images = None
    if data is not None and data.title.lower().endswith(".zip"):
        images = {"mean": list(data.mean), "std": list(data.std)}
        if data.height and data.width:
            images["size"] = [data.height, data.width]
    return Origin(
        name if file is None else file.title,
        MADE_UP if data is None else data.title,
        samples,
        (file.architecture or None) if file is not None else None,
        images,
    )


def without_data(name: str, space: Workspace, progress: Progress) -> UploadedModel:
    """A model on offer with what it takes, whatever its data."""
    file = space.models.get(name)
    return _known(name) if file is None else uploads.read_model(space, file, progress)


def _is_trained(name: str) -> bool:
    from sample_models.catalog import MODELS

    return name not in MODELS or MODELS[name].recipe is not None


def _known(name: str) -> UploadedModel:
    """A model that everybody has, with what it takes."""
    from qlab.cli.files import known_model

    model = load(name)
    examples = model.example_inputs
    values = tuple(examples.values()) if isinstance(examples, dict) else tuple(examples)
    return replace(known_model(model.model, values), example_inputs=examples)


def _subject(name: str, model: UploadedModel, data: FileData) -> Subject:
    from qlab.cli import Subject

    return Subject(
        name,
        model.model,
        model.example_inputs,
        data.calibration,
        data.evaluation,
        data.about,
        data.made_up,
        data.batch,
    )


class _Silent:
    """Progress that nobody watches."""

    partial: Any = None
    timed: bool = False
    part: tuple[int, tuple[float, ...]] = (0, (1.0,))

    def report(self, done: int, total: int, label: str) -> None:
        """Told how far it is."""

    def should_stop(self) -> bool:
        """Never."""
        return False


@lru_cache(maxsize=1)
def _load_own(name: str) -> OwnModel:
    from qlab.cli import load_subject

    options = json.loads(os.environ.get("QLAB_EXPLORE_OPTIONS", "{}"))
    subject = load_subject(name, os.environ.get("QLAB_EXPLORE_DATA"), **options)
    return OwnModel(subject, name, name)
