"""What repairs win back on the sample models, and what they cost; peers in the same run.

Run: python -m benchmarks.repairs [--only PART …]
Each part writes its table between its own markers of benchmarks/RESULTS.md; the others stay.
`repairs-goals` reads the others' tables, and comes last. `repairs-nncf` and `repairs-aimet` need
those peers: PEERS names folders (with colons between) of packages that qlab does not depend on, put
behind all others on the path; THREADS how many threads work.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import site
import sys
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

import qlab
from benchmarks import (
    repair_goals,
    repair_images,
    repair_peers,
    repairs_beside,
    repairs_rules,
    repairs_search,
    repairs_transformer,
    results,
)
from benchmarks.repair_subjects import CONVOLUTIONAL, FOUR_BITS, ONE_SCALE, lab_of
from qlab.algorithms import Repaired


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


@cache
def rounded(name: str) -> tuple[qlab.Lab, Repaired, float]:
    """A sample with 4-bit weights per channel and 8-bit activations, and AdaRound of it."""
    _, lab = lab_of(name)
    estimate = lab.repair_seconds("adaround", FOUR_BITS)
    return lab, lab.repair_with("adaround", FOUR_BITS), estimate


def four_bits() -> list[list[str]]:
    """Every convolutional sample, on its 500 test images."""
    found = {name: rounded(name) for name in CONVOLUTIONAL}
    return [row(name, "AdaRound", repaired, est) for name, (_, repaired, est) in found.items()]


def four_bits_drawn() -> list[list[str]]:
    """The same networks on 10,000 images."""
    rows = []
    for name in CONVOLUTIONAL:
        lab, repaired, _ = rounded(name)
        nearest = lab.convert(FOUR_BITS)
        learned = lab.apply(repaired).convert(repaired.mapping)
        shares = [repair_images.share(repair_images.right([n])) for n in (lab.graph, nearest)]
        gained = repair_images.right([learned]) - repair_images.right([nearest])
        shares += [repair_images.share(repair_images.right([learned])), repair_images.share(gained)]
        wanted = repair_images.logits(lab.graph)
        told = [_told(wanted, repair_images.logits(n)) for n in (lab.graph, nearest, learned)]
        agreed = f"{told[1][1]:.2f} → {told[2][1]:.2f} %"
        losses = " → ".join(f"{loss:.3f}" for loss, _ in told[1:])
        rows.append([name, *(f"{s} %" for s in shares[:3]), f"{shares[3].mean:+.2f} ± "])
        rows[-1][-1] += f"{shares[3].half:.2f} points"
        rows[-1] += [agreed, f"{told[0][0]:.3f}", losses]
    return rows


def _told(wanted: Tensor, found: Tensor) -> tuple[float, float]:
    """Cross-entropy with the labels, and how often the class is the float network's [%]."""
    loss = float(F.cross_entropy(found, repair_images.drawn().labels))
    return loss, 100 * float((found.argmax(-1) == wanted.argmax(-1)).double().mean())


HEADS = ["model", "repair", "accuracy before", "SQNR before", "accuracy after", "SQNR after"]
HEADS += ["time (estimated)", "memory", "images seen"]


def first_lines() -> list[str]:
    lines = ["One 8-bit scale per weight tensor, 8-bit activations (float: 98.0 %):", ""]
    return [*lines, *results.table(HEADS, one_scale())]


def four_bit_lines() -> list[str]:
    lines = ["4-bit weights per channel, 8-bit activations; before is rounding to nearest with"]
    lines += ["the ranges of least squared error, on the 500 test images:", ""]
    return [*lines, *results.table(HEADS, four_bits())]


def drawn_lines() -> list[str]:
    heads = ["model", "float", "to nearest", "AdaRound", "AdaRound - nearest"]
    heads += ["class as in float", "cross-entropy, float", "nearest → AdaRound"]
    about = "The networks of the table before this one on " + repair_images.ABOUT
    return [about, "", *results.table(heads, four_bits_drawn())]


def aimet_lines() -> list[str]:
    repair_peers.first_imports()
    about = f"{repair_peers.ABOUT_AIMET} The others are {repair_images.ABOUT}"
    return [about, "", *repairs_beside.aimet_lines()]


