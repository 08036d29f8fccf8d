"""Modules quantized on their own, given and giving integers: see ``make_standalone.py``."""

from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import qlab
from qlab import quantization
from qlab.qtensor import QTensor
from qlab.quantization import quantize_fx
from tests.golden.standalone_cases import CASES, OUTER, Net, converted, fed, looked_at


@cache
def golden() -> dict[str, Tensor]:
    return load_file(Path(__file__).with_name("standalone.safetensors"))


def vectors(prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in golden().items() if k.startswith(prefix)}


def found(case: str) -> dict[str, Tensor]:
    net = Net()
    net.load_state_dict(vectors("state."))
    made = converted(qlab, quantization, quantize_fx, net, case)
    return looked_at(made, fed(qlab, case), lambda value: isinstance(value, QTensor))


@pytest.mark.parametrize("case", [*CASES, *OUTER])
def test_it_is_given_and_gives_what_the_references_is(case: str):
    """Codes are equal; scales, and so the numbers, to the last bits of float32."""
    seen, given = found(case), vectors(f"{case}/")
    assert ("y.codes" in seen) == ("y.codes" in given) == (case in OUTER and OUTER[case][1] == [0])
    for name, value in given.items():
        bits = 0.0 if name.endswith(".codes") else 1e-6
        torch.testing.assert_close(
            seen[name], value, rtol=bits, atol=0.0, msg=lambda m, n=name: f"{n}: {m}"
        )
