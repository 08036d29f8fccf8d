"""Which operators share one range between input and output in graphs, after the reference."""

from __future__ import annotations

from enum import Enum
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F


class Sharing(Enum):
    """How the tensors of a graph get their ranges.

    An operator that only moves or selects numbers computes on codes and keeps their scale
    whatever the workflow. The differences are who watches its output, and what concatenation does.
    """

    SEPARATE = "every tensor that an operator computes has a range of its own, found from it alone"
    CALIBRATED = "as `prepare_fx` of the reference: one observer sees all tensors that share"
    TRAINED = "as `prepare_qat_fx`: and what does not share rounds into a range of its own"


#: What gives its output the observer of its first input, and of its further ones; in the words of
#: the model: `nn.Flatten` and ``x.flatten()`` are other operators than `torch.flatten`.
SHARING: frozenset[Any] = frozenset(
    (
        # Several tensors in one.
        torch.cat,
        torch.stack,
        # Pooling and resizing.
        *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d),
        *(nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
        *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
        *(F.max_pool1d, F.max_pool2d, F.max_pool3d, F.avg_pool1d, F.avg_pool2d, F.avg_pool3d),
        *(F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d),
        *(torch.mean, "mean", F.interpolate),
        # Clamps.
        *(nn.ReLU, F.relu, "relu", "relu_", nn.ReLU6, F.relu6),
        *(nn.Hardtanh, F.hardtanh, F.hardtanh_, torch.clamp, "clamp"),
        # Moving elements.
        *(nn.PixelShuffle, nn.PixelUnshuffle, F.pixel_shuffle, F.pixel_unshuffle),
        *(torch.flatten, "reshape", "view", "resize_", torch.transpose, "transpose", "permute"),
        *(torch.squeeze, "squeeze", "squeeze_", torch.unsqueeze, "unsqueeze", "unsqueeze_"),
        *(torch.narrow, torch.repeat_interleave, "repeat_interleave", "repeat"),
        *(nn.Identity, "contiguous", "detach", "detach_"),
    )
)

#: What trains with a range of its own, as it gives larger numbers than in evaluation, and after
#: conversion keeps its input's.
TRAINS_APART: frozenset[Any] = frozenset((nn.Dropout, F.dropout))
