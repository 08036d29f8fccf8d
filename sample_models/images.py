"""Where a sample model's calibration and evaluation images come from."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from sample_models.digits import load_digits


class Images(Protocol):
    """Images to calibrate with, and labelled images to evaluate on where there are any."""

    @property
    def description(self) -> str:
        """What the images are, for people to read."""
        ...

    def calibration(self, samples: int) -> Tensor:
        """The first `samples` calibration images, float32 (samples, C, H, W)."""
        ...

    def evaluation(self) -> tuple[Tensor, Tensor] | None:
        """All test images and their labels (int64), or None where nothing is labelled."""
        ...


@dataclass(frozen=True)
class DigitImages:
    """Real data: the UCI optical digits, float32 (N, 1, 8, 8) in [0, 1]."""

    description: str = "1,797 UCI optical digits: 256 to calibrate with, 500 to test on"

    def calibration(self, samples: int) -> Tensor:
        images = load_digits("calibration").images
        if not 1 <= samples <= len(images):
            raise ValueError(
                f"Expected samples between 1 and {len(images)}, the number of calibration images, "
                f"got {samples}."
            )
        return images[:samples]

    def evaluation(self) -> tuple[Tensor, Tensor]:
        return load_digits("test")


@dataclass(frozen=True)
class NoiseImages:
    """Smooth random patterns (N, channels, size, size) with mean 0; each image has its own seed."""

    channels: int = 3
    size: int = 224
    coarse_size: int = 14
    description: str = "seeded random noise: good for speed and memory, not for accuracy"

    def calibration(self, samples: int) -> Tensor:
        if samples < 1:
            raise ValueError(f"Expected samples of at least 1, got {samples}.")
        shape = (self.channels, self.coarse_size, self.coarse_size)
        coarse = torch.stack(
            [
                torch.randn(shape, generator=torch.Generator().manual_seed(index))
                for index in range(samples)
            ]
        )
        return F.interpolate(coarse, size=self.size, mode="bilinear")

    def evaluation(self) -> None:
        return None
