"""HistogramObserver against the reference's where clipping pays: see ``histogram_tails.py``.

The error is Σ(x − y)² of quantizing the very data, in float64, and the bound is that of
``test_histogram_corpus.py``. Observers that keep the extrema break it on these tensors, so a
histogram that is not searched, or searched badly, does too.
"""

import json
from functools import cache
from pathlib import Path
from statistics import geometric_mean, median
from typing import Any

import pytest
import torch

import qlab
from qlab.quantization import HistogramObserver, MinMaxObserver
from tests.golden.histogram_tails import DRAWS, FORMS, batches, checksum, chosen

GOLDEN = json.loads(Path(__file__).with_name("histogram_tails.json").read_text())["tensors"]


def error(x: torch.Tensor, qparams: list[float]) -> float:
    scale, zero_point, low, high = qparams
    codes = (x / scale).round().add(zero_point).clamp(low, high)
    return float(((codes - zero_point) * scale - x).square().sum())


@cache
def ratios(name: str) -> dict[tuple[str, str], float]:
    """Errors of qlab's observers over the reference's, by form and observer."""
    data, found = batches(name), {}
    assert checksum(data) == GOLDEN[name]["crc32"], "not the values that the reference saw"
    x = torch.cat(data).double()
    observers: dict[str, Any] = {"histogram": HistogramObserver, "extrema": MinMaxObserver}
    for form in FORMS:
        theirs = error(x, GOLDEN[name][form]) + 1e-6 * float(x.square().sum())
        for observer, kind in observers.items():
            found[form, observer] = error(x, chosen(qlab, kind, form, data)) / theirs
    return found


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", DRAWS)
def test_no_tensor_is_quantized_worse(name: str, form: str):
    assert ratios(name)[form, "histogram"] <= 1.01


@pytest.mark.parametrize("form", FORMS)
def test_extrema_would_not_do(form: str):
    found = [ratios(name)[form, "extrema"] for name in DRAWS]
    assert median(found) > 1.15
    assert 3 * sum(ratio > 1.01 for ratio in found) >= 2 * len(found)


def test_on_the_whole_tensors_are_quantized_better():
    for form, most in (
        ("4 bits", 0.3),
        ("8 bits", 0.8),
        ("7 bits", 0.8),
        ("8 bits, symmetric", 0.9),
    ):
        assert geometric_mean([ratios(name)[form, "histogram"] for name in DRAWS]) <= most
