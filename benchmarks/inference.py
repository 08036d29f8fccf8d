"""int8 inference beside torch 2.13's own quantization, ONNX Runtime and float32, in one process.

Run on an otherwise idle machine: python -m benchmarks.inference
It writes its tables between the markers of benchmarks/RESULTS.md. THREADS (1) and ROUNDS (40) are
read from the environment; ``--profile`` prints where a converted network's time goes instead.

One thread, because with more the candidates disturb each other: each brings threads of its own, and
once there are more of them than cores, OpenMP's no longer wait awake. torch.ao's LSTM then takes
16 ms instead of 2, and ratios would say who wakes threads less often.

In every round each candidate runs twice, one after the other, and the second run counts: caches
are its own, and whatever else the machine does meets all of them alike. Ratios are those of
medians, by which goals are met or missed; those of the fastest runs and of the least CPU times
stand beside them.
"""

from __future__ import annotations

import logging
import os
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median

import torch
from torch import Tensor, fx, nn
from torch.profiler import ProfilerActivity, profile

import qlab
from benchmarks import bounds, peers, results
from qlab import ops
from qlab.eager import quantize_dynamic
from qlab.graph import convert_fx, prepare_fx
from sample_models.untrained import MobileNetV2, ResNet, build_untrained

THREADS = int(os.environ.get("THREADS", "1"))
ROUNDS = int(os.environ.get("ROUNDS", "40"))
LINEAR, LSTM = "linear 4096×4096", "dynamic LSTM"
MEANS = "operator's own time, mean under PyTorch's profiler", "operator"
ALONE = "its convolutions and linear layers alone"
NETWORKS: tuple[type[nn.Module], ...] = (ResNet, MobileNetV2)

Run = Callable[[], object]


@dataclass
class Times:
    """Seconds of every run that counts: on the clock, and of all threads of this process."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


def interleaved(candidates: dict[str, Run], rounds: int = ROUNDS) -> dict[str, Times]:
    """Times by candidate."""
    times = {name: Times() for name in candidates}
    for run in candidates.values():
        run()
    for _ in range(rounds):
        for name, run in candidates.items():
            run()
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            times[name].cpu.append(time.process_time() - cpu)
            times[name].wall.append(time.perf_counter() - wall)
    return times


def images(count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(1, 3, 224, 224, generator=generator) for _ in range(count)]


def prepared(model: nn.Module, data: Sequence[Tensor]) -> fx.GraphModule:
    """A calibrated model, every layer in int8."""
    made = prepare_fx(model, "int8", data[0])
    for batch in data:
        made(batch)
    return made


def converted_network(build: type[nn.Module]) -> tuple[fx.GraphModule, Tensor]:
    """A network in int8 and an image for it."""
    model, data = build_untrained(build).eval().requires_grad_(False), images(2)
    return convert_fx(prepared(model, data)), data[0]


def convolutions(build: type[nn.Module]) -> dict[str, int]:
    """How many convolutions of a network each kernel runs."""
    converted, x = converted_network(build)
    converted(x)
    ops.reset_counts()
    converted(x)
    return {kernel: n for (name, kernel), n in ops.counts().items() if name == "conv2d"}


def network(build: type[nn.Module]) -> tuple[dict[str, Times], float]:
    """Times of a network at batch 1, and the least seconds that converting it took."""
    model, data = build_untrained(build).eval().requires_grad_(False), images(2)
    x, calibrated = data[0], prepared(model, data)
    converting = min(once(lambda: convert_fx(calibrated)) for _ in range(5))
    ours, theirs = convert_fx(calibrated), peers.torch_ao(model, data)
    runtime = peers.onnx_runtime(model, data, THREADS)
    machine_code = torch.compile(ours, fullgraph=True)
    candidates: dict[str, Run] = {
        "qlab": lambda: ours(x),
        "qlab, torch.compile": lambda: machine_code(x),
        ALONE: layers_alone(ours, x),
        "torch.ao": lambda: theirs(x),
        "ONNX Runtime": lambda: runtime(x),
        "float32": lambda: model(x),
    }
    return interleaved(candidates), converting


def layers_alone(converted: fx.GraphModule, x: Tensor) -> Run:
    """The bound kernels of a network's layers, one after the other, on kept inputs.

    What a network takes beyond them is everything else: other operators, Python, cold caches.
    """
    calls: list[tuple[Callable[[Tensor], Tensor], Tensor]] = []

    class Recording(fx.Interpreter):
        def call_module(self, target, args, kwargs):
            found = super().call_module(target, args, kwargs)
            ready = getattr(getattr(self.fetch_attr(target), "_packed", None), "ready", None)
            if ready is not None:
                calls.append((ready.run, args[0]))
            return found

    Recording(converted).run(x)

    def run() -> None:
        for layer, given in calls:
            layer(given)

    return run


def empty_call() -> float:
    """Least seconds of a call of oneDNN that has next to nothing to compute: one pixel."""
    x, weight = torch.zeros((1, 16, 1, 1), dtype=torch.uint8), torch.zeros((16, 16, 1, 1))
    qparams = qlab.QParams.per_tensor(0.1, 3, qlab.quint8)
    w_qparams, packed = qlab.QParams.per_tensor(0.1, 0, qlab.qint8), ops.PackedWeight()
    arguments = x, qparams, weight.to(torch.int8), w_qparams, torch.zeros(16), qparams
    ops.conv2d(*arguments, packed=packed)
    assert packed.ready is not None
    run = packed.ready.run
    return min(once(lambda: run(x)) for _ in range(1000))


def once(run: Run) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def linear() -> tuple[dict[str, Times], list[tuple[str, ...]], dict[str, list[float]]]:
    """4096×4096 at batch 64: times, where ours goes, and each step of ours and torch.ao's."""
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(4096, 4096)).eval().requires_grad_(False)
    x = torch.randn(64, 4096, generator=generator)
    ours, theirs = convert_fx(prepared(model, [x])), peers.torch_ao(model, [x])
    candidates: dict[str, Run] = {
        "qlab": lambda: ours(x),
        ALONE: layers_alone(ours, x),
        "torch.ao": lambda: theirs(x),
        "float32": lambda: model(x),
    }
    each = {"qlab": steps(ours, x), "torch.ao": steps(theirs, x)}
    return interleaved(candidates), profile_rows(ours, x), each


