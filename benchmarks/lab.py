"""What the Lab's questions cost, in units of one bare pass of the float model over the same images.

Run on an otherwise idle machine: OMP_WAIT_POLICY=passive python -m benchmarks.lab
It writes its table between the markers of benchmarks/RESULTS.md.

Each row is measured on a new Lab, between two bare passes in the same process; the unit is the
faster of the two, so that a machine that slows down in between is not held against a row. CPU
units are CPU seconds of all threads over those of a bare pass: unlike wall time they change
little where other programs run beside this one.

The compiled counting is loaded before anything is measured, and what that costs is told: a process
pays it once, after the first 67 million elements; the first one on a machine compiles besides.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import qlab
from benchmarks import results
from qlab import counting
from qlab.dtypes import quint8
from qlab.observers import HistogramObserver
from qlab.ranges import MSE, Entropy, MinMax, MovingAverage, Percentile, TensorSpec
from qlab.stats import TensorStats
from sample_models.untrained import MobileNetV2, ResNet, build_untrained

THREADS, BATCHES, BATCH = 2, 4, 8
LAYER = "layer2.0.conv2"
REPEATS = int(os.environ.get("REPEATS", "3"))


@dataclass(frozen=True)
class Seconds:
    """One measurement."""

    wall: float
    cpu: float

    def per(self, unit: Seconds) -> Seconds:
        return Seconds(self.wall / unit.wall, self.cpu / unit.cpu)


def seconds(run: Callable[[], object]) -> Seconds:
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return Seconds(time.perf_counter() - wall, time.process_time() - cpu)


def least(found: list[Seconds]) -> Seconds:
    return Seconds(min(s.wall for s in found), min(s.cpu for s in found))


class Network:
    """A model, its images, and what a bare pass over them costs at the moment."""

    def __init__(self, build: type[nn.Module]) -> None:
        self.model = build_untrained(build).eval().requires_grad_(False)
        generator = torch.Generator().manual_seed(0)
        self.data: list[Tensor] = [
            torch.randn(BATCH, 3, 224, 224, generator=generator) for _ in range(BATCHES)
        ]
        self.bare()

    @torch.no_grad()
    def bare(self) -> None:
        for batch in self.data:
            self.model(batch)

    def lab(self, calibrated: bool = True) -> qlab.Lab:
        lab = qlab.Lab(self.model, self.data[0][:1], self.data)
        if calibrated:
            lab.calibrate()
        return lab

    def units(self, make: Callable[[], Callable[[], object]]) -> Seconds:
        """What the function that ``make`` returns costs; ``make`` itself is not timed."""
        found = []
        for _ in range(REPEATS):
            run = make()
            before = seconds(self.bare)
            spent = seconds(run)
            unit = least([before, seconds(self.bare)])
            found.append(spent.per(unit))
        return least(found)


Row = tuple[str, str, str, str]


def unit_row(network: Network, name: str, target: float, make: Callable[..., object]) -> Row:
    found = network.units(make)
    row = name, f"{found.wall:.2f}", f"{found.cpu:.2f}", f"≤ {target:g} units"
    print(" | ".join(row), flush=True)
    return row


def milliseconds_row(name: str, target: float, runs: list[Callable[[], object]]) -> Row:
    """The slowest of some functions, each at its best."""
    slowest = Seconds(0.0, 0.0)
    for run in runs:
        found = least([seconds(run) for _ in range(REPEATS + 2)])
        slowest = max(slowest, found, key=lambda s: s.wall)
    wall, cpu = (f"{1e3 * value:.1f} ms" for value in (slowest.wall, slowest.cpu))
    row = name, wall, cpu, f"≤ {target:g} ms"
    print(" | ".join(row), flush=True)
    return row


def question_rows(network: Network) -> list[Row]:
    """The questions that run the network."""

    def asking(ask: Callable[[qlab.Lab], object], calibrated: bool = True) -> Callable[..., object]:
        def make() -> Callable[[], object]:
            lab = network.lab(calibrated)
            return lambda: ask(lab)

        return make

    layers = len(network.lab().plan().quantized_steps)
    weighted = [s.name for s in network.lab().plan().quantized_steps if s.weight is not None]
    int8 = qlab.presets.get("int8").mapping().global_qconfig

    def weighted_only() -> qlab.QConfigMapping:
        """int8 for the layers with weights only: the 21 of the target."""
        mapping = qlab.QConfigMapping()
        for name in weighted:
            mapping.set_module_name(name, int8)
        return mapping

    def everything(lab: qlab.Lab) -> None:
        lab.calibrate()
        lab.compare()
        lab.sensitivity(weighted_only(), ways=("on", "estimate"))
        lab.what_if(LAYER)
        lab.policies(LAYER, TensorSpec())

    count = len(weighted)
    return [
        unit_row(network, "calibrate, ResNet-18", 1.4, asking(qlab.Lab.calibrate, False)),
        unit_row(
            network, "compare: every layer, all metrics", 5, asking(lambda lab: lab.compare())
        ),
        unit_row(
            network,
            f"sensitivity, on alone, the {count} layers with weights",
            12,
            asking(lambda lab: lab.sensitivity(weighted_only(), ways=("on",))),
        ),
        unit_row(
            network,
            f"sensitivity, on alone, all {layers} layers, additions too",
            12,
            asking(lambda lab: lab.sensitivity(ways=("on",))),
        ),
        unit_row(
            network,
            f"sensitivity, off alone, all {layers} layers",
            24,
            asking(lambda lab: lab.sensitivity(ways=("off",))),
        ),
        unit_row(
            network,
            f"gradient estimate, all {layers} layers",
            4,
            asking(lambda lab: lab.sensitivity(ways=("estimate",))),
        ),
        unit_row(network, "all but off alone together, one Lab", 25, asking(everything, False)),
    ]


def heavy_tails() -> list[Callable[[], object]]:
    """Ranges of tensors whose values spread over many octaves on both sides of 0."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 200_000, generator=generator)
    spec = TensorSpec(quint8, policy=MSE())
    found = []
    for values in (x[0] / x[1], (4 * x[0]).exp().copysign(x[1]), x[0] * x[1] * x[2]):
        stats = TensorStats()
        stats.update(values)
        found.append(lambda stats=stats: spec.qparams(stats))
    return found


