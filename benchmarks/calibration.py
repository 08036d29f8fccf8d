"""What calibration costs in units of one bare float pass over the same images.

Run: python benchmarks/calibration.py [rounds]

The two are timed in turns in one process, and medians compared. ``reference`` is torch's own
histogram calibration of the same graph-mode preparation, where this torch still has it.
"""

from __future__ import annotations

import importlib
import platform
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import qlab
from qlab.ranges import FROM_DATA, MSE, TensorSpec
from sample_models.untrained import MobileNetV2, ResNet, build_untrained

BATCHES, SIZE, PIXELS = 4, 8, 224


def seconds(function: Callable[[], object]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def images() -> list[Tensor]:
    """Seeded noise in batches."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(SIZE, 3, PIXELS, PIXELS, generator=generator) for _ in range(BATCHES)]


@torch.no_grad()
def float_pass(model: nn.Module, data: list[Tensor]) -> None:
    """The model alone."""
    for x in data:
        model(x)


def reference_pass(model: nn.Module, data: list[Tensor]) -> Callable[[], None] | None:
    """Torch's own calibration with histogram observers, on a model prepared once."""
    try:
        workflow: Any = importlib.import_module("torch.ao.quantization.quantize_fx")
        qconfigs: Any = importlib.import_module("torch.ao.quantization")
    except ImportError:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mapping = qconfigs.get_default_qconfig_mapping("onednn")
        prepared = workflow.prepare_fx(model, mapping, data[0][:1])
    return lambda: float_pass(prepared, data)


def calibrations(architecture: Callable[[], nn.Module], rounds: int) -> qlab.Lab:
    """Prints the ratios of one architecture; returns its calibrated Lab."""
    model, data = build_untrained(architecture).eval(), images()
    labs = [qlab.Lab(model, data[0][:1], data) for _ in range(rounds + 1)]
    reference = reference_pass(model, data)
    times: dict[str, list[float]] = {"float": [], "calibrate": [], "reference": []}
    for turn, lab in enumerate(labs):
        turns = {"float": seconds(lambda: float_pass(model, data))}
        turns["calibrate"] = seconds(lab.calibrate)
        if reference is not None:
            turns["reference"] = seconds(reference)
        for name, value in turns.items() if turn else ():
            times[name].append(value)
    unit = np.median(times["float"])
    for name, values in times.items():
        if values:
            median = np.median(values)
            print(
                f"{model.__class__.__name__:12s} {name:10s} {median:7.3f} s"
                f" {median / unit:6.2f} units (least {min(values) / min(times['float']):.2f})"
            )
    return labs[-1]


def what_ifs(lab: qlab.Lab) -> None:
    """Milliseconds of one layer's what-if with new weights and a new range, and of decisions."""
    lab.what_if(lab.layers[0].name)
    slowest = []
    for layer in lab.layers:
        if lab.plan().step(layer.name).execution == "integer":
            weight = TensorSpec.int8_weight().with_bits(5) if layer.parameters else None
            spec = TensorSpec.uint8_activation(policy=MSE()).with_bits(6)
            ask = lambda name=layer.name, w=weight, s=spec: lab.what_if(name, w, s)  # noqa: E731
            slowest.append((seconds(ask) * 1e3, layer.name))
    for value, name in sorted(slowest, reverse=True)[:3]:
        print(f"what_if      {name:24s} {value:7.1f} ms")
    for policy in FROM_DATA:
        spec = TensorSpec(policy=policy)
        every = [lab.statistics(layer.name) for layer in lab.layers]
        times = [seconds(lambda s=stats, p=spec: p.qparams(s)) * 1e3 for stats in every]
        print(f"range        {policy.label:24s} {max(times):7.2f} ms at most")
    print(f"stability    all layers {seconds(lab.stability):18.2f} s")


def main(rounds: int) -> None:
    torch.set_num_threads(2)
    print(f"torch {torch.__version__}, {platform.machine()}, 2 threads, medians of {rounds}")
    lab = calibrations(ResNet, rounds)
    calibrations(MobileNetV2, rounds)
    what_ifs(lab)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
