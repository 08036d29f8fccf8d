"""What repairs win back on the sample models, and what they cost; peers in the same run.

Run: python -m benchmarks.repairs [--only PART …]
Each part writes its table between its own markers of benchmarks/RESULTS.md; the others stay. Peers
are measured where they are installed: PEERS names folders (with colons between) of packages that
qlab does not depend on, put behind all others on the path.
"""

from __future__ import annotations

import argparse
import math
import os
import site
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import qlab
import sample_models
from benchmarks import repair_goals, repair_peers, repairs_search, repairs_transformer, results
from qlab.algorithms import Repaired
from qlab.dtypes import integer
from qlab.granularity import PerAxis
from qlab.qconfig import QConfigMapping, qconfig_of
from qlab.ranges import MSE, TensorSpec

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


def numbers(accuracy: float, sqnr: float) -> list[str]:
    return [f"{accuracy:.1f} %", f"{sqnr:.1f} dB"]


def row(name: str, what: str, repaired: Repaired, estimate: float) -> list[str]:
    report = repaired.report
    before = numbers(report.before["accuracy"], report.before["sqnr"])
    after = numbers(report.after["accuracy"], report.after["sqnr"])
    cost = [f"{report.seconds:.1f} s ({estimate:.1f})", f"{report.peak_bytes / 2**20:.0f} MiB"]
    return [name, what, *before, *after, *cost, str(report.samples)]


def one_scale() -> list[list[str]]:
    """The depthwise network with one scale per weight tensor: 98.0 % in float."""
    _, lab = lab_of("depthwise")
    rows = []

    def run(subject: qlab.Lab, name: str, what: str, **settings: Any) -> qlab.Lab:
        estimate = subject.repair_seconds(name, ONE_SCALE, **settings)
        repaired = subject.repair_with(name, ONE_SCALE, **settings)
        rows.append(row("depthwise", what, repaired, estimate))
        return subject.apply(repaired)

    run(lab, "bias_correction", "bias correction, analytic", how="analytic")
    run(lab, "bias_correction", "bias correction, empirical")
    even = run(lab, "equalize", "equalization, ReLU6 kept")
    run(even, "bias_correction", "… and bias correction, analytic", how="analytic")
    run(even, "bias_correction", "… and bias correction, empirical")
    run(lab, "equalize", "equalization, ReLU6 replaced as in the paper", relu6="replace")
    return rows


def four_bits() -> list[list[str]]:
    """Every convolutional sample with 4-bit weights per channel and 8-bit activations."""
    rows = []
    for name in CONVOLUTIONAL:
        _, lab = lab_of(name)
        estimate = lab.repair_seconds("adaround", FOUR_BITS)
        repaired = lab.repair_with("adaround", FOUR_BITS)
        rows.append(row(name, "AdaRound", repaired, estimate))
    return rows


def weights_alone(bits: int) -> QConfigMapping:
    spec = TensorSpec(integer(bits, signed=True), True, PerAxis(0), MSE())
    return QConfigMapping().set_global(qconfig_of(None, spec))


