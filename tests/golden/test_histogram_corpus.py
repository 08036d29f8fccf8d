"""HistogramObserver against the reference's on a corpus: see ``make_histogram_corpus.py``.

The error is Σ(x − y)² of quantizing the very data, in float64. On no tensor more than 1.01 × the
reference's (plus 1e-6·Σx²), and at most 0.8 × in the geometric mean.
"""

import math
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from qlab.quantization import HistogramObserver
from tests.golden.histogram_corpus import DRAWS, LAYERS, drawn

BATCHES = 4


@cache
def corpus() -> dict[str, Tensor]:
    return load_file(Path(__file__).with_name("histogram_corpus.safetensors"))


NAMES = sorted({key.partition("|")[0] for key in corpus()})


def error(x: Tensor, scale: float, zero_point: int, bits: int) -> float:
    codes = (x.double() / scale).round().add(zero_point).clamp(0, 2**bits - 1)
    return float(((codes - zero_point) * scale - x.double()).square().sum())


def errors(name: str, bits: int) -> tuple[float, float, float]:
    """Ours, the reference's, and the signal's power."""
    x = corpus()[f"{name}|x"].float()
    observer = HistogramObserver(quant_min=0, quant_max=2**bits - 1)
    for batch in x.chunk(BATCHES):
        observer(batch)
    scale, zero_point = observer.calculate_qparams()
    theirs = corpus()[f"{name}|{bits}"].tolist()
    mine = error(x, float(scale), int(zero_point), bits)
    return mine, error(x, theirs[0], int(theirs[1]), bits), float(x.double().square().sum())


def test_the_corpus_is_what_it_says():
    assert len(NAMES) == len(DRAWS) + len(LAYERS) >= 30
    for name, x in drawn():
        assert torch.equal(corpus()[f"{name}|x"], x)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("name", NAMES)
def test_no_tensor_is_quantized_worse(name: str, bits: int):
    mine, theirs, power = errors(name, bits)
    assert mine <= 1.01 * theirs + 1e-6 * power


def test_on_the_whole_tensors_are_quantized_better():
    ratios = []
    for bits in (4, 8):
        for name in NAMES:
            mine, theirs, power = errors(name, bits)
            ratios.append((mine + 1e-9 * power) / (theirs + 1e-9 * power))
    assert math.exp(sum(map(math.log, ratios)) / len(ratios)) <= 0.8


@pytest.mark.parametrize(
    "batches",
    [
        [torch.full((64,), 1e-30)],
        [torch.zeros(64)],
        [torch.full((64,), 3.25), torch.full((8, 8), 3.25)],
        [torch.randn(100), torch.randn(100).index_fill(0, torch.tensor(3), 1e30)],
        [torch.randn(3, 5), torch.randn(7), torch.randn(2, 2, 2)],
        [torch.randn(10), torch.zeros(0), torch.randn(10)],
        [torch.randn(10) * 1e-8, torch.randn(10) * 1e8],
    ],
    ids=["tiny", "zero", "constant", "huge outlier", "shapes", "empty batch", "scales"],
)
def test_what_breaks_others_is_survived(batches: list[Tensor]):
    observer = HistogramObserver()
    for batch in batches:
        assert observer(batch) is batch
    scale, zero_point = observer.calculate_qparams()
    assert scale.isfinite().all() and (scale > 0).all()
    assert 0 <= int(zero_point) <= 255
    x = torch.cat([batch.flatten() for batch in batches])
    codes = (x / scale).round().add(zero_point).clamp(0, 255)
    assert ((codes - zero_point) * scale).isfinite().all()
