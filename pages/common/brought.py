"""What a person brought: files of models and data, as a workspace remembers them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ModelFile:
    """A model that was uploaded.

    Attributes:
        file: What its bytes are known by.
        title: What the person called the file.
        architecture: What weights belong to; empty for an archive, which says it itself.
        size: Bytes.
    """

    file: str
    title: str
    architecture: str = ""
    size: int = 0


@dataclass(frozen=True)
class SampleFile:
    """Data that were uploaded for a model, and what is done to them where they are images.

    Attributes:
        file: What its bytes are known by.
        title: What the person called the file.
        height: Pixels that images are scaled and cropped to; 0 leaves them as they are.
        width: As the height.
        mean: Subtracted from values in [0, 1].
        std: Divided by afterwards.
    """

    file: str
    title: str
    height: int = 0
    width: int = 0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
