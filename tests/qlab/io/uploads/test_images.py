"""Images reach a model as its training had them: size, channels, mean and spread."""

from __future__ import annotations

import io
from dataclasses import asdict

import numpy as np
import pytest
import torch
from PIL import Image

from qlab.errors import ArgumentError, FormatError, ShapeError
from qlab.io import uploads
from qlab.io.uploads import Limits, Preprocessing, UploadedData
from qlab.io.uploads.arrays import collect, read_arrays
from tests.upload_files import pack, png


def read(content: bytes, preprocessing: Preprocessing) -> UploadedData:
    return collect(*read_arrays(content, "images.zip", Limits(), preprocessing))


def stripes(height: int, width: int) -> bytes:
    """Red on the left, green in the middle half, blue on the right."""
    image = np.zeros((height, width, 3), "u1")
    image[:, : width // 4, 0] = image[:, width // 4 : -width // 4, 1] = 255
    image[:, -width // 4 :, 2] = 255
    return png(image)


def test_images_of_many_sizes_are_scaled_and_their_middle_is_kept() -> None:
    content = pack({"a.png": stripes(8, 16), "b.png": stripes(20, 40)}, "")
    with pytest.raises(ShapeError, match=r"different sizes.*Name the size"):
        read(content, Preprocessing())
    data = read(content, Preprocessing((4, 4)))
    (images,) = data.inputs.values()
    assert images.shape == (2, 3, 4, 4) and data.image_sizes == ((8, 16, 3), (20, 40, 3))
    assert images[:, 1].min() > 0.8 and images[:, 0].max() < 0.3  # the green middle


def test_mean_and_spread_are_per_channel() -> None:
    content = pack({"a.png": stripes(4, 4)}, "")
    plain = read(content, Preprocessing()).inputs["input"]
    mean, std = (0.5, 0.25, 0.0), (0.5, 2.0, 1.0)
    scaled = read(content, Preprocessing(mean=mean, std=std)).inputs["input"]
    expected = (plain - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    assert torch.equal(scaled, expected)
    half = read(content, Preprocessing(mean=(0.5,), std=(0.5,))).inputs["input"]
    assert (half.min(), half.max()) == (-1, 1)


def test_channels_are_as_asked() -> None:
    grey = np.full((2, 3), 100, "u1")
    content = pack({"a.png": png(grey), "b.png": stripes(2, 3)}, "")
    with pytest.raises(ShapeError, match="one number of channels"):
        read(content, Preprocessing())
    assert read(content, Preprocessing(channels=3)).inputs["input"].shape == (2, 3, 2, 3)
    one = read(content, Preprocessing(channels=1)).inputs["input"]
    assert one.shape == (2, 1, 2, 3) and one[0].unique().tolist() == pytest.approx([100 / 255])


def saved(image: Image.Image, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


COLOURS = Image.new("RGBA", (3, 2), (10, 20, 30, 0))


@pytest.mark.parametrize(
    ("content", "colours"),
    [
        (saved(Image.new("1", (3, 2), 1)), (255,)),
        (saved(Image.new("LA", (3, 2), (77, 5))), (77,)),
        (saved(Image.fromarray(np.full((2, 3), 77 * 257, "u2"))), (77,)),
        (saved(Image.fromarray(np.full((2, 3), 65535, "u2"))), (255,)),
        (saved(Image.fromarray(np.full((2, 3), 256, "u2"))), (1,)),
        (saved(COLOURS), (10, 20, 30)),
        (saved(COLOURS.convert("RGB").quantize(4)), (10, 20, 30)),
        (saved(Image.new("CMYK", (3, 2), (0, 255, 255, 0)), "JPEG"), (255, 0, 0)),
    ],
    ids=["1 bit", "opacity", "16 bits", "white", "dark", "RGBA", "palette", "CMYK"],
)
def test_other_modes_have_the_colours_that_people_see(content: bytes, colours: tuple) -> None:
    data = read(pack({"a.jpg": content}, ""), Preprocessing())
    pixels = data.inputs["input"] * 255
    assert pixels.shape == (1, len(colours), 2, 3)
    assert pixels[0, :, 0, 0].tolist() == pytest.approx(colours, abs=1e-3)
    assert data.image_sizes == ((2, 3, len(colours)),)


@pytest.mark.parametrize(
    "content",
    [b"", b"hello", stripes(9, 9)[:40], stripes(9, 9)[:8], saved(COLOURS.convert("L"), "GIF")],
    ids=["empty", "text", "cut", "its first bytes", "another kind"],
)
def test_a_damaged_image_is_named_with_what_to_do(content: bytes) -> None:
    whole = pack({"a.png": stripes(9, 9), "b.png": content}, "")
    with pytest.raises(
        FormatError, match=r"'b\.png' cannot be read.*a whole PNG.*leave it out"
    ) as e:
        read(whole, Preprocessing())
    assert f"{len(content)} bytes" in str(e.value) and "0x" not in str(e.value)


def test_means_of_another_number_of_channels_are_refused() -> None:
    content = pack({"a.png": png(np.zeros((2, 3), "u1"))}, "")
    with pytest.raises(ShapeError, match=r"not those of these images.*1 or 1 numbers.*3"):
        read(content, Preprocessing(mean=(0.1, 0.2, 0.3)))


def test_it_reaches_the_reading_process() -> None:
    asked = Preprocessing((3, 5), 1, (0.5,), (0.25,))
    data = uploads.read_data(pack({"a.png": stripes(9, 9)}, ""), "x.zip", images=asked)
    assert data.inputs["input"].shape == (1, 1, 3, 5)
    assert Preprocessing.of(asdict(asked)) == asked
    assert str(asked) == (
        "scaled and cropped to 3 × 5 pixels; grey; values from 0 to 1; minus 0.5, divided by 0.25"
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"size": (0, 4)}, r"cannot have this size.*1 to 4096.*\(0, 4\)"),
        ({"size": (4, 5000)}, "cannot have this size"),
        ({"channels": 4}, "1 or 3 channels"),
        ({"mean": ()}, "no mean of images"),
        ({"mean": (0.1, 0.2)}, "no mean of images"),
        ({"mean": (float("nan"),)}, "no mean of images"),
        ({"channels": 1, "std": (1.0, 1.0, 1.0)}, "no std of images"),
        ({"std": (0.0,)}, r"spread is above 0.*std = \(0\.0,\)"),
    ],
)
def test_what_makes_no_sense_is_refused(fields: dict, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        Preprocessing(**fields)
