"""Modules with batch norm that are built, not swapped in, start as the reference's do."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from qlab.nn.intrinsic import qat
from qlab.quantization import default_qat_qconfig

PATH = Path(__file__).with_name("qat_start.safetensors")
CONV = {"in_channels": 4, "out_channels": 3, "kernel_size": 2}
CASES: list[tuple[str, str, dict[str, Any]]] = [
    *((kind, kind, CONV) for kind in ("ConvBn1d", "ConvBnReLU1d", "ConvBnReLU2d", "ConvBn3d")),
    *((f"{kind}, bias", kind, {**CONV, "bias": True}) for kind in ("ConvBn2d", "ConvBnReLU3d")),
    ("LinearBn1d", "LinearBn1d", {"in_features": 4, "out_features": 3}),
]


@pytest.mark.parametrize(("name", "kind", "arguments"), CASES, ids=[case[0] for case in CASES])
def test_the_same_seed_gives_the_same_start(name: str, kind: str, arguments: dict[str, Any]):
    torch.manual_seed(7)
    made = getattr(qat, kind)(**arguments, qconfig=default_qat_qconfig)
    state = made.state_dict()
    want = {k: v for k, v in load_file(PATH).items() if k.startswith(f"{name}.")}
    assert {"weight", "bn.weight", "bn.running_var"} <= {k.removeprefix(f"{name}.") for k in want}
    for key, value in want.items():
        torch.testing.assert_close(state[key.removeprefix(f"{name}.")], value, rtol=0, atol=0)


def test_a_reset_draws_again_and_forgets_the_statistics():
    made = qat.ConvBn2d(**CONV, bias=True, qconfig=default_qat_qconfig)
    before = {key: value.clone() for key, value in made.state_dict().items()}
    made.bn.running_mean += 1
    made.reset_bn_parameters()
    state = made.state_dict()
    assert all((state[key] != before[key]).all() for key in ("bias", "bn.weight"))
    assert all((state[key] == before[key]).all() for key in ("weight", "bn.bias"))
    assert not state["bn.running_mean"].any()
