"""What repairs are measured on, and how good a network is; see `repairs`."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

import qlab
import sample_models

CONVOLUTIONAL = ("conv_bn_relu", "residual", "depthwise", "norms")
SEEDS = (0, 1, 2)
ONE_SCALE, FOUR_BITS = "int8-per-tensor", "int4-weights"


def lab_of(name: str) -> tuple[sample_models.SampleModel, qlab.Lab]:
    """A sample model and a calibrated Lab of it: 256 calibration images, 500 test images."""
    sample = sample_models.load(name)
    data = sample.calibration(), sample.evaluation()
    lab = qlab.Lab(sample.model, sample.example_inputs, *data)
    lab.calibrate()
    return sample, lab


def quality(model: Callable[[Tensor], Tensor], lab: qlab.Lab) -> tuple[float, float]:
    """Accuracy [%] on the evaluation data, and the output's SQNR [dB] against the float model."""
    right = count = 0
    signal = noise = 0.0
    with torch.no_grad():
        for x, labels in lab._evaluation_data._source:
            reference, output = lab.graph(x), model(x)
            right += int((output.argmax(-1) == labels).sum())
            count += len(labels)
            signal += float(reference.double().square().sum())
            noise += float((reference - output).double().square().sum())
    return 100 * right / count, 10 * math.log10(signal / noise)
