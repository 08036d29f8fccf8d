"""Images of a zip archive as a model takes them: size, channels, mean and spread as trained."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qlab.errors import ArgumentError, FormatError, ShapeError, UnsupportedError
from qlab.io.uploads.archive import Archive
from qlab.io.uploads.limits import Limits
from qlab.io.uploads.strict_json import shown

_IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
_FORMATS = ("PNG", "JPEG", "BMP", "WEBP")
_LARGEST = 4096
#: How the modes of images without colours begin: of one bit, eight and sixteen, the last as "I".
_GREY = ("1", "L", "I")


@dataclass(frozen=True)
class Preprocessing:
    """What is done to images before a model sees them: what its training did.

    ``y = (x − mean) / std`` of the pixels x in [0, 1], after scaling and cropping.

    Attributes:
        size: Height and width in pixels. An image is scaled, keeping its proportions, until it
            covers them (bilinear, smoothed), and its middle is kept. None: left as it is.
        channels: 1 for grey, 3 for red, green and blue; None: as each file has them. Opacity is
            no channel and is dropped; 16 bits become 8.
        mean: One number, or one per channel.
        std: One number, or one per channel.

    Raises:
        ArgumentError: A size, a number of channels or a spread that makes no sense.
    """

    size: tuple[int, int] | None = None
    channels: int | None = None
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        if self.size is not None and not all(1 <= side <= _LARGEST for side in self.size):
            raise ArgumentError(
                "Images cannot have this size",
                expected=f"height and width from 1 to {_LARGEST} pixels",
                received=self.size,
            )
        if self.channels not in (None, 1, 3):
            raise ArgumentError(
                "Images have 1 or 3 channels", expected="1 or 3", received=self.channels
            )
        for name, values in (("mean", self.mean), ("std", self.std)):
            lengths = {1, 3} if self.channels is None else {1, self.channels}
            finite = all(math.isfinite(value) for value in values)
            if len(values) not in lengths or not finite:
                raise ArgumentError(
                    f"This is no {name} of images",
                    expected="one finite number, or one for each channel",
                    received=values,
                )
        if min(self.std) <= 0:
            raise ArgumentError(
                "A spread is above 0", expected="std > 0", received=f"std = {self.std}"
            )

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Preprocessing:
        """From its fields, as `dataclasses.asdict` and JSON give them."""
        size, channels = data.get("size"), data.get("channels")
        return cls(
            None if size is None else (int(size[0]), int(size[1])),
            None if channels is None else int(channels),
            tuple(map(float, data.get("mean", (0.0,)))),
            tuple(map(float, data.get("std", (1.0,)))),
        )

    def __str__(self) -> str:
        """In words, in the order in which it happens."""
        parts = []
        if self.size is not None:
            parts.append(f"scaled and cropped to {self.size[0]} × {self.size[1]} pixels")
        if self.channels is not None:
            parts.append("grey" if self.channels == 1 else "red, green and blue")
        parts.append("values from 0 to 1")
        if (self.mean, self.std) != ((0.0,), (1.0,)):
            mean, std = (", ".join(f"{v:g}" for v in values) for values in (self.mean, self.std))
            parts.append(f"minus {mean}, divided by {std}")
        return "; ".join(parts)


def read_images(
    archive: Archive, preprocessing: Preprocessing, limits: Limits
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Images as float32 (N, C, H, W); the folders they are in are their classes.

    Returns:
        ``input``, and ``labels`` where there are several folders; what else there is to know:
        ``classes``, and ``sizes`` as the files have them, (height, width, channels) each.

    Raises:
        FormatError: Other members than images, damaged ones, or too large.
        ShapeError: Images of different sizes, and none is asked for.
    """
    names = sorted(n for n in archive if not n.startswith("__MACOSX/") and "/." not in f"/{n}")
    foreign = [n for n in names if PurePosixPath(n).suffix.lower() not in _IMAGES]
    if foreign or not names:
        raise FormatError(
            "The archive holds neither only arrays nor only images",
            expected="*.npy, or " + ", ".join(f"*{s}" for s in _IMAGES),
            received=shown(foreign[0]) if foreign else "nothing",
        )
    images, sizes, total = [], set[tuple[int, ...]](), 0
    for name in names:
        image, size = _image(archive.read(name), name, preprocessing, limits)
        images.append(image)
        sizes.add(size)
        total += image.nbytes * 4
        limits.check("unpacked_bytes", total, "The images take too much memory")
    shapes = {image.shape for image in images}
    if len(shapes) > 1:
        raise ShapeError(
            "The images have different sizes",
            expected="one size and one number of channels",
            received=shown(sorted(shapes)),
            fix="Name the size and the channels that the model's training gave them.",
        )
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
    tensors = {"input": _scaled(pixels.float() / 255, preprocessing)}
    told: dict[str, Any] = {"classes": [], "sizes": sorted(map(list, sizes))}
    folders = [PurePosixPath(n).parent.name for n in names]
    classes = sorted(set(folders))
    if len(classes) > 1 and "" not in classes:
        tensors["labels"] = torch.tensor([classes.index(f) for f in folders])
        told["classes"] = classes
    return tensors, told


def _scaled(pixels: Tensor, preprocessing: Preprocessing) -> Tensor:
    channels = pixels.shape[1]
    for values in (preprocessing.mean, preprocessing.std):
        if len(values) not in (1, channels):
            raise ShapeError(
                "Mean and std are not those of these images",
                expected=f"1 or {channels} numbers each",
                received=f"{len(values)}",
            )
    mean, std = (torch.tensor(v)[:, None, None] for v in (preprocessing.mean, preprocessing.std))
    return (pixels - mean) / std


def _image(
    content: bytes, name: str, preprocessing: Preprocessing, limits: Limits
) -> tuple[np.ndarray[Any, Any], tuple[int, ...]]:
    """One image, uint8 (H, W, C), and height, width and channels as its file has them."""
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise UnsupportedError(
            "Images are read with Pillow, which is not installed", fix="pip install pillow"
        ) from error
    stream = io.BytesIO(content)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(stream, formats=_FORMATS) as image:
                limits.check("pixels", image.width * image.height, f"{shown(name)} is too large")
                own = 1 if image.mode.startswith(_GREY) else 3
                plain = "L" if (preprocessing.channels or own) == 1 else "RGB"
                found = Image.fromarray(_of_16_bits(image)) if image.mode[0] == "I" else image
                found, size = found.convert(plain), (image.height, image.width, own)
                if preprocessing.size is not None:
                    height, width = preprocessing.size
                    found = ImageOps.fit(found, (width, height), Image.Resampling.BILINEAR)
                array = np.asarray(found, dtype=np.uint8)
    except FormatError:
        raise
    except Exception as error:  # Pillow's decoders raise anything on damaged files
        why = f"{type(error).__name__}: {error}".replace(repr(stream), "this member")
        raise FormatError(
            f"The image {shown(name)} cannot be read",
            expected="a whole PNG, JPEG, BMP or WebP image",
            received=f"{len(content)} bytes ({why[:200]})",
            fix="Repair it, or leave it out.",
        ) from error
    return (array[..., None] if array.ndim == 2 else array), size


def _of_16_bits(image: Any) -> np.ndarray[Any, Any]:
    """Grey of 16 bits in 8, as ``round(x / 257)``; Pillow's own conversion cuts off at 255."""
    values = np.asarray(image).astype(np.int64)
    return ((values + 128) // 257).astype(np.uint8)