def steps(model: nn.Module, x: Tensor, rounds: int = ROUNDS) -> list[float]:
    """Least seconds of what a traced network calls, one after the other."""
    assert isinstance(model, fx.GraphModule)
    spent: dict[str, list[float]] = defaultdict(list)

    class Timed(fx.Interpreter):
        def run_node(self, n):
            found: list[object] = []
            seconds = once(lambda: found.append(super(Timed, self).run_node(n)))
            if n.op.startswith("call"):
                spent[n.name].append(seconds)
            return found[0]

    for _ in range(rounds + 1):
        Timed(model).run(x)
    return [min(seconds[1:]) for seconds in spent.values()]


def first_calls(build: type[nn.Module]) -> list[float]:
    """Seconds of a network's first call in a process, of another's made alike, and of later ones.

    To be asked before anything else has run.
    """
    one, x = converted_network(build)
    other, _ = converted_network(build)
    return [
        once(lambda: one(x)),
        once(lambda: other(x)),
        min(once(lambda: other(x)) for _ in "123"),
    ]


class Recurrent(nn.Module):
    """An LSTM of 256 features over 32 steps, batch 8."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(256, 256)

    def forward(self, x: Tensor) -> Tensor:
        return self.lstm(x)[0]


def lstm() -> tuple[dict[str, Times], list[tuple[str, ...]]]:
    """Times, and where ours goes."""
    torch.manual_seed(0)
    model, x = Recurrent().eval().requires_grad_(False), torch.randn(32, 8, 256)
    ours = quantize_dynamic(model, {nn.LSTM}, dtype=qlab.qint8)
    theirs = peers.torch_ao_dynamic(model, nn.LSTM)
    candidates: dict[str, Run] = {
        "qlab": lambda: ours(x),
        "torch.ao": lambda: theirs(x),
        "float32": lambda: model(x),
    }
    return interleaved(candidates), operator_rows(lambda: ours(x))


def operator_rows(run: Run, rounds: int = ROUNDS) -> list[tuple[str, ...]]:
    """PyTorch's operators of a run by their own time; the rest is compiled loops and Python."""
    run()
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        whole = sum(once(run) for _ in range(rounds)) / rounds
    parts = [
        (event.key, event.count // rounds, 1e-6 * event.self_cpu_time_total / rounds)
        for event in seen.key_averages()
    ]
    rest = "compiled loops, Python and the profiler itself"
    parts.append((rest, 0, whole - sum(seconds for *_, seconds in parts)))
    return [
        (name, str(calls or ""), milliseconds(seconds), f"{100 * seconds / whole:.0f} %")
        for name, calls, seconds in sorted(parts, key=lambda part: -part[2])
        if seconds > 0.01 * whole
    ]


def by_kind(
    converted: fx.GraphModule, x: Tensor, rounds: int = ROUNDS
) -> dict[str, tuple[int, float]]:
    """How many modules of a kind a converted network has, and the least seconds they took."""
    spent: dict[str, list[float]] = defaultdict(list)

    class Timed(fx.Interpreter):
        def call_module(self, target, args, kwargs):
            found: list[object] = []
            spent[target].append(
                once(lambda: found.append(super(Timed, self).call_module(target, args, kwargs)))
            )
            return found[0]

    for _ in range(rounds + 1):
        Timed(converted).run(x)
    kinds: dict[str, tuple[int, float]] = {}
    for target, seconds in spent.items():
        module = converted.get_submodule(target)
        kind = type(module).__name__
        if getattr(module, "groups", 1) > 1:
            kind += ", depthwise"
        count, total = kinds.get(kind, (0, 0.0))
        kinds[kind] = count + 1, total + min(seconds[1:])
    return kinds


def milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.2f} ms"