class Whole(nn.Module):
    """A network that peers may hang modules of their own on."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)


def beside_peers() -> list[list[str]]:
    """The same network, batch norm folded, the same images, the same process."""
    sample, lab = lab_of("depthwise")
    images = torch.cat(sample.calibration())
    rows = []
    if repair_peers.has_nncf():
        for correct in (False, True):
            began = time.perf_counter()
            model = repair_peers.nncf_one_scale(Whole(lab.graph), images, correct)
            seconds = time.perf_counter() - began
            what = "bias correction" if correct else "no repair"
            rows.append(["NNCF", "depthwise, one scale", what, *numbers(*quality(model, lab))])
            rows[-1].append(f"{seconds:.1f} s" + ("" if correct else ", with first imports"))
    repaired = lab.repair_with("bias_correction", ONE_SCALE)
    for what, measured in (
        ("no repair", repaired.report.before),
        ("bias correction", repaired.report.after),
    ):
        found = numbers(measured["accuracy"], measured["sqnr"])
        seconds = f"{repaired.report.seconds:.2f} s" if what != "no repair" else ""
        rows.append(["qlab", "depthwise, one scale", what, *found, seconds])
    for name in ("conv_bn_relu", "residual", "depthwise"):
        rows += rounded_beside_peers(name)
    return rows


def rounded_beside_peers(name: str) -> list[list[str]]:
    """AdaRound at 4 bits per channel, activations in float, the same number of steps."""
    sample, lab = lab_of(name)
    images, where, rows = torch.cat(sample.calibration()), f"{name}, 4-bit weights", []
    mapping = weights_alone(4)
    if repair_peers.has_aimet():
        found, times = [], []
        for seed in SEEDS:
            model = sample_models.load(name).model
            began = time.perf_counter()
            rounded = repair_peers.aimet_adaround(model, images, 1000, seed)
            times.append(time.perf_counter() - began)
            found.append(quality(rounded, lab))
        rows.append(["AIMET", where, "AdaRound", *spread(found), f"{min(times):.1f} s"])
    found, times, before = [], [], {}
    for seed in SEEDS:
        report = lab.repair_with("adaround", mapping, steps=1000, seed=seed).report
        found.append((report.after["accuracy"], report.after["sqnr"]))
        times.append(report.seconds)
        before = report.before
    rows.append(["qlab", where, "to nearest", *numbers(before["accuracy"], before["sqnr"]), ""])
    rows.append(["qlab", where, "AdaRound", *spread(found), f"{min(times):.1f} s"])
    return rows


def more_images() -> list[list[str]]:
    """AdaRound of both on the depthwise network, on more images than the 500 of the test."""
    sample, lab = lab_of("depthwise")
    images, mapping = torch.cat(sample.calibration()), weights_alone(4)
    made: dict[str, list[Callable[[Tensor], Tensor]]] = {"float": [lab.graph], "qlab": []}
    for seed in SEEDS:
        repaired = lab.repair_with("adaround", mapping, steps=1000, seed=seed)
        made["qlab"].append(lab.apply(repaired).convert(repaired.mapping))
        if repair_peers.has_aimet():
            model = sample_models.load("depthwise").model
            rounded = repair_peers.aimet_adaround(model, images, 1000, seed)
            made.setdefault("AIMET", []).append(rounded)
    rows = []
    for name, x, labels in repair_peers.image_sets(images):
        for tool, models in made.items():
            with torch.no_grad():
                right = [float((m(x).argmax(-1) == labels).double().mean()) for m in models]
            numbers = [100 * share for share in right]
            mean, low, high = sum(numbers) / len(numbers), min(numbers), max(numbers)
            said = f"{mean:.2f} %" + (f" ({low:.2f} to {high:.2f})" if len(numbers) > 1 else "")
            rows.append([name, str(len(x)), tool, said])
    return rows


def spread(found: list[tuple[float, float]]) -> list[str]:
    """Mean over the seeds, and from where to where, of accuracy and SQNR."""
    columns = zip(*found, strict=True)
    return [
        f"{sum(c) / len(c):.1f}{unit} ({min(c):.1f} to {max(c):.1f})"
        for c, unit in zip(columns, (" %", " dB"), strict=True)
    ]


def heading(title: str) -> list[str]:
    return [f"## {title}", "", results.machine(), "", results.load(), ""]


HEADS = ["model", "repair", "accuracy before", "SQNR before", "accuracy after", "SQNR after"]
HEADS += ["time (estimated)", "memory", "images seen"]


def first_lines() -> list[str]:
    lines = heading("Repairs: what they win back, and what they cost")
    lines += ["One 8-bit scale per weight tensor, 8-bit activations (float: 98.0 %):", ""]
    return [*lines, *results.table(HEADS, one_scale())]


def four_bit_lines() -> list[str]:
    lines = heading("Repairs: AdaRound at 4 bits")
    lines += ["4-bit weights per channel, 8-bit activations; before is rounding to nearest with"]
    lines += ["the ranges of least squared error:", ""]
    return [*lines, *results.table(HEADS, four_bits())]


def peer_lines() -> list[str]:
    heads = ["tool", "network", "repair", "accuracy", "SQNR", "time"]
    lines = [*heading("Repairs beside peers"), repair_peers.ABOUT, ""]
    return [*lines, *results.table(heads, beside_peers())]


def more_images_lines() -> list[str]:
    lines = [*heading("Repairs: AdaRound beside AIMET on more images"), repair_peers.ABOUT_MORE]
    return [*lines, "", *results.table(["images", "how many", "tool", "accuracy"], more_images())]


def outlier_lines() -> list[str]:
    lines = heading("Repairs: outliers behind the norms of a transformer")
    return [*lines, repairs_transformer.ABOUT, "", *repairs_transformer.outliers()]


def linear_lines() -> list[str]:
    lines = heading("Repairs: GPTQ and AWQ on every linear layer")
    return [*lines, repairs_transformer.ABOUT_LINEAR, "", *repairs_transformer.linear_layers()]


def finetune_lines() -> list[str]:
    lines = heading("Repairs: training at 4 bits")
    return [*lines, repairs_search.ABOUT_FINETUNE, "", *repairs_search.finetuned(CONVOLUTIONAL)]


def search_lines() -> list[str]:
    lines = heading("Repairs: what the autopilot finds")
    return [*lines, repairs_search.ABOUT_SEARCH, "", *repairs_search.found(CONVOLUTIONAL)]


def goal_lines() -> list[str]:
    return ["## Repairs: what was to be reached", "", repair_goals.ABOUT, "", *repair_goals.lines()]


PARTS: dict[str, Callable[[], list[str]]] = {
    "repairs": first_lines,
    "repairs-4-bits": four_bit_lines,
    "repairs-peers": peer_lines,
    "repairs-peers-images": more_images_lines,
    "repairs-outliers": outlier_lines,
    "repairs-linear": linear_lines,
    "repairs-training": finetune_lines,
    "repairs-autopilot": search_lines,
    "repairs-goals": goal_lines,
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures repairs.")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    chosen = parser.parse_args().only
    for folder in filter(None, os.environ.get("PEERS", "").split(":")):
        site.addsitedir(folder)
    torch.set_num_threads(int(os.environ.get("THREADS", "2")))
    for name in chosen:
        lines = PARTS[name]()
        results.write(name, lines)
        print("\n".join(lines), file=sys.stderr)


if __name__ == "__main__":
    main()
