"""int8 on a CUDA device beside the float types that it competes with.

Run on a machine with a CUDA device that nothing else uses: python -m benchmarks.cuda
It writes its table between the markers of benchmarks/RESULTS.md; without a device the table says
"not measured", or stays where it holds numbers. ``--try`` goes through the same rows on the CPU,
with tiny shapes, and writes nothing: it only shows that the script runs. ROUNDS (50) is read from
the environment.

Candidates run in turn, each several times in a row between two CUDA events; what is told is the
median of the rounds per call. Ratios are times of the competitor over ours: above 1, ours wins.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import qlab
from benchmarks import results
from qlab import ops
from qlab.dtypes import qint8, quint8
from qlab.granularity import PerAxis
from qlab.qparams import QParams
from sample_models.untrained import ResNet, build_untrained

ROUNDS = int(os.environ.get("ROUNDS", "50"))
IN_A_ROW, WARM_UP = 10, 3
#: Of calibration, each with a Lab of its own, which is made before.
LABS = 10
HEADS = ("what", "kernel", "qlab", "against", "its time", "ratio", "to reach")
#: ResNet-50's convolutions: input and output channels, kernel, stride, size of the input's side.
CONVOLUTIONS = (
    (3, 64, 7, 2, 224), (64, 64, 1, 1, 56), (64, 64, 3, 1, 56), (64, 256, 1, 1, 56),
    (256, 512, 1, 2, 56), (128, 128, 3, 1, 28), (256, 256, 3, 1, 14), (1024, 256, 1, 1, 14),
    (512, 512, 3, 1, 7), (512, 2048, 1, 1, 7),
)  # fmt: skip

Run = Callable[[], object]


@dataclass(frozen=True)
class Bench:
    """Where it is measured, and how large shapes are.

    Attributes:
        device: CUDA, or the CPU to try the script.
        part: What lengths are divided by.
    """

    device: torch.device
    part: int = 1

    def seconds(self, run: Run, calls: int) -> float:
        """Of one call, of several in a row."""
        if self.device.type == "cpu":
            began = time.perf_counter()
            for _ in range(calls):
                run()
            return (time.perf_counter() - began) / calls
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(calls):
            run()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1000 / calls

    def medians(
        self, candidates: dict[str, Run], calls: int = IN_A_ROW, rounds: int = ROUNDS
    ) -> dict[str, float]:
        """Seconds of one call by candidate."""
        times: dict[str, list[float]] = {name: [] for name in candidates}
        for run in candidates.values():
            for _ in range(WARM_UP):  # compiles, and fills caches
                run()
        for _ in range(rounds if self.device.type == "cuda" else 1):
            for name, run in candidates.items():
                times[name].append(self.seconds(run, calls))
        return {name: statistics.median(found) for name, found in times.items()}

    def normal(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(shape, device=self.device).to(dtype)

    def qparams(self, scale: float, zero_point: int, signed: bool = False) -> QParams:
        return QParams.per_tensor(scale, zero_point, qint8 if signed else quint8, self.device)

    def weight(self, *shape: int) -> tuple[Tensor, QParams]:
        """Codes of a weight with a scale per output."""
        scale = torch.rand(shape[0], device=self.device) * 0.001 + 0.001
        zeros = torch.zeros(shape[0], dtype=torch.int32, device=self.device)
        codes = torch.randint(-127, 128, shape, dtype=torch.int8, device=self.device)
        return codes, QParams(scale, zeros, qint8, PerAxis(0))


def row(what: str, kernel: str, ours: float, other: tuple[str, float], target: str) -> list[str]:
    """One line of the table, also printed."""
    times = f"{ours * 1e3:.3f} ms", other[0], f"{other[1] * 1e3:.3f} ms"
    found = [what, kernel, *times, f"{other[1] / ours:.2f}", target]
    print(" | ".join(found), flush=True)
    return found


def kernels(bench: Bench, names: tuple[str, ...]) -> tuple[str, ...]:
    return names if bench.device.type == "cuda" else ("reference",)


def forced(kernel: str, run: Run) -> Run:
    """A run by a kernel, wherever it is an operator's."""

    def force() -> object:
        with ops.use(kernel):
            return run()

    return force


def linear(bench: Bench) -> Iterator[list[str]]:
    """bfloat16 in, quantized, multiplied, requantized; against a bfloat16 product."""
    size = 4096 // bench.part
    x, floats = (bench.normal(size, size, dtype=torch.bfloat16) for _ in range(2))
    (weight, w_qparams), bias = bench.weight(size, size), bench.normal(size)
    x_qparams, y_qparams = bench.qparams(0.03, 128), bench.qparams(0.5, 128)
    packed = ops.PackedWeight()

    def ours() -> Tensor:
        codes = ops.quantize(x, x_qparams)
        return ops.linear(codes, x_qparams, weight, w_qparams, bias, y_qparams, packed=packed)

    for kernel in kernels(bench, ("triton", "int_mm")):
        found = bench.medians({"ours": forced(kernel, ours), "bf16": lambda: F.linear(x, floats)})
        other = "bfloat16 matmul", found["bf16"]
        yield row(f"linear {size}³ with quantize", kernel, found["ours"], other, "≥ 1.5")