def answer_rows(network: Network) -> list[Row]:
    """The questions that run nothing but one layer, or nothing."""
    lab = network.lab()
    lab.what_if(LAYER)
    names = [step.name for step in lab.plan().quantized_steps]
    bits = iter(range(10**6))

    def what_if(name: str) -> Callable[[], object]:
        # Another spec each time: nothing is answered from the last answers.
        return lambda: lab.what_if(
            name, activation=TensorSpec(quint8, policy=Percentile(99.0 + next(bits) * 1e-4))
        )

    def ranges(policy: object) -> list[Callable[[], object]]:
        spec = TensorSpec(quint8, policy=policy)
        return [lambda name=name: spec.qparams(lab.statistics(name)) for name in names]

    def observer(name: str) -> Callable[[], object]:
        made = HistogramObserver(bins=2048)
        made.stats = lab.statistics(name)
        made.min_val.copy_(made.stats.min_val)
        made.max_val.copy_(made.stats.max_val)
        return made.calculate_qparams

    return [
        milliseconds_row("what_if, any layer, local", 50, [what_if(name) for name in names]),
        milliseconds_row(
            "histogram of any tensor",
            5,
            [lambda name=name: lab.statistics(name).display_histogram() for name in names],
        ),
        *(
            milliseconds_row(f"range of any tensor, {policy.label}", 5, ranges(policy))
            for policy in (MinMax(), MovingAverage(), Percentile(), MSE(), Entropy())
        ),
        milliseconds_row(
            "range by HistogramObserver(bins=2048)", 5, [observer(name) for name in names]
        ),
        milliseconds_row("range of heavy tails, least squared error", 5, heavy_tails()),
    ]


def write(rows: list[Row], about: str) -> None:
    heads = ["question", "wall time", "CPU time", "to reach"]
    results.write(
        "lab",
        [
            "## The Lab's questions",
            "",
            f"ResNet-18 architecture, {BATCHES * BATCH} images at 224×224 in {BATCHES} batches; "
            "units of one bare float pass over the same images in the same process, the fastest "
            f"of {REPEATS}. `python -m benchmarks.lab`.",
            "",
            about,
            "",
            *results.table(heads, rows),
        ],
    )


def peak_mebibytes() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def main() -> None:
    torch.set_num_threads(THREADS)
    load = results.load()
    loading = seconds(counting.load)
    network = Network(ResNet)
    before = peak_mebibytes()
    unit = least([seconds(network.bare) for _ in range(REPEATS)])
    rows = question_rows(network) + answer_rows(network)
    peak = peak_mebibytes()
    mobile = Network(MobileNetV2)

    def calibration() -> Callable[[], object]:
        lab = mobile.lab(calibrated=False)
        return lab.calibrate

    rows.insert(1, unit_row(mobile, "calibrate, MobileNetV2", 1.8, calibration))
    about = (
        f"{results.machine()}. One unit is {unit.wall:.2f} s. Peak memory {peak:.0f} MiB, of it "
        f"{before:.0f} MiB with model, images and a bare pass; activations are cached within "
        f"1 GiB. Loading the compiled counting took {loading.cpu:.2f} s of CPU time, once per "
        f"process and not counted in the rows. {load}."
    )
    write(rows, about)
    print(about)


if __name__ == "__main__":
    main()
