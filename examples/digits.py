"""What the examples share: handwritten digits, an accuracy, the size of a model."""

import io

import torch
from torch import Tensor, nn

import sample_models


def data() -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """256 images to calibrate with or train on; 500 test images and their labels."""
    sample = sample_models.load("mlp")
    images, labels = (torch.cat(part) for part in zip(*sample.evaluation(), strict=True))
    return torch.cat(sample.calibration(256)), (images, labels)


def accuracy(model: nn.Module, test: tuple[Tensor, Tensor]) -> float:
    """Share of test images whose largest logit is the right digit [%]."""
    images, labels = test
    with torch.no_grad():
        return 100 * float((model(images).argmax(1) == labels).float().mean())


def kilobytes(model: nn.Module) -> float:
    """What saving a model's tensors takes [kB]."""
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    return len(file.getvalue()) / 1000