def convolutions(bench: Bench) -> Iterator[list[str]]:
    """Shapes of ResNet-50 at batch 64; against float16 with the channels last."""
    batch, totals = max(1, 64 // bench.part), [0.0, 0.0]
    kernel = kernels(bench, ("triton",))[0]
    for inputs, outputs, window, stride, side in CONVOLUTIONS:
        side, last = max(7, side // bench.part), torch.channels_last
        shape = (batch, inputs, side, side)
        codes = torch.randint(0, 256, shape, dtype=torch.uint8, device=bench.device)
        codes = codes.contiguous(memory_format=last)
        weight, w_qparams = bench.weight(outputs, inputs, window, window)
        qparams, bias = bench.qparams(0.05, 100), bench.normal(outputs)
        half = torch.float16 if bench.device.type == "cuda" else torch.float32
        x, floats = codes.to(half), weight.to(half).contiguous(memory_format=last)
        geometry = {"stride": stride, "padding": window // 2}
        arguments = (codes, qparams, weight, w_qparams, bias, qparams)
        ours = partial(ops.conv2d, *arguments, **geometry, packed=ops.PackedWeight())
        theirs = partial(F.conv2d, x, floats, **geometry)
        found = bench.medians({"ours": forced(kernel, ours), "float16": theirs})
        totals = [totals[0] + found["ours"], totals[1] + found["float16"]]
        what = f"conv {inputs}→{outputs}, {window}×{window}/{stride}, {side}², batch {batch}"
        yield row(what, kernel, found["ours"], ("float16", found["float16"]), "")
    yield row("those convolutions together", kernel, totals[0], ("float16", totals[1]), "≥ 1.0")


def layer_norm(bench: Bench) -> Iterator[list[str]]:
    """int8 in and out; against bfloat16."""
    rows, features = 16384 // bench.part, 4096 // bench.part
    codes = torch.randint(-128, 128, (rows, features), dtype=torch.int8, device=bench.device)
    qparams, x = bench.qparams(0.03, 3, signed=True), bench.normal(rows, features)
    weight, bias = bench.normal(features), bench.normal(features)
    halves = [value.to(torch.bfloat16) for value in (x, weight, bias)]
    kernel = kernels(bench, ("triton",))[0]
    arguments = (codes, qparams, (features,), weight, bias, 1e-5, qparams)
    candidates: dict[str, Run] = {
        "ours": forced(kernel, partial(ops.layer_norm, *arguments)),
        "bf16": partial(F.layer_norm, halves[0], (features,), *halves[1:], 1e-5),
    }
    found = bench.medians(candidates)
    what = f"LayerNorm {rows}×{features}, int8 in and out"
    yield row(what, kernel, found["ours"], ("bfloat16", found["bf16"]), "≥ 1.2")


def calibration(bench: Bench) -> Iterator[list[str]]:
    """Collecting every tensor's histogram; against one float pass over the same images."""
    model: nn.Module = build_untrained(ResNet).eval().requires_grad_(False).to(bench.device)
    shape = (max(1, 64 // bench.part), 3, max(32, 224 // bench.part), max(32, 224 // bench.part))
    data = [bench.normal(*shape) for _ in range(max(1, 8 // bench.part))]

    @torch.no_grad()
    def bare() -> None:
        for batch in data:
            model(batch)

    labs = [qlab.Lab(model, data[0][:1], data) for _ in range(LABS + WARM_UP)]
    candidates: dict[str, Run] = {"ours": lambda: labs.pop().calibrate(), "float": bare}
    found = bench.medians(candidates, calls=1, rounds=LABS)
    what = f"calibrate ResNet-18, {len(data)} × {shape[0]} images, histograms"
    yield row(what, "", found["ours"], ("float32 pass", found["float"]), "≥ 0.83")


def not_measured() -> list[list[str]]:
    """The rows with their goals, and no numbers."""
    goals = (
        ("linear 4096³ with quantize", "triton, int_mm", "bfloat16 matmul", "≥ 1.5"),
        ("ResNet-50's convolutions, batch 64", "triton", "float16, channels last", "≥ 1.0"),
        ("LayerNorm 16384×4096, int8 in and out", "triton", "bfloat16", "≥ 1.2"),
        ("calibrate ResNet-18, 8 × 64 images, histograms", "", "float32 pass", "≥ 0.83"),
    )
    no = "not measured"
    return [[what, kernel, no, against, no, no, goal] for what, kernel, against, goal in goals]


def chip() -> str:
    """What ran it."""
    name, capability = torch.cuda.get_device_name(), torch.cuda.get_device_capability()
    return (
        f"{name} (compute capability {'.'.join(map(str, capability))}), CUDA {torch.version.cuda}"
    )


def main() -> None:
    trying, there = "--try" in sys.argv, torch.cuda.is_available()
    rows = not_measured()
    if trying or there:
        bench = Bench(torch.device("cpu"), 32) if trying else Bench(torch.device("cuda"))
        parts = (linear, convolutions, layer_norm, calibration)
        with torch.no_grad():
            rows = [found for part in parts for found in part(bench)]
    if trying:
        return
    if not there and any("ms" in row["qlab"] for row in results.read("cuda")):
        print("No CUDA device: what was measured on one stays.")
        return
    told = f"{chip()}; {results.machine()}." if there else (
        "No number was measured: no CUDA device was at hand. The kernels give the reference's "
        "integers in Triton's interpreter, and compile for compute capabilities 8.0 and 9.0; how "
        "fast they are is not known."
    )  # fmt: skip
    results.write(
        "cuda",
        [
            "## int8 on CUDA", "",
            "Ratios are the competitor's time over qlab's: above 1, qlab wins. "
            "`python -m benchmarks.cuda`, on a machine with a CUDA device.", "",
            told, "", *results.table(HEADS, rows),
        ],
    )  # fmt: skip


if __name__ == "__main__":
    main()
