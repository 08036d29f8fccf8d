"""A graph calibrated as the reference does it: scale and zero point everywhere, and the integers.

See ``make_static_fx.py``. What shares a range has one observer, which sees all of it.
"""

from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from qlab import quantization
from qlab.quantization import quantize_fx
from tests.golden.static_fx_cases import OBSERVERS, Net, batches, build, observed


@cache
def golden() -> dict[str, Tensor]:
    return load_file(Path(__file__).with_name("static_fx.safetensors"))


def vectors(prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in golden().items() if k.startswith(prefix)}


def calibrated(observer: str) -> nn.Module:
    net = Net()
    net.load_state_dict(vectors("state."))
    return build(quantization, quantize_fx, observer, net)


@pytest.mark.parametrize("observer", OBSERVERS)
def test_every_tensor_has_the_scale_and_zero_point_of_the_reference(observer: str):
    found, given = observed(calibrated(observer)), vectors(f"{observer}/at.")
    assert set(given) - set(found) == {"drop"}  # not rounded there either: its input's scale stays
    assert set(found) <= set(given)
    for node, (scale, zero_point) in found.items():
        assert scale == pytest.approx(float(given[node][0]), rel=OBSERVERS[observer]), node
        assert abs(zero_point - float(given[node][1])) <= 255 * OBSERVERS[observer], node


@pytest.mark.parametrize("observer", OBSERVERS)
def test_every_converted_layer_has_them_too(observer: str):
    converted = quantize_fx.convert_fx(calibrated(observer))
    given = vectors(f"{observer}/scale.")
    assert set(given) == {"left.0", "right", "small", "deep.0", "fc", "last"}
    for name, (scale, zero_point) in given.items():
        layer = converted.get_submodule(name)
        assert layer.scale == pytest.approx(float(scale), rel=OBSERVERS[observer]), name
        assert abs(layer.zero_point - float(zero_point)) <= 255 * OBSERVERS[observer], name


@pytest.mark.parametrize("observer", ["MinMaxObserver", "MovingAverageMinMaxObserver"])
def test_the_outputs_are_the_references_within_two_steps(observer: str):
    converted = quantize_fx.convert_fx(calibrated(observer))
    with torch.no_grad():
        y = converted(batches()[0])
    steps = (y - golden()[f"{observer}/y"]).abs() / float(golden()[f"{observer}/scale.last"][0])
    assert float(steps.max()) <= 2.01