def nncf_lines() -> list[str]:
    repair_peers.first_imports()
    about = f"{repair_peers.ABOUT_NNCF} The others are {repair_images.ABOUT}"
    return [about, "", *repairs_beside.nncf_lines()]


def outlier_lines() -> list[str]:
    return [repairs_transformer.ABOUT, "", *repairs_transformer.outliers()]


def linear_lines() -> list[str]:
    return [repairs_transformer.ABOUT_LINEAR, "", *repairs_transformer.linear_layers()]


def finetune_lines() -> list[str]:
    return [repairs_search.ABOUT_FINETUNE, "", *repairs_search.finetuned(CONVOLUTIONAL)]


def search_lines() -> list[str]:
    return [repairs_search.ABOUT_SEARCH, "", *repairs_search.found(CONVOLUTIONAL)]


def rule_lines() -> list[str]:
    return [repairs_rules.ABOUT, "", *repairs_rules.lines()]


def goal_lines() -> list[str]:
    return [repair_goals.ABOUT, "", *repair_goals.lines()]


#: By the name of its markers: a part's title and what measures it.
PARTS: dict[str, tuple[str, Callable[[], list[str]]]] = {
    "repairs": ("what they win back, and what they cost", first_lines),
    "repairs-4-bits": ("AdaRound at 4 bits", four_bit_lines),
    "repairs-4-bits-drawn": ("AdaRound at 4 bits on 10,000 images", drawn_lines),
    "repairs-nncf": ("bias correction beside NNCF", nncf_lines),
    "repairs-aimet": ("equalization and AdaRound beside AIMET", aimet_lines),
    "repairs-outliers": ("outliers behind the norms of a transformer", outlier_lines),
    "repairs-linear": ("GPTQ and AWQ on every linear layer", linear_lines),
    "repairs-training": ("training at 4 bits", finetune_lines),
    "repairs-autopilot": ("what the autopilot finds", search_lines),
    "repairs-rules": ("the same function, the same result, no trace", rule_lines),
    "repairs-goals": ("what was to be reached", goal_lines),
}


#: The peer that a part cannot do without: what is imported, what is installed.
NEEDS = {
    "repairs-nncf": ("nncf", "nncf==3.4.0"),
    "repairs-aimet": ("aimet_torch", "aimet-torch==2.42.0"),
}


def heading(name: str, seconds: float, load: float) -> list[str]:
    """Title, machine, the command and how long it took, and whether others worked meanwhile."""
    command = f"`python -m benchmarks.repairs --only {name}` ({seconds:.0f} s)."
    if name in NEEDS:
        command = f"`PEERS=FOLDER THREADS={torch.get_num_threads()} {command[1:]}"
        command += f" FOLDER is the `site-packages` of an environment with `{NEEDS[name][1]}`."
    if name == "repairs-goals":
        return [f"## Repairs: {PARTS[name][0]}", "", command, ""]
    quiet = f"The machine was quiet when it began (load {load:.1f})."
    busy = (
        f"**Measured under load ({load:.1f} when it began): times are longer than on a quiet"
        " machine**; what is not a time is the same."
    )
    said = busy if load > BUSY else quiet
    return [f"## Repairs: {PARTS[name][0]}", "", results.machine(), "", f"{command} {said}", ""]


BUSY = 1.0


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures repairs.")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    chosen = parser.parse_args().only
    for folder in filter(None, os.environ.get("PEERS", "").split(":")):
        site.addsitedir(folder)
    for name, (module, package) in NEEDS.items():
        if name in chosen and importlib.util.find_spec(module) is None:
            parser.error(
                f"{name} needs {package}, which is not installed. Name the site-packages of an "
                "environment that has it in PEERS, or leave this part out with --only."
            )
    torch.set_num_threads(int(os.environ.get("THREADS", "2")))
    load = os.getloadavg()[0]  # later it holds this process itself
    for name in chosen:
        began = time.monotonic()
        lines = PARTS[name][1]()
        lines = [*heading(name, time.monotonic() - began, load), *lines]
        results.write(name, lines)
        print("\n".join(lines), file=sys.stderr)


if __name__ == "__main__":
    main()
