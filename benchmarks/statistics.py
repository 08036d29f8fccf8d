"""What statistics and ranges cost, beside what torch itself needs for the same tensor.

Run: python benchmarks/statistics.py [elements]
"""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

from qlab.dtypes import integer
from qlab.granularity import PerAxis
from qlab.ranges import (
    MSE,
    Entropy,
    MinMax,
    MovingAverage,
    Percentile,
    TensorSpec,
    expected_error,
)
from qlab.stats import TensorStats

SECONDS = 0.5


def fastest(function: Callable[[], object]) -> float:
    """Least seconds of one call, over half a second of calls."""
    function()
    best, end = float("inf"), time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        start = time.perf_counter()
        function()
        best = min(best, time.perf_counter() - start)
    return best


def updates(name: str, x: Tensor) -> None:
    """Nanoseconds per element of one update, and its ratio to torch's own reductions."""
    rows: dict[str, Callable[[], object]] = {
        "x.min(), x.max()": lambda: (x.min(), x.max()),
        "torch.histc, 2048 bins": lambda: torch.histc(x, 2048),
        "update, no histogram": lambda: TensorStats(histogram=False).update(x),
        "update": lambda: TensorStats().update(x),
        "update, channel extrema": lambda: TensorStats(channel_axis=0).update(x),
    }
    seconds = {row: fastest(function) for row, function in rows.items()}
    extrema, histc = list(seconds.values())[:2]
    for row, value in seconds.items():
        print(
            f"{name:10s} {row:24s} {value / x.numel() * 1e9:8.2f} ns/element"
            f" {value / extrema:8.1f} x min+max {value / histc:6.2f} x histc"
        )


def decisions(name: str, x: Tensor) -> None:
    """Milliseconds of everything that is computed from statistics alone."""
    stats = TensorStats.of(x)
    bins = stats.histogram().keys.numel()
    for policy in (MinMax(), MovingAverage(), Percentile(), MSE(), Entropy()):
        for bits, symmetric in ((8, False), (4, True)):
            spec = TensorSpec(integer(bits, signed=symmetric), symmetric, policy=policy)
            seconds = fastest(lambda spec=spec: spec.qparams(stats))
            print(f"{name:10s} {spec.describe():48s} {seconds * 1e3:8.2f} ms ({bins} bins)")
    qparams = TensorSpec().qparams(stats)
    for row, function in {
        "expected_error": lambda: expected_error(stats, qparams),
        "display_histogram": stats.display_histogram,
        "mean, variance": lambda: (stats.mean, stats.variance),
        "merge": lambda: stats.merge(stats),
    }.items():
        print(f"{name:10s} {row:48s} {fastest(function) * 1e3:8.2f} ms ({bins} bins)")


def weights(shape: tuple[int, int]) -> None:
    """Milliseconds of choosing one scale per row of a weight."""
    x = torch.randn(shape)
    for policy in (MinMax(), Percentile(), MSE(), Entropy()):
        for symmetric in (True, False):
            spec = TensorSpec(integer(8, signed=True), symmetric, PerAxis(0), policy)
            seconds = fastest(lambda spec=spec: spec.qparams_of(x))
            print(f"{shape!s:10s} {spec.describe():48s} {seconds * 1e3:8.2f} ms")


def main(elements: int) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, {platform.machine()}, one thread, {elements} elements")
    tensors = {
        "normal": torch.randn(elements),
        "relu": torch.randn(elements).relu(),
        "grey": torch.randint(0, 17, (elements,)) / 16,
    }
    for name, x in tensors.items():
        updates(name, x.reshape(8, -1))
    for name, x in tensors.items():
        decisions(name, x)
    for shape in ((64, 9), (64, 576), (512, 4608)):
        weights(shape)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2**22)