def rows_of(name: str, times: dict[str, Times], goals: dict[str, float]) -> list[tuple[str, ...]]:
    """One row per candidate: its times, and ours in units of it."""
    ours = times["qlab"]
    rows = []
    for other, theirs in times.items():
        seconds = median(theirs.wall), min(theirs.wall), min(theirs.cpu)
        row = name if other == "qlab" else "", other, *map(milliseconds, seconds)
        ratios, goal = ("", "", ""), ""
        if other != "qlab":
            mine = median(ours.wall), min(ours.wall), min(ours.cpu)
            ratios = tuple(f"{a / b:.2f}" for a, b in zip(mine, seconds, strict=True))
            if other in goals:
                met = "met" if median(ours.wall) <= goals[other] * seconds[0] else "missed"
                goal = f"≤ {goals[other]:g}, {met}"
        rows.append((*row, *ratios, goal))
        print(" | ".join(rows[-1]), flush=True)
    return rows


def profile_rows(converted: fx.GraphModule, x: Tensor) -> list[tuple[str, ...]]:
    kinds = by_kind(converted, x)
    whole = sum(seconds for _, seconds in kinds.values())
    ordered = sorted(kinds.items(), key=lambda item: -item[1][1])
    return [
        (kind, str(count), milliseconds(seconds), f"{100 * seconds / whole:.0f} %")
        for kind, (count, seconds) in ordered
    ]


def write(
    rows: list[tuple[str, ...]],
    converting: dict[str, float],
    parts: dict[str, list[tuple[str, ...]]],
    bound: str,
    load: str,
) -> None:
    heads = ["what", "with", "median", "fastest", "CPU time", "qlab / it", "fastest", "CPU"]
    heads.append("to reach")
    lines = [
        "## int8 inference on a CPU",
        "",
        "Batch 1 at 224×224 (linear: 64 rows), side by side in one process; a ratio below 1 means "
        "that qlab is faster. CPU time is the least of a run, of all threads together: it changes "
        "little where other programs run beside. One thread unless THREADS says otherwise: with "
        "more, the candidates' own threads disturb each other. `python -m benchmarks.inference`.",
        "",
        f"{results.machine()}, onnxruntime {peers.version_of('onnxruntime')}. {load}.",
        "",
        *results.table(heads, rows),
        "",
        "Converting a calibrated model: "
        + ", ".join(f"{name} {seconds:.2f} s" for name, seconds in converting.items())
        + " (to reach: ResNet ≤ 0.3 s).",
        "",
        bound,
    ]
    for name, found in parts.items():
        how, what = ("module at its fastest", "kind") if name != LSTM else MEANS
        title = f"Where the time of {name} goes, each {how}:"
        lines += ["", title, "", *results.table([what, "calls", "time", "share"], found)]
    results.write("inference", lines)


def main() -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(THREADS)
    torch.set_grad_enabled(False)
    load = results.load()
    first = first_calls(MobileNetV2)
    parts = {build.__name__: profile_rows(*converted_network(build)) for build in NETWORKS}
    if "--profile" in sys.argv:
        for name, found in parts.items():
            print(name, *(" | ".join(row) for row in found), sep="\n")
        return
    times, converting = {}, {}
    for build in NETWORKS:
        times[build.__name__], converting[build.__name__] = network(build)
    times[LINEAR], parts[LINEAR], each = linear()
    times[LSTM], parts[LSTM] = lstm()
    goals = {LINEAR: {"torch.ao": 1.0}, LSTM: {"torch.ao": 1.1}}
    both = {"torch.ao": 0.9, "ONNX Runtime": 1.0}
    rows = [row for name in times for row in rows_of(name, times[name], goals.get(name, both))]
    middle = {
        name: {other: median(found.wall) for other, found in taken.items()}
        for name, taken in times.items()
    }
    text = bounds.networks(middle, ALONE, empty_call(), convolutions(MobileNetV2))
    text += " " + bounds.layers(middle[LSTM], each, parts[LSTM]) + " " + bounds.first_calls(first)
    write(rows, converting, parts, text, load)


if __name__ == "__main__":
    main()
