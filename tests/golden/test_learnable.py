"""The learnable fake quantizer learns as the reference's: see ``make_learnable.py``."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

import qlab
from qlab import quantization
from qlab.quantization._learnable_fake_quantize import _LearnableFakeQuantize
from tests.golden.learnable_cases import CASES, NAMES, step

DTYPES = SimpleNamespace(uint8=qlab.quint8, int8=qlab.qint8)


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_are_those_of_the_reference(name):
    every = load_file(Path(__file__).with_name("learnable.safetensors"))
    given = {key: every[f"{name}/{key}"] for key in ("x", "gradient", *NAMES)}
    x, gradient = given["x"], given["gradient"]
    found = step(_LearnableFakeQuantize, quantization, DTYPES, name, x, gradient)
    for key in NAMES:
        torch.testing.assert_close(found[key], given[key], rtol=1e-5, atol=1e-6)
