"""How far onnxruntime's results lie from qlab's integers, by operator, and why.

Run: python -m benchmarks.onnx_agreement [pixels]

Per kind of operator, fed the same codes: the share of codes that onnxruntime rounds otherwise, the
share that qlab rounds otherwise than exact arithmetic does (weighted layers, float64), and what is
left of the first where qlab's model has integer biases, as ``Lab.export`` writes it. Last, what
becomes of one input code that is moved by one step.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, fx
from torch.func import functional_call

import qlab
import sample_models
from benchmarks import results
from qlab.analysis.batches import Batches
from qlab.execution import GraphRunner
from qlab.io.onnx_check import OnnxCheck, check_onnx
from qlab.io.onnx_file import onnx_bytes
from qlab.io.portable import portable
from qlab.io.standalone import ATEN
from qlab.nn.quantized import Quantize
from qlab.nn.quantized.weighted import WeightedModule
from qlab.qparams import QParams, quantize

NAMES = ("conv_bn_relu", "residual", "depthwise", "resnet18", "mobilenet_v2")
HEADS = (
    "model", "operator", "codes", "onnxruntime, integer kernels", "as written, in float",
    "integer kernels, integer biases in both", "qlab against float64",
)  # fmt: skip
Counts = dict[str, tuple[int, int]]


def by_kind(model: fx.GraphModule, wrong: dict[str, tuple[int, int]]) -> Counts:
    """Sums of (codes, codes that differ) over the nodes of one class of module."""
    sums: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for node in model.graph.nodes:
        if node.name in wrong:
            kind = type(model.get_submodule(str(node.target))).__name__
            for index, count in enumerate(wrong[node.name]):
                sums[kind][index] += count
    return {kind: (codes, far) for kind, (codes, far) in sums.items()}


def differing(check: OnnxCheck) -> dict[str, tuple[int, int]]:
    """By node, how many codes there are and how many differ, each operator fed qlab's codes."""
    assert check.most_local_steps <= 1
    return {
        str(node): (int(row["codes_local"]), int(row["off_by_1_local"]))
        for node, row in check.table.iterrows()
    }


@torch.no_grad()
def against_float64(model: fx.GraphModule, x: Tensor) -> dict[str, tuple[int, int]]:
    """As `differing`, of qlab's weighted layers against the same sums without rounding."""
    apart = portable(model, ATEN)
    nodes = [n for n in model.graph.nodes if n.op == "call_module"]
    _, codes = GraphRunner(model, {n.name for n in nodes}).collect((x,))
    found = {}
    for node in nodes:
        module: Any = model.get_submodule(str(node.target))
        if isinstance(module, WeightedModule) and module.output_qparams is not None:
            taken: Any = apart.get_submodule(str(node.target))
            q: QParams = module.output_qparams
            given = {"weight": taken.weight().double()}
            if module.bias() is not None:
                given["bias"] = module.bias().double()
            real = taken.real(codes[node.args[0].name], "input_0").double()
            y = functional_call(taken.inner, given, (real,))
            y = y.relu() if taken.relu else y
            y = y if taken.most is None else y.clamp(max=taken.most)
            exact = (y / q.scale.double() + q.zero_point).round().clamp(q.quant_min, q.quant_max)
            found[node.name] = (exact.numel(), int((exact != codes[node.name]).sum()))
    return found


@torch.no_grad()
def one_code_moved(model: fx.GraphModule, x: Tensor) -> float:
    """Share of outputs that move by more than a step if one code of each image moves by one."""
    modules = list(model.modules())
    step = next(m for m in modules if isinstance(m, Quantize)).output_qparams
    last = [m for m in modules if type(m).__name__ == "DeQuantize"][-1].input_qparams
    assert step is not None and last is not None
    moved = x.clone()
    places = torch.randint(x[0].numel(), (len(x),), generator=torch.Generator().manual_seed(0))
    moved.flatten(1)[torch.arange(len(x)), places] += step.scale
    codes = [quantize(model(value), last[0]).int() for value in (x, moved)]
    return float(((codes[0] - codes[1]).abs() > 1).float().mean())


def measured(name: str, pixels: int) -> tuple[list[list[str]], str]:
    """A model's rows, and what is said of the whole network."""
    sample = sample_models.load(name)
    x = torch.cat(sample.calibration(16))[..., :pixels, :pixels]
    lab = qlab.Lab(sample.model, x[:1], [x])
    model = lab.convert("int8")
    content, data = onnx_bytes(model, lab.example_values), [Batches([x], 1, lab.device, "images")]
    checks = [check_onnx(content, model, data, level=level) for level in ("all", "disable_all")]
    whole = lab.convert(qlab.presets.get("int8").mapping().set_integer_biases())
    checks.append(check_onnx(onnx_bytes(whole, lab.example_values), whole, data))
    counts = [by_kind(model, differing(check)) for check in checks]
    counts.append(by_kind(model, against_float64(model, x)))
    rows = [
        [name, kind, f"{codes:,}", *(_ppm(part.get(kind)) for part in counts)]
        for kind, (codes, _) in counts[0].items()
    ]
    shares = [f"{100 * check.output['within_one']:.2f} %" for check in checks]
    told = f"| {name} | {' | '.join(shares)} | {100 - 100 * one_code_moved(model, x):.2f} % |"
    return rows, told


def _ppm(count: tuple[int, int] | None) -> str:
    return "" if count is None else f"{1e6 * count[1] / count[0]:.1f}"


def main(pixels: int) -> None:
    """Prints both tables and keeps them."""
    rows, told = [], []
    for name in NAMES:
        found, sentence = measured(name, pixels)
        rows += found
        told.append(sentence)
    whole = (
        "model", "onnxruntime, integer kernels", "as written, in float",
        "integer kernels, integer biases in both", "qlab, one input code of each image moved",
    )  # fmt: skip
    lines = [
        "## onnxruntime beside qlab's integers",
        "",
        f"Codes per million that differ, each by one step, every operator fed the same codes; 16 "
        f"images of at most {pixels} pixels a side. `python -m benchmarks.onnx_agreement`.",
        "",
        f"{results.machine()}.",
        "",
        *results.table(HEADS, rows),
        "",
        "Share of the network's outputs that are at most one step off:",
        "",
        *results.table(whole, []),
        *told,
    ]
    results.write("onnx", lines)
    print("\n".join(lines))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 64)
