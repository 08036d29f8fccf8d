"""Repairs of the sample transformer and of every linear layer of the samples; see `repairs`."""

from __future__ import annotations

import copy
from statistics import median
from typing import Any

import torch
from torch import nn

import qlab
import sample_models
from benchmarks import results
from qlab.dtypes import integer
from qlab.granularity import Granularity, PerAxis, PerGroup
from qlab.qconfig import QConfigMapping, qconfig_of
from qlab.ranges import MSE, TensorSpec

CHANNELS, TIMES = (3, 17, 40), 60.0
WITH_LINEAR = ("mlp", "vit", "conv_bn_relu", "residual", "depthwise", "norms")
GRIDS: dict[str, Granularity] = {"per channel": PerAxis(0), "groups of 16 inputs": PerGroup(16)}

ABOUT = (
    "The sample transformer as it is, and with outliers: three channels behind each norm are 60"
    " times larger and the weights that meet them 60 times smaller, which leaves the float function"
    " as it is (to 1e-6). 8-bit weights per channel and 8-bit activations; SQNR of the output"
    " against the float model on 500 test images, 256 calibration images."
)
ABOUT_LINEAR = (
    "Squared error of each layer's output after the repair over that of rounding to nearest with"
    " ranges of least squared error of the weight, activations in float. Seen: on the 256"
    " calibration images that the repair looked at. New: on 500 test images that it did not. Below"
    " 1 is better than nearest."
)


def with_outliers(model: nn.Module) -> nn.Module:
    """A copy of the sample transformer that computes the same, with outliers behind its norms."""
    made: Any = copy.deepcopy(model)
    times = torch.ones(made.blocks[0].norm1.normalized_shape)
    times[list(CHANNELS)] = TIMES
    with torch.no_grad():
        for block in made.blocks:
            attn = block.attn
            behind = (block.norm1, (attn.q, attn.k, attn.v)), (block.norm2, (block.mlp.fc1,))
            for norm, readers in behind:
                norm.weight *= times
                norm.bias *= times
                for reader in readers:
                    reader.weight /= times
    return made


def outliers() -> list[str]:
    """SmoothQuant on the transformer, with and without outliers."""
    sample, rows = sample_models.load("vit"), []
    for what, model in (("as it is", sample.model), ("outliers", with_outliers(sample.model))):
        data = sample.calibration(), sample.evaluation()
        lab = qlab.Lab(model, sample.example_inputs, *data)
        lab.repair_with("smoothquant", "int8", samples=8)  # compiles what is compiled once
        for preset in ("int8-minmax", "int8"):
            estimate = lab.repair_seconds("smoothquant", preset)
            report = lab.repair_with("smoothquant", preset).report
            before, after = report.before, report.after
            numbers = [f"{before['sqnr']:.1f} dB", f"{after['sqnr']:.1f} dB"]
            numbers += [f"{report.gain():.1f} dB"]
            numbers += [f"{before['accuracy']:.1f} %", f"{after['accuracy']:.1f} %"]
            changed = f"{len(report.layers) - len(report.refusals)} of {len(report.layers)}"
            cost = f"{report.seconds:.1f} s ({estimate:.1f})"
            rows.append([what, preset, *numbers, changed, cost])
    heads = ["transformer", "configuration", "SQNR before", "SQNR after", "won"]
    heads += ["accuracy before", "accuracy after", "layers changed", "time (estimated)"]
    return results.table(heads, rows)


def linear_weights(bits: int, granularity: Granularity) -> QConfigMapping:
    """Weights of linear layers alone."""
    spec = TensorSpec(integer(bits, signed=True), True, granularity, MSE())
    return QConfigMapping().set_object_type(nn.Linear, qconfig_of(None, spec))


def linear_layers() -> list[str]:
    """GPTQ, AWQ and both, on every linear layer of every sample, at 3 and 4 bits."""
    labs = []
    for name in WITH_LINEAR:
        sample = sample_models.load(name)
        data = sample.calibration(), sample.evaluation()
        labs.append(qlab.Lab(sample.model, sample.example_inputs, *data))
    rows = []
    for grid, granularity in GRIDS.items():
        for bits in (3, 4):
            for name in ("gptq", "awq"):
                found = _over_layers(labs, name, bits, granularity)
                rows.append([grid, f"{bits} bits", name.upper(), *found])
    heads = ["scales", "weights", "repair", "linear layers", "better, seen", "better, new"]
    heads += ["median, seen", "worst, seen", "median, new", "worst, new", "time"]
    return results.table(heads, rows)


def _over_layers(labs: list[qlab.Lab], name: str, bits: int, granularity: Granularity) -> list[str]:
    seen, new, seconds = list[float](), list[float](), 0.0
    mapping = linear_weights(bits, granularity)
    size = granularity.group_size if isinstance(granularity, PerGroup) else 1
    for lab in labs:
        linear = [layer.name for layer in lab.layers if layer.type.startswith("Linear")]
        assert all(lab.weight(layer).shape[1] % size == 0 for layer in linear)
        repaired = lab.repair_with(name, mapping, linear)
        table = repaired.report.layers
        seconds += repaired.report.seconds
        seen += table.error_ratio.tolist()
        new += (10 ** ((table.sqnr_local_before - table.sqnr_local_after) / 10)).tolist()
    counts = [str(len(seen)), *(str(sum(r < 1 for r in ratios)) for ratios in (seen, new))]
    numbers = [f(ratios) for ratios in (seen, new) for f in (median, max)]
    return [*counts, *(f"{n:.2f}" for n in numbers), f"{seconds:.1f} s"]
