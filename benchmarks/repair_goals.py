"""What repairs were to reach, beside what the tables in RESULTS.md say; see `repairs`."""

from __future__ import annotations

import re
from collections.abc import Callable

from benchmarks import results

ABOUT = (
    "What the repairs were to reach, line by line, read from the tables of the other sections on"
    " repairs, which say how each number was measured. The float function where ReLU6 is kept is"
    " the same as far as calibration saw, and the repair says how far it is on other images. Not"
    " significant: the mean is as wanted, and not all of its 95 % interval."
)


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
    trained = next(row for row in results.read("repairs-training") if row["model"] == "depthwise")
    lost = number(trained["float"]) - start
    share = 100 * (number(both["accuracy after"]) - start) / lost
    what = "equalization and bias correction, depthwise, one int8 scale per weight"
    return [[what, "≥ 90 % of the lost accuracy", f"{share:.0f} %", yes(share >= 90)]]


def four_bits() -> list[list[str]]:
    """AdaRound against rounding to nearest: more right of 10,000 images, not fewer of 500."""
    drawn = {row["model"]: row for row in results.read("repairs-4-bits-drawn")}
    rows = []
    for row in results.read("repairs-4-bits"):
        before, after = (number(row[f"accuracy {when}"]) for when in ("before", "after"))
        won = number(row["SQNR after"]) - number(row["SQNR before"])
        gained = drawn[row["model"]]["AdaRound - nearest"]
        agreed = drawn[row["model"]]["class as in float"]
        said = f"{won:+.1f} dB; {gained} of 10,000 images, class as in float {agreed}; "
        said += f"{before:.1f} → {after:.1f} % of 500"
        reached = certain(gained, 0.0) if won >= 3 and after >= before else "no"
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


def beside_peers() -> list[list[str]]:
    """Every repair of a peer, beside qlab's: accuracy on the same 10,000 images, and the time."""
    rows, peer, wanted = [], "", "within 0.5 points, or better; time ratio"
    for row in [*results.read("repairs-nncf"), *results.read("repairs-aimet")]:
        if row.get("qlab / peer"):
            apart, few = row["qlab - peer, 10,000"], row["qlab - peer, 500"]
            what = f"{row['repair']} beside {peer}, {row['network']}"
            said = f"{apart} of 10,000 images, {few} of 500; time ×{row['qlab / peer']}"
            rows.append([what, wanted, said, certain(apart, -0.5)])
        elif row["tool"] == "qlab" and row["repair"] != "none":
            what = f"{row['repair']} beside a peer, {row['network']}"
            rows.append([what, wanted, "not measured", "no"])
        peer = row["tool"]
    return rows


def kept_word() -> list[list[str]]:
    """The same function in float, the same result twice, no trace, a reason for every refusal."""
    found, rows = results.read("repairs-rules"), []
    for row in found:
        if row["difference, calibration"] not in ("", "0.0e+00"):  # that changed nothing
            seen, new = row["difference, calibration"], row["difference, test images"]
            what = f"the same float function, {row['repair']}, {row['sample']}"
            said = f"{seen} relative on calibration images, {new} on others"
            rows.append([what, "1e-4 before quantization", said, yes(float(seen) <= 1e-4)])
    for column, what in (
        ("twice, same bits", "the same seed gives the same bits"),
        ("stopped, same bits", "stopped, the model is as it was"),
    ):
        count = sum(row[column] == "yes" for row in found)
        said = f"{count} of {len(found)} repairs of samples"
        rows.append([what, "every repair", said, yes(count == len(found))])
    pairs = [row["left, with reason"].split(", ") for row in found]
    left, told = (sum(int(pair[i]) for pair in pairs) for i in (0, 1))
    said = f"{told} of {left} layers left as they were"
    return [*rows, ["every refusal has a reason", "every layer", said, yes(told == left)]]


def certain(cell: str, least: float) -> str:
    """Whether "mean ± half" lies above `least`, and whether all of the interval does."""
    mean, half = (float(found) for found in re.findall(r"[+-]?\d+(?:\.\d+)?", cell)[:2])
    return "no" if mean <= least else "yes" if mean - half > least else "yes, not significant"


def yes(reached: bool) -> str:
    return "yes" if reached else "no"


PARTS: tuple[Callable[[], list[list[str]]], ...] = (
    one_scale,
    four_bits,
    outliers,
    linear_layers,
    training,
    beside_peers,
    kept_word,
)


def lines() -> list[str]:
    """The table of all goals."""
    rows = [row for part in PARTS for row in part()]
    return results.table(["what", "goal", "measured", "reached"], rows)
