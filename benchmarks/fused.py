"""What fusing on request buys: a converted network with it and without, in one process.

Run on an otherwise idle machine: python -m benchmarks.fused
It writes its table between the markers of benchmarks/RESULTS.md. THREADS (1) and ROUNDS (40) are
read from the environment; see `benchmarks.inference` for how candidates take turns.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from statistics import median

import torch
from torch import Tensor, fx, nn

from benchmarks import results
from benchmarks.inference import THREADS, Run, Times, images, interleaved, milliseconds
from qlab.graph import convert_fx, prepare_fx
from qlab.quantization.backend_config import get_onednn_backend_config
from sample_models.untrained import ResNet, build_untrained


def converted(model: nn.Module, x: Tensor, *, fused: bool) -> fx.GraphModule:
    backend = get_onednn_backend_config() if fused else None
    prepared = prepare_fx(model, "int8", x, backend_config=backend)
    prepared(x)
    return convert_fx(prepared)


def measured(model: nn.Module, x: Tensor) -> dict[str, Times]:
    """Times with the chains of `qlab.registry.ON_REQUEST` fused, and without."""
    made = {"fused": converted(model, x, fused=True), "in turn": converted(model, x, fused=False)}
    runs: dict[str, Run] = {name: lambda net=net: net(x) for name, net in made.items()}
    return interleaved(runs)


def row(name: str, times: Mapping[str, Times]) -> tuple[str, ...]:
    fused, apart = times["fused"], times["in turn"]
    least = min(fused.cpu), min(apart.cpu)
    ratios = median(fused.wall) / median(apart.wall), least[0] / least[1]
    return (name, *map(milliseconds, least), *(f"{ratio:.2f}" for ratio in ratios))


def main() -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(THREADS)
    torch.set_grad_enabled(False)
    torch.manual_seed(0)
    load = results.load()
    x = torch.randn(128, 768)
    feed_forward = nn.Sequential(nn.Linear(768, 3072), nn.GELU(), nn.Linear(3072, 768)).eval()
    rows = [
        row("ResNet, one image", measured(build_untrained(ResNet).eval(), images(1)[0])),
        row("768 → 3072, GELU, 3072 → 768, 128 rows", measured(feed_forward, x)),
    ]
    heads = ["what", "fused, CPU time", "in turn, CPU time", "fused / in turn, median", "CPU"]
    lines = [
        "## Fused on request",
        "",
        "A convolution that takes the sum behind it, and a linear layer that takes GELU, as the "
        "backend config of oneDNN asks for, beside the same network without. Their integers are "
        "not the same: fused, a sum is requantized once. CPU time is the least of a run. "
        "`python -m benchmarks.fused`.",
        "",
        f"{results.machine()}. {load}.",
        "",
        *results.table(heads, rows),
        "",
        "oneDNN writes a sum where its second operand lies. In a converted graph it is given that "
        "itself where nothing reads it afterwards (all eight sums of ResNet), elsewhere a copy; "
        "PyTorch's operator then returns a copy of what was written. That, in place of one "
        "compiled pass over memory, is all that a sum saves.",
    ]
    results.write("fused", lines)
    print(*lines, sep="\n")


if __name__ == "__main__":
    main()
