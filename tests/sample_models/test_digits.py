"""The digits are the UCI's, with their licence, and no test image is trained on."""

import hashlib

import numpy as np
import pytest
import torch

from sample_models.digits import DIGITS_FILE, load_digits

CONTENTS = "3f55c8998a2669b936a6a31c4648859a6c52d16460c890bde7c59b40a00b9e3d"


def test_the_file_holds_the_original_images_and_labels():
    with np.load(DIGITS_FILE, allow_pickle=False) as arrays:
        images, labels, split = arrays["images"], arrays["labels"], arrays["split"]
    assert images.shape == (1797, 8, 8)
    assert images.dtype == labels.dtype == split.dtype == np.uint8
    contents = images.tobytes() + labels.tobytes() + split.tobytes()
    assert hashlib.sha256(contents).hexdigest() == CONTENTS


def test_the_file_is_small():
    assert DIGITS_FILE.stat().st_size < 100_000


def test_the_licence_lies_beside_the_data():
    licence = DIGITS_FILE.with_name("LICENSE.md").read_text(encoding="utf-8")
    for expected in ("CC BY 4.0", "https://doi.org/10.24432/C50P49", "Alpaydin", "Changes:"):
        assert expected in licence


@pytest.mark.parametrize(("part", "count"), [("train", 1297), ("calibration", 256), ("test", 500)])
def test_parts_have_scaled_images_and_every_class(part, count):
    images, labels = load_digits(part)
    assert images.shape == (count, 1, 8, 8)
    assert images.dtype == torch.float32
    assert (images.min(), images.max()) == (0, 1)
    assert labels.shape == (count,)
    assert labels.dtype == torch.int64
    assert set(labels.tolist()) == set(range(10))


def as_set(part) -> set[bytes]:
    return {image.numpy().tobytes() for image in load_digits(part).images}


def test_no_test_image_is_trained_on():
    assert as_set("train").isdisjoint(as_set("test"))


def test_calibration_images_are_training_images():
    assert as_set("calibration") < as_set("train")
