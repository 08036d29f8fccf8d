"""What training at 4 bits and the autopilot win back on the sample models; see `repairs`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

import qlab
import sample_models
from benchmarks import results
from qlab.dtypes import integer
from qlab.granularity import PerAxis
from qlab.qconfig import QConfigMapping, qconfig_of
from qlab.ranges import MSE, TensorSpec
from sample_models.digits import load_digits

SEEDS, BATCH, WITHIN = (0, 1, 2), 32, 2.0
TARGETS = (("int8-per-tensor", 0.5), ("int4-weights", 0.5), ("w4a4", 1.0))

ABOUT_FINETUNE = (
    "`lab.finetune` with its defaults: 500 steps of 32 of the 1,297 training images, as they are."
    " 4-bit weights per channel; activations at 8 and at 4 bits. Accuracy on 500 test images, of"
    " which one is 0.2 %: mean over three seeds, and the worst of them, which is to be within 2"
    " points of float."
)
ABOUT_SEARCH = (
    "`lab.repair` with no limit of time, and with training images, so that it may train where all"
    " else does not do; wanted is the float network's accuracy but for so many points. The remedies"
    " are chosen by what they do on the 500 test images, on which accuracy is measured, too."
)


def bits(weight: int, activation: int) -> QConfigMapping:
    """Weights per channel, activations per tensor, ranges of least squared error."""
    weights = TensorSpec(integer(weight, signed=True), True, PerAxis(0), MSE())
    activations = TensorSpec(integer(activation, signed=False), policy=MSE())
    return QConfigMapping().set_global(qconfig_of(activations, weights))


def _lab(name: str) -> qlab.Lab:
    sample = sample_models.load(name)
    lab = qlab.Lab(sample.model, sample.example_inputs, sample.calibration(), sample.evaluation())
    lab.calibrate()
    return lab


def _loader() -> list[tuple[Tensor, Tensor]]:
    data = load_digits("train")
    return list(zip(data.images.split(BATCH), data.labels.split(BATCH), strict=True))


def finetuned(names: Sequence[str]) -> list[str]:
    """Each sample at 4-bit weights, with 8-bit and 4-bit activations."""
    loader, rows = _loader(), []
    for name in names:
        lab = _lab(name)
        for activation in (8, 4):
            mapping = bits(4, activation)
            reports = [lab.finetune(mapping, loader, seed=seed).report for seed in SEEDS]
            rows.append([name, f"W4A{activation}", *_trained(reports)])
    heads = ["model", "bits", "float", "accuracy before", "accuracy after", "worst", "SQNR before"]
    heads += ["SQNR after", "within 2 points", "time"]
    return results.table(heads, rows)


def _trained(reports: Sequence[Any]) -> list[str]:
    before = reports[0].before
    accuracies = [report.after["accuracy"] for report in reports]
    sqnr = sum(report.after["sqnr"] for report in reports) / len(reports)
    real, mean, worst = before["float_accuracy"], sum(accuracies) / len(reports), min(accuracies)
    numbers = [f"{n:.1f} %" for n in (real, before["accuracy"], mean, worst)]
    numbers += [f"{before['sqnr']:.1f} dB", f"{sqnr:.1f} dB"]
    seconds = min(report.seconds for report in reports)
    return [*numbers, "yes" if worst >= real - WITHIN - 1e-6 else "no", f"{seconds:.1f} s"]


def found(names: Sequence[str]) -> list[str]:
    """What the autopilot reaches, and by which remedies."""
    rows = []
    for name in names:
        lab = _lab(name)
        for preset, points in TARGETS:
            mapping = bits(4, 4) if preset == "w4a4" else preset
            before = lab.compare(mapping).output
            wanted = before["float_accuracy"] - points
            result = lab.repair(mapping, wanted, train_on=_loader())
            numbers = [f"{wanted:.1f} %"]
            for when in (result.before, result.after):
                numbers += [f"{when['accuracy']:.1f} %", f"{when['sqnr']:.1f} dB"]
            kept = " → ".join(step.title for step in result.steps) or "none needed"
            tried = f"{len(result.attempts)}"
            reached = "yes" if result.reached else "no"
            rows.append([name, preset, *numbers, reached, kept, tried, f"{result.seconds:.1f} s"])
    heads = ["model", "configuration", "target", "accuracy before", "SQNR before"]
    heads += ["accuracy after", "SQNR after", "reached", "remedies kept", "tried", "time"]
    return results.table(heads, rows)
