"""Ten thousand labelled images to measure repairs on, and how sure a share of them is.

The samples' data are 1,797 real digits, of which 500 are for tests: one of them is 0.2 %, and most
samples get nearly all of them right. Each test image is therefore drawn twenty times by a seeded
generator, turned, scaled and moved a little. That is harder than the digits as they are, for the
float network too, and says more finely which of two networks is the better one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from sample_models.digits import load_digits

TIMES, SEED, BATCH = 20, 0, 500
DEGREES, SCALE, PIXELS = 10.0, 0.1, 1.0

ABOUT = (
    f"10,000 images: each of the 500 test images {TIMES} times, turned by up to {DEGREES:.0f}°,"
    f" scaled by up to {100 * SCALE:.0f} % and moved by up to {PIXELS:.0f} pixel along each axis,"
    " by a seeded generator. ± is half of the 95 % interval, over the 500 digits, since the copies"
    " of one are not independent."
)

Network = Callable[[Tensor], Tensor]


class Drawn(NamedTuple):
    """Images float32 (10000, 1, 8, 8) and labels (10000,); every 500th is of the same digit."""

    images: Tensor
    labels: Tensor


@cache
def drawn() -> Drawn:
    """The images; the same ones at each call."""
    test = load_digits("test")
    images, labels = test.images.repeat(TIMES, 1, 1, 1), test.labels.repeat(TIMES)
    generator = torch.Generator().manual_seed(SEED)

    def between(least: float, most: float) -> Tensor:
        return least + (most - least) * torch.rand(len(images), generator=generator)

    angle = between(-DEGREES, DEGREES) * math.pi / 180
    scale = between(1 - SCALE, 1 + SCALE)
    cos, sin = angle.cos() / scale, angle.sin() / scale
    pixel = 2 / images.shape[-1]  # the grid is 2 wide
    x, y = (pixel * between(-PIXELS, PIXELS) for _ in range(2))
    rows = torch.stack([torch.stack([cos, -sin, x], 1), torch.stack([sin, cos, y], 1)], 1)
    grid = F.affine_grid(rows, list(images.shape), align_corners=False)
    return Drawn(F.grid_sample(images, grid, align_corners=False), labels)


def logits(network: Network) -> Tensor:
    """What a network says of the drawn images, (10000, classes)."""
    with torch.no_grad():
        return torch.cat([network(x) for x in drawn().images.split(BATCH)])


def right(networks: Sequence[Network]) -> Tensor:
    """How often the digit of an image was told right, mean over networks, float64 (10000,)."""
    labels = drawn().labels
    return torch.stack([(logits(n).argmax(-1) == labels).double() for n in networks]).mean(0)


class Share(NamedTuple):
    """A mean [%] and half of its 95 % interval."""

    mean: float
    half: float

    def __str__(self) -> str:
        return f"{self.mean:.2f} ± {self.half:.2f}"


def share(values: Tensor) -> Share:
    """The mean of a number of each drawn image; copies of one digit count as one observation."""
    by_digit = values.reshape(TIMES, -1).mean(0)
    half = 1.96 * float(by_digit.std()) / math.sqrt(len(by_digit))
    return Share(100 * float(by_digit.mean()), 100 * half)
