"""Calls in the forms that the reference takes do what those in other forms do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import qlab
import qlab.nn.intrinsic as nni
import qlab.nn.quantized as nnq
from qlab.errors import ArgumentError
from qlab.nn.intrinsic import quantized as nniq
from qlab.nn.intrinsic.quantized import dynamic as nniqd
from qlab.nn.quantizable import LSTMCell, MultiheadAttention
from qlab.nn.quantized import dynamic as nnqd
from qlab.observers import (
    HistogramObserver,
    MovingAverageMinMaxObserver,
    MovingAveragePerChannelMinMaxObserver,
    PerChannelMinMaxObserver,
)
from qlab.quantization import (
    QConfigMapping,
    convert,
    get_default_qconfig,
    prepare,
    quantize_dynamic,
)
from qlab.quantization.quantize_fx import convert_fx, prepare_fx

TENSOR = ("qint8", qlab.per_tensor_symmetric, False, -100, 100)
CHANNEL = ("qint8", qlab.per_channel_symmetric, False, -100, 100)


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        (HistogramObserver, (512, *TENSOR, None, 1e-3)),
        (MovingAverageMinMaxObserver, (0.5, *TENSOR, 1e-3)),
        (PerChannelMinMaxObserver, (1, *CHANNEL, None, 1e-3)),
        (MovingAveragePerChannelMinMaxObserver, (0.5, 1, *CHANNEL, 1e-3)),
    ],
)
def test_observers_take_their_arguments_by_place(kind: Any, arguments: tuple[Any, ...]):
    made = kind(*arguments)
    assert (made.dtype, made.quant_min, made.quant_max) == (qlab.qint8, -100, 100)
    assert made.qscheme.symmetric and float(made.eps) == pytest.approx(1e-3)
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(1))
    assert made(x_orig=x) is x
    scale, _ = made.calculate_qparams()
    assert len(scale) == (3 if made.qscheme.per_channel else 1)


def test_parts_of_a_fused_module_are_given_by_name_too():
    conv, bn, relu = nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), nn.ReLU()
    made = nni.ConvBnReLU2d(conv, relu=relu, bn=bn)
    assert [*made] == [conv, bn, relu]
    assert [*nni.BNReLU2d(batch_norm=bn, relu=relu)] == [bn, relu]
    assert [*nni.LinearLeakyReLU(linear=(a := nn.Linear(2, 2)), leaky_relu=(b := nn.LeakyReLU()))
            ] == [a, b]  # fmt: skip


def test_other_names_of_parts_are_refused():
    with pytest.raises(
        ArgumentError, match=r"other names\. Expected conv, relu\. Received conv, bn"
    ):
        nni.ConvReLU2d(conv=nn.Conv2d(2, 3, 1), bn=nn.BatchNorm2d(3))
    with pytest.raises(ArgumentError, match="cannot hold these modules"):
        nni.ConvReLU2d(conv=nn.Conv1d(2, 3, 1), relu=nn.ReLU())


class Named(nn.Module):
    """Calls every layer by the name of its operand."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.relu = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU6()
        self.pool, self.linear = nn.AvgPool2d(2), nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.relu(input=self.norm(input=self.conv(input=x)))
        return self.linear(input=self.pool(input=y))


class Placed(Named):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(self.pool(self.relu(self.norm(self.conv(x)))))


def pair() -> tuple[nn.Module, nn.Module, torch.Tensor]:
    torch.manual_seed(3)
    named, placed = Named().eval(), Placed().eval()
    placed.load_state_dict(named.state_dict())
    return named, placed, torch.randn(2, 3, 6, 6)


