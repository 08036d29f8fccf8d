"""Dynamically quantized linear layers."""

import copy
import io
import json
import pickle

import pytest
import torch
from torch import nn

import qlab
import qlab.nn.intrinsic as nni
from qlab.errors import DTypeError, FormatError, ShapeError, UncalibratedError, UnsupportedError
from qlab.nn.intrinsic.quantized.dynamic import LinearReLU
from qlab.nn.quantized.dynamic import Linear
from qlab.observers import MinMaxObserver, PlaceholderObserver, default_weight_observer
from qlab.qconfig import (
    QConfig,
    default_dynamic_qconfig,
    float16_dynamic_qconfig,
    per_channel_dynamic_qconfig,
)

QCONFIGS = {
    "per_tensor": default_dynamic_qconfig,
    "per_channel": per_channel_dynamic_qconfig,
    "float16": float16_dynamic_qconfig,
    "int4": QConfig(
        PlaceholderObserver.with_args(dtype="qint8", is_dynamic=True),
        MinMaxObserver.with_args(dtype="qint4", qscheme=qlab.per_tensor_symmetric),
    ),
}


def layer(qconfig=default_dynamic_qconfig, bias: bool = True) -> nn.Linear:
    made = nn.Linear(6, 4, bias=bias)
    made.qconfig = qconfig
    return made


@pytest.fixture(params=QCONFIGS)
def quantized(request) -> Linear:
    return Linear.from_float(layer(QCONFIGS[request.param]))


def test_close_to_float():
    source = layer()
    x = torch.randn(50, 6)
    error = Linear.from_float(source)(x) - source(x)
    assert 0 < error.abs().max() < 0.05


def test_float16_is_the_rounded_weight_and_float_arithmetic():
    source = layer(float16_dynamic_qconfig)
    with torch.no_grad():
        source.weight[0, 0] = 1e6
    quantized = Linear.from_float(source)
    weight = source.weight.detach().clamp(-65504, 65504).half().float()
    x = torch.randn(3, 6)
    torch.testing.assert_close(quantized(x), nn.functional.linear(x, weight, source.bias))
    assert quantized.weight()[0, 0] == 65504 and quantized.dtype is torch.float16


def test_copies_are_equal(quantized):
    x = torch.randn(3, 6)
    buffer = io.BytesIO()
    torch.save(quantized.state_dict(), buffer)
    buffer.seek(0)
    half = quantized.dtype is torch.float16
    loaded = Linear(6, 4, dtype=qlab.qint8 if half else quantized.dtype)
    loaded.load_state_dict(torch.load(buffer, weights_only=True))
    loaded.input_dtype = quantized.input_dtype
    configured = Linear.from_config(json.loads(json.dumps(quantized.config())))
    configured.load_state_dict(quantized.state_dict())
    copies = [copy.deepcopy(quantized), pickle.loads(pickle.dumps(quantized)), loaded, configured]
    for made in copies:
        assert torch.equal(made(x), quantized(x)) and made.dtype == quantized.dtype
        assert made.extra_repr() == quantized.extra_repr()


def test_an_integer_state_loads_into_a_float16_layer():
    source, target = Linear.from_float(layer()), Linear(6, 4, dtype=torch.float16)
    target.load_state_dict(source.state_dict())
    x = torch.randn(3, 6)
    assert torch.equal(target(x), source(x)) and target.dtype == qlab.qint8


def test_relu_and_no_bias():
    source = nni.LinearReLU(layer(bias=False), nn.ReLU())
    source.qconfig = default_dynamic_qconfig
    x = torch.randn(20, 6)
    fused, plain = LinearReLU.from_float(source), Linear.from_float(source[0])
    assert torch.equal(fused(x), plain(x).relu()) and fused.bias() is None
    source.qconfig = float16_dynamic_qconfig
    assert LinearReLU.from_float(source)(x).min() == 0


def test_input_type_follows_the_qconfig():
    made = Linear.from_float(layer(QCONFIGS["int4"]))
    assert made.input_dtype == qlab.qint8 and made.dtype.name == "qint4"
    assert Linear.from_float(layer(None)).input_dtype == qlab.quint8


def test_new_weight_and_bias():
    made, weight = Linear(3, 2), torch.tensor([[1.0, 2.0, 3.0], [0.0, -1.0, 1.0]])
    made.set_weight_bias(qlab.quantize_per_tensor(weight, 0.5, 0, qlab.qint8), torch.ones(2))
    assert torch.allclose(made(torch.ones(1, 3)), torch.tensor([[7.0, 1.0]]), atol=1e-5)
    with pytest.raises(DTypeError, match="the weight is not quantized"):
        made.set_weight_bias(weight, None)
    half = Linear(3, 2, dtype=torch.float16)
    half.set_weight_bias(weight, None)
    assert torch.equal(half(torch.ones(1, 3)), torch.tensor([[6.0, 0.0]]))
    with pytest.raises(ShapeError, match="the bias has the wrong shape"):
        half.set_weight_bias(weight, torch.ones(3))
    with pytest.raises(DTypeError, match="given as real numbers"):
        half.set_weight_bias(made.weight(), None)


def test_repr():
    assert repr(Linear.from_float(layer())) == (
        "DynamicQuantizedLinear(in_features=6, out_features=4, dtype=qlab.qint8, "
        "qscheme=qlab.per_tensor_affine)"
    )
    assert "dtype=torch.float16" in repr(Linear(2, 2, dtype=torch.float16))
    assert repr(LinearReLU(2, 2)).startswith("DynamicQuantizedLinearReLU(")


def test_execution():
    assert Linear(6, 4).execution == "integer"
    half = Linear(6, 4, dtype=torch.float16)
    assert (half.execution, half.execution_reason[:14]) == ("simulated", "float16 weight")


@pytest.mark.parametrize(
    "x",
    [torch.ones(2, 6, dtype=torch.int64), qlab.quantize_per_tensor(torch.ones(6), 1, 0, "qint8")],
)
def test_input_must_be_real_numbers(x):
    with pytest.raises(DTypeError, match="takes real numbers and quantizes them itself"):
        Linear(6, 4)(x)


@pytest.mark.parametrize("dtype", [qlab.qint8, torch.float16])
def test_input_must_fit(dtype):
    with pytest.raises(ShapeError, match="6 features along the last axis"):
        Linear(6, 4, dtype=dtype)(torch.ones(2, 5))


def test_what_cannot_be_converted():
    with pytest.raises(DTypeError, match="Linear cannot be made from this module"):
        Linear.from_float(nn.Conv2d(1, 1, 1))
    with pytest.raises(UncalibratedError, match=r"Linear has no qconfig.*quantize_dynamic"):
        Linear.from_float(nn.Linear(2, 2))
    weightless = QConfig(default_dynamic_qconfig.activation, nn.Identity)
    with pytest.raises(UnsupportedError, match="has a quantized weight"):
        Linear.from_float(layer(weightless))
    assert default_weight_observer is default_dynamic_qconfig.weight


def test_configuration_must_be_whole():
    config = Linear(2, 2).config()
    del config["input_dtype"]
    with pytest.raises(FormatError, match="input_dtype as text"):
        Linear.from_config(config)
