"""How long a network takes on this machine, float and quantized, measured side by side."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from qlab.analysis.calibration import Progress, Stop
from qlab.errors import ArgumentError, QlabError

WARM_UP = 3
FEWEST = 4  # for quartiles


@dataclass(frozen=True)
class Spread:
    """Times of repeated runs [ms].

    Attributes:
        median: Half of the runs took longer.
        low: First quartile.
        high: Third quartile.
        runs: How many runs.
    """

    median: float
    low: float
    high: float
    runs: int

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Spread:
        """Median and quartiles of at least two times in seconds."""
        low, median, high = statistics.quantiles(seconds, n=4, method="inclusive")
        return cls(1e3 * median, 1e3 * low, 1e3 * high, len(seconds))


@dataclass(frozen=True)
class Latency:
    """One measurement of the float and the quantized network.

    It holds for this machine, this batch and this number of threads, and for nothing else.

    Attributes:
        floating: Times of the fused float network.
        quantized: Times of the quantized network.
        ratio: Median of float time over quantized time, pair by pair of neighbouring runs: above
            1 where the quantized network was the faster of the two.
        batch: How many samples one run took.
        shape: Shape of the first tensor input, the batch included.
        threads: How many CPU threads torch used within an operator.
        device: Where it ran.
        complete: False where it was stopped early.
    """

    floating: Spread
    quantized: Spread
    ratio: float
    batch: int
    shape: tuple[int, ...]
    threads: int
    device: str
    complete: bool = True

    def describe(self) -> str:
        """What was measured, in words."""
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        return (
            f"{self.quantized.runs} runs of each network in turn, batch {self.batch}, "
            f"input {' × '.join(map(str, self.shape))}, {threads}, {self.device}"
        )


def measure_latency(
    models: tuple[Callable[..., Any], Callable[..., Any]],
    inputs: tuple[Any, ...],
    repeats: int,
    *,
    on_progress: Progress | None = None,
    should_stop: Stop | None = None,
) -> Latency:
    """Times two models on the same inputs, in turn, after a warm-up.

    Running them in turn lets whatever else the machine does meet both alike.

    Args:
        models: The float and the quantized model.
        inputs: Positional inputs of one call, at least one of them a tensor.
        repeats: How often each runs, at least 4.
        on_progress: Called as ``(runs done, runs in all, label)``.
        should_stop: Asked after each pair of runs; what was measured until then is given, and at
            least 4 runs are.

    Raises:
        ArgumentError: Fewer than 4 repeats, or inputs that the float model does not take.
    """
    if not isinstance(repeats, int) or repeats < FEWEST:
        raise ArgumentError(
            "Lab.latency: quartiles need some runs", expected="repeats >= 4", received=repeats
        )
    first = next(x for x in inputs if isinstance(x, Tensor))
    times: tuple[list[float], list[float]] = ([], [])
    with torch.no_grad():
        _first(models[0], inputs)
        models[1](*inputs)
        for _ in range(WARM_UP - 1):
            for model in models:
                model(*inputs)
        for done in range(1, repeats + 1):
            for model, seconds in zip(models, times, strict=True):
                seconds.append(_seconds(model, inputs, first.device))
            if on_progress is not None:
                on_progress(done, repeats, "timing")
            if should_stop is not None and done >= FEWEST and should_stop():
                break
    pairs = zip(*times, strict=True)
    return Latency(
        floating=Spread.of(times[0]),
        quantized=Spread.of(times[1]),
        ratio=statistics.median(before / after for before, after in pairs),
        batch=first.shape[0] if first.ndim else 1,
        shape=tuple(first.shape),
        threads=torch.get_num_threads(),
        device=str(first.device),
        complete=len(times[0]) >= repeats,
    )


def _first(model: Callable[..., Any], inputs: tuple[Any, ...]) -> None:
    """Runs a model on inputs that it may not take."""
    try:
        model(*inputs)
    except (QlabError, torch.OutOfMemoryError):
        raise
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        shapes = (str(tuple(x.shape)) if isinstance(x, Tensor) else repr(x) for x in inputs)
        raise ArgumentError(
            "Lab.latency: the model does not take this batch",
            expected="inputs as those of the calibration data",
            received=f"{', '.join(shapes)}: {str(error).splitlines()[0]}",
        ) from error


def _seconds(model: Callable[..., Any], inputs: tuple[Any, ...], device: torch.device) -> float:
    _wait(device)
    start = time.perf_counter()
    model(*inputs)
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    """Waits for a device that works asynchronously."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