def eager(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    wrapped = qlab.quantization.QuantWrapper(model).eval()
    wrapped.qconfig = get_default_qconfig()
    prepared = prepare(wrapped)
    prepared(x)
    return convert(prepared)(x)


def graph(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    prepared = prepare_fx(model, QConfigMapping().set_global(get_default_qconfig()), (x,))
    prepared(x)
    converted = convert_fx(prepared)
    assert any(isinstance(m, nnq.QuantizedModule) for m in converted.modules())
    return converted(x)


def dynamically(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return quantize_dynamic(model, {nn.Linear})(x)


@pytest.mark.parametrize("way", [eager, graph, dynamically])
def test_a_model_that_names_its_operands_is_quantized_like_one_that_does_not(way: Any):
    named, placed, x = pair()
    torch.testing.assert_close(way(named, x), way(placed, x), rtol=0, atol=0)


def test_operands_by_wrong_names_are_refused():
    x = qlab.quantize_per_tensor(torch.ones(1, 3), 0.1, 0, qlab.quint8)
    layer = nnq.Linear(3, 2)
    assert layer(x=x).equal(layer(x)) and layer(input=x).equal(layer(x))
    with pytest.raises(ArgumentError, match=r"other names\. Expected input, then extra_input"):
        layer(other=x)
    with pytest.raises(ArgumentError, match="Received one by its place, input"):
        layer(x, input=x)
    sum_of = nniq.ConvAdd2d(3, 3, 1)
    image = qlab.quantize_per_tensor(torch.ones(1, 3, 2, 2), 0.1, 0, qlab.quint8)
    assert sum_of(extra_input=image, input=image).equal(sum_of(image, image))
    with pytest.raises(ArgumentError, match="other names"):
        sum_of(extra_input=image)
    with pytest.raises(ArgumentError, match="other names"):
        nnqd.Linear(3, 2)(y=torch.ones(1, 3))


@pytest.mark.parametrize("kind", [nniq.LinearReLU, nniqd.LinearReLU])
def test_fused_linear_layers_call_their_bias_bias(kind: Any):
    made = kind(3, 2, bias=False)
    assert made.bias() is None
    again = kind.from_config(made.config())
    assert again.bias() is None and kind(3, 2).bias() is not None


def test_modules_are_made_on_a_device():
    made = [
        nnq.Conv2d(2, 2, 1, device="meta", dtype=torch.float32),
        nnq.ConvTranspose1d(2, 2, 1, device="meta"),
        nnq.BatchNorm2d(3, device="meta"),
        nnq.LayerNorm(3, device="meta"),
        nnq.GroupNorm(1, 3, device="meta"),
        nnq.InstanceNorm2d(3, device="meta"),
        nnq.Quantize(0.1, 0, qlab.quint8, {"device": "meta"}),
        nnqd.Conv2d(2, 2, 1, device="meta"),
    ]
    assert all(b.is_meta for module in made for b in module.buffers())
    assert all(len([*module.buffers()]) > 1 for module in made)


def test_a_state_of_a_cell_is_made_for_a_batch():
    h, c = LSTMCell(3, 4).initialize_hidden(2)
    assert h.shape == c.shape == (2, 4) and not h.is_quantized and not h.any()
    h, c = LSTMCell(3, 4).initialize_hidden(2, is_quantized=True)
    assert h.q_scale() == 1 and c.is_quantized and not c.int_repr().any()


@pytest.mark.parametrize(
    "options", [{}, {"kdim": 3, "vdim": 5, "add_bias_kv": True}, {"bias": False}]
)
def test_attention_is_made_float_again(options: dict[str, Any]):
    torch.manual_seed(4)
    plain = nn.MultiheadAttention(8, 2, **options).eval()
    plain.qconfig = get_default_qconfig()
    x = tuple(torch.randn(4, 2, size or 8) for size in (None, plain.kdim, plain.vdim))
    observed = MultiheadAttention.from_float(plain)
    again = observed.dequantize()
    torch.testing.assert_close(again(*x)[0], plain(*x)[0])
    observed(*x)
    codes = nnq.MultiheadAttention.from_observed(observed).dequantize()
    assert type(codes) is nn.MultiheadAttention and not codes.training
    error = (codes.out_proj.weight - plain.out_proj.weight).abs().max()
    assert 0 < error < plain.out_proj.weight.abs().max() / 100
    assert (codes(*x)[0] - plain(*x)[0]).norm() < 0.02 * plain(*x)[0].norm()
