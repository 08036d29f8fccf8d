"""Small trained models with real data, and two large untrained ones, to try quantization on.

>>> import sample_models
>>> sample = sample_models.load("mlp")
>>> sample.model(*sample.example_inputs).shape
torch.Size([1, 10])
"""

import json
from dataclasses import dataclass

import safetensors.torch
import torch
from torch import Tensor, nn

from sample_models.catalog import METADATA_FILE, MODELS, weights_file
from sample_models.images import Images

__all__ = ["SampleModel", "UnknownSampleModelError", "load", "names"]


class UnknownSampleModelError(KeyError):
    """No sample model has that name; the message lists those that exist."""

    def __str__(self) -> str:
        return str(self.args[0])


@dataclass(frozen=True, eq=False)
class SampleModel:
    """A float model with images to calibrate and to evaluate it.

    Attributes:
        name: What `load` knows it by.
        title: Its name for people.
        teaches: One sentence on what it shows about quantization.
        trained: False for seeded random weights, whose logits mean nothing.
        accuracy: Top-1 accuracy of the float model on the test images in percent, or None.
        model: In eval mode, no parameter requiring gradients; images to logits (N, classes).
        example_inputs: One batch of one image, for tracing.
        images: Where calibration and evaluation images come from.
    """

    name: str
    title: str
    teaches: str
    trained: bool
    accuracy: float | None
    model: nn.Module
    example_inputs: tuple[Tensor, ...]
    images: Images

    @property
    def data(self) -> str:
        """What the images are, in words."""
        return self.images.description

    def calibration(self, samples: int = 256, batch_size: int = 32) -> list[Tensor]:
        """Images to calibrate with: float32 batches (≤ batch_size, C, H, W), `samples` in all.

        Trained models were trained on these images, among others, and never on the evaluation's.

        Raises:
            ValueError: if there are fewer than `samples` images.
        """
        return list(self.images.calibration(samples).split(batch_size))

    def evaluation(self, batch_size: int = 128) -> list[tuple[Tensor, Tensor]]:
        """Test images in float32 batches with int64 labels; empty for an untrained model."""
        labelled = self.images.evaluation()
        if labelled is None:
            return []
        images, labels = labelled
        return list(zip(images.split(batch_size), labels.split(batch_size), strict=True))


def names(trained: bool | None = None) -> tuple[str, ...]:
    """The names of the sample models: all, only the trained ones or only the untrained ones."""
    return tuple(
        name
        for name, entry in MODELS.items()
        if trained is None or trained == (entry.recipe is not None)
    )


def load(name: str) -> SampleModel:
    """Build a sample model, with its trained weights where it has any.

    The model is a new one at each call. The global random state is left alone.

    Raises:
        UnknownSampleModelError: a `KeyError`, if no sample model is called `name`.
    """
    if name not in MODELS:
        raise UnknownSampleModelError(
            f"Unknown sample model {name!r}; choose one of {', '.join(MODELS)}."
        )
    entry = MODELS[name]
    accuracy = None
    if entry.recipe is None:
        model = entry.build()
    else:
        # Not on the meta device: its first use imports 800 modules, a second of the app's start.
        with torch.random.fork_rng(devices=[]):
            model = entry.build()
        model.load_state_dict(safetensors.torch.load_file(weights_file(name)))
        accuracy = json.loads(METADATA_FILE.read_text())[name]["accuracy"]
    return SampleModel(
        name=name,
        title=entry.title,
        teaches=entry.teaches,
        trained=entry.recipe is not None,
        accuracy=accuracy,
        model=model.eval().requires_grad_(False),
        example_inputs=(entry.images.calibration(1),),
        images=entry.images,
    )
