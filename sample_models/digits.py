"""The UCI optical digits: 1,797 real 8×8 images of handwritten digits, and their fixed split."""

from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

DIGITS_FILE = Path(__file__).parent / "data" / "digits.npz"
TRAIN, CALIBRATION, TEST = range(3)
BRIGHTEST = 16


class Digits(NamedTuple):
    """Labelled images: `images` float32 (N, 1, 8, 8) in [0, 1], `labels` int64 (N,) in 0..9."""

    images: Tensor
    labels: Tensor


def load_digits(part: Literal["train", "calibration", "test"]) -> Digits:
    """One part of the data, in the order of the file.

    Args:
        part: `"train"` (1,297 images), `"calibration"` (256 of the training images) or `"test"`
            (500 images that no model here was trained on).

    Returns:
        Freshly allocated images and labels; pixel values 0..16 are divided by 16.
    """
    with np.load(DIGITS_FILE, allow_pickle=False) as arrays:
        images, labels, split = arrays["images"], arrays["labels"], arrays["split"]
    chosen = {
        "train": split != TEST,
        "calibration": split == CALIBRATION,
        "test": split == TEST,
    }[part]
    return Digits(
        torch.from_numpy(images[chosen].astype(np.float32) / BRIGHTEST).unsqueeze(1),
        torch.from_numpy(labels[chosen].astype(np.int64)),
    )
