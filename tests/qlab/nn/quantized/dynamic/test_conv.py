"""Convolutions that quantize their input as it comes."""

import copy
import json
import pickle

import pytest
import torch
from torch import Tensor, nn

import qlab.nn.quantized.dynamic as nnqd
from qlab.errors import DTypeError, FormatError, NonFiniteError, UncalibratedError, UnsupportedError
from qlab.nn.quantized.reference import Conv2d as Reference
from qlab.qconfig import (
    default_dynamic_qconfig,
    float16_dynamic_qconfig,
    per_channel_dynamic_qconfig,
)
from qlab.qtensor import quantize_per_tensor
from qlab.quantization import quantize_dynamic

KINDS = [f"{kind}{n}d" for kind in ("Conv", "ConvTranspose") for n in (1, 2, 3)]
every_kind = pytest.mark.parametrize("kind", KINDS)


def layer(kind: str, qconfig=default_dynamic_qconfig, **options) -> nn.Module:
    made = getattr(nn, kind)(4, 6, 3, padding=1, groups=2, **options)
    made.qconfig = qconfig
    return made


def given(kind: str, size: int = 7) -> Tensor:
    return torch.randn(2, 4, *[size] * int(kind[-2])) * 3 + 20


@every_kind
def test_it_computes_what_the_float_layer_does(kind: str):
    """Also where the output lies far beyond the range of the input."""
    module, x = layer(kind, stride=2), given(kind)
    with torch.no_grad():
        module.weight.mul_(20)
    made = getattr(nnqd, kind).from_float(module)
    error = (made(x) - module(x)).norm() / module(x).norm()
    whole = (made(x, reduce_range=False) - module(x)).norm() / module(x).norm()
    assert whole < error < 0.02
    assert torch.equal(made(x, False), made(x, reduce_range=False))
    made.reduce_range = False
    torch.testing.assert_close((made(x) - module(x)).norm() / module(x).norm(), whole)


@every_kind
def test_copies_configurations_and_states_give_the_same(kind: str):
    made, x = getattr(nnqd, kind).from_float(layer(kind, bias=False)), given(kind)
    made.reduce_range = False
    y = made(x)
    back = type(made).from_config(json.loads(json.dumps(made.config())))
    back.load_state_dict(made.state_dict())
    for twin in (back, copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert torch.equal(twin(x), y)
    assert repr(back) == repr(made) and repr(made).startswith(f"DynamicQuantized{kind}(4, 6")
    with pytest.raises(FormatError, match="input_dtype as text"):
        type(made).from_config({**made.config(), "input_dtype": None})


@pytest.mark.parametrize("kind", ["Conv1d", "Conv2d", "ConvTranspose2d"])
def test_a_compiler_sees_one_operator(kind: str):
    made, x = getattr(nnqd, kind).from_float(layer(kind)), given(kind)
    compiled = torch.compile(made, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(x), made(x))
    assert torch.equal(torch.export.export(made, (x,)).module()(x), made(x))


def test_a_model_by_a_mapping():
    model = nn.Sequential(nn.Conv2d(4, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3, padding_mode="reflect"))
    x = torch.randn(2, 4, 8, 8)
    made = quantize_dynamic(
        model, {nn.Conv2d: per_channel_dynamic_qconfig}, mapping={nn.Conv2d: nnqd.Conv2d}
    )
    assert [type(part) for part in made] == [nnqd.Conv2d, nn.ReLU, nnqd.Conv2d]
    assert made[0].weight_qparams.scale.shape == (6,)
    assert (made(x) - model(x)).norm() < 0.03 * model(x).norm()


def test_of_a_reference_module():
    float_layer = layer("Conv2d", per_channel_dynamic_qconfig)
    made = nnqd.Conv2d.from_float(float_layer)
    qparams = made.weight_qparams
    reference = Reference.from_float(
        float_layer,
        {
            "qscheme": torch.per_channel_affine,
            "dtype": "qint8",
            "scale": qparams.scale,
            "zero_point": qparams.zero_point,
            "axis": 0,
        },
    )
    x = given("Conv2d")
    assert torch.equal(nnqd.Conv2d.from_reference(reference)(x), made(x))


def test_bad_input_is_reported():
    module = layer("Conv2d")
    made, x = nnqd.Conv2d.from_float(module), given("Conv2d")
    with pytest.raises(DTypeError, match=r"takes real numbers.*dequantize"):
        made(quantize_per_tensor(x, 0.1, 0, "quint8"))
    with pytest.raises(NonFiniteError, match="must be finite"):
        made(x * torch.inf)
    with pytest.raises(DTypeError, match=r"Conv2d cannot be made.*Linear"):
        nnqd.Conv2d.from_float(nn.Linear(3, 4))
    with pytest.raises(UnsupportedError, match=r"integers for weights.*float16"):
        nnqd.Conv2d.from_float(layer("Conv2d", float16_dynamic_qconfig))
    del module.qconfig
    with pytest.raises(UncalibratedError, match="no qconfig"):
        nnqd.Conv2d.from_float(module)
