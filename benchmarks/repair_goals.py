"""What repairs were to reach, beside what the tables in RESULTS.md say; see `repairs`."""

from __future__ import annotations

import re
from collections.abc import Callable

from benchmarks import results

ABOUT = "Read from the tables above and below, which say how each number was measured."
FLOAT = 98.0  # accuracy of the depthwise network in float [%]


def number(cell: str) -> float:
    """The first number of a cell."""
    found = re.search(r"-?\d+(?:\.\d+)?", cell)
    if found is None:
        raise ValueError(f"No number in {cell!r}; write that part of RESULTS.md first.")
    return float(found.group())


def one_scale() -> list[list[str]]:
    """Of the accuracy that one scale per weight costs, what comes back."""
    by_repair = {row["repair"]: row for row in results.read("repairs")}
    start = number(by_repair["equalization, ReLU6 kept"]["accuracy before"])
    both = by_repair["… and bias correction, empirical"]
    share = 100 * (number(both["accuracy after"]) - start) / (FLOAT - start)
    what = "equalization and bias correction, depthwise, one int8 scale per weight"
    return [[what, "≥ 90 % of the lost accuracy", f"{share:.0f} %", yes(share >= 90)]]


def four_bits() -> list[list[str]]:
    """AdaRound against rounding to nearest, each sample."""
    rows = []
    for row in results.read("repairs-4-bits"):
        before, after = (number(row[f"accuracy {when}"]) for when in ("before", "after"))
        won = number(row["SQNR after"]) - number(row["SQNR before"])
        said = f"{before:.1f} → {after:.1f} %, {won:+.1f} dB"
        reached = yes(won >= 3 and after > before)
        if won >= 3 and after == before:
            reached = "in SQNR; accuracy is equal"
        what = f"AdaRound, 4-bit weights, {row['model']}"
        rows.append([what, "more accurate, ≥ 3 dB", said, reached])
    return rows


def outliers() -> list[list[str]]:
    """SmoothQuant on the transformer with injected outliers."""
    rows = []
    for row in results.read("repairs-outliers"):
        if row["transformer"] == "outliers":
            what = f"SmoothQuant, W8A8, injected outliers, {row['configuration']}"
            rows.append([what, "≥ 6 dB", row["won"], yes(number(row["won"]) >= 6)])
    return rows


def linear_layers() -> list[list[str]]:
    """GPTQ and AWQ against rounding to nearest, every linear layer."""
    rows = []
    for row in results.read("repairs-linear"):
        layers = int(row["linear layers"])
        better = min(int(row["better, seen"]), int(row["better, new"]))
        what = f"{row['repair']}, {row['weights']}, {row['scales']}"
        said = f"{better} of {layers}, on new images too"
        rows.append([what, "better on every linear layer", said, yes(better == layers)])
    return rows


def training() -> list[list[str]]:
    """Training at 4 bits, the worst of three seeds."""
    rows = []
    for row in results.read("repairs-training"):
        short = number(row["float"]) - number(row["worst"])
        what = f"training, {row['bits']}, {row['model']}"
        said = f"{row['worst']} of {row['float']}"
        rows.append([what, "within 2 points of float", said, yes(short <= 2.0001)])
    return rows


def beside_aimet() -> list[list[str]]:
    """AdaRound of qlab and of AIMET, images of all kinds."""
    by_images: dict[str, dict[str, str]] = {}
    for row in results.read("repairs-peers-images"):
        by_images.setdefault(row["images"], {})[row["tool"]] = row["accuracy"]
    rows = []
    for images, found in by_images.items():
        if "AIMET" in found:
            apart = number(found["qlab"]) - number(found["AIMET"])
            what = f"AdaRound beside AIMET, depthwise, {images}"
            said = f"{apart:+.2f} points"
            rows.append([what, "within 0.5 points, or better", said, yes(apart >= -0.5)])
    return rows


def yes(reached: bool) -> str:
    return "yes" if reached else "no"


PARTS: tuple[Callable[[], list[list[str]]], ...] = (
    one_scale,
    four_bits,
    outliers,
    linear_layers,
    training,
    beside_aimet,
)


def lines() -> list[str]:
    """The table of all goals."""
    rows = [row for part in PARTS for row in part()]
    return results.table(["what", "goal", "measured", "reached"], rows)
