"""Write `data/digits.npz` from scikit-learn's copy of the UCI optical digits.

A tool for maintainers, run once: `python -m sample_models.make_digits`. It is the only file here
that needs scikit-learn.
"""

from importlib import import_module

import numpy as np

from sample_models.digits import CALIBRATION, DIGITS_FILE, TEST, TRAIN

TEST_IMAGES = 500
CALIBRATION_IMAGES = 256
SEED = 2024


def main() -> None:
    """Draw the split and write images, labels and split, without pickle."""
    digits = import_module("sklearn.datasets").load_digits()
    order = np.random.default_rng(SEED).permutation(len(digits.target))
    split = np.full(len(order), TRAIN, dtype=np.uint8)
    split[order[:TEST_IMAGES]] = TEST
    split[order[TEST_IMAGES : TEST_IMAGES + CALIBRATION_IMAGES]] = CALIBRATION
    np.savez_compressed(
        DIGITS_FILE,
        images=digits.images.astype(np.uint8),
        labels=digits.target.astype(np.uint8),
        split=split,
    )


if __name__ == "__main__":
    main()
