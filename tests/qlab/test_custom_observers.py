"""Observers and fake quantizers that people derived from the reference's, unchanged."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import qlab
from qlab.errors import UnsupportedError
from qlab.quantization import QConfig, QConfigMapping, QuantWrapper, convert, prepare, prepare_qat
from qlab.quantization.fake_quantize import FakeQuantize
from qlab.quantization.observer import (
    HistogramObserver,
    MinMaxObserver,
    PerChannelMinMaxObserver,
    UniformQuantizationObserverBase,
    _with_args,
    default_weight_observer,
)
from qlab.quantization.quantize_fx import convert_fx, prepare_fx


class Halved(MinMaxObserver):
    """Says scale and zero point in its own way."""

    def calculate_qparams(self) -> tuple[Tensor, Tensor]:
        return self._calculate_qparams(self.min_val / 2, self.max_val / 2)


class Doubled(HistogramObserver):
    """Changes what its base says."""

    def calculate_qparams(self) -> tuple[Tensor, Tensor]:
        scale, zero_point = super().calculate_qparams()
        return scale * 2, zero_point


class AbsMax(UniformQuantizationObserverBase):
    """Keeps something of its own, and looks at data itself."""

    largest: Tensor

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.register_buffer("largest", torch.zeros(()))

    def forward(self, x_orig: Tensor) -> Tensor:
        self.largest = torch.maximum(self.largest, x_orig.detach().abs().max())
        return x_orig

    def calculate_qparams(self) -> tuple[Tensor, Tensor]:
        return self._calculate_qparams(-self.largest, self.largest)


class OwnRange(FakeQuantize):
    """A fake quantizer with a scale of its own."""

    def calculate_qparams(self) -> tuple[Tensor, Tensor]:
        return torch.tensor([0.5]), torch.tensor([7])


X = torch.randn(16, 4, generator=torch.Generator().manual_seed(2))


def scale_of(kind: Any) -> Tensor:
    """What a class must find for X, in plain words."""
    plain = HistogramObserver()
    plain(X)
    return {
        Halved: (X.max() - X.min()).reshape(1) / 255 / 2,
        AbsMax: X.abs().max().reshape(1) * 2 / 255,
        Doubled: plain.calculate_qparams()[0] * 2,
    }[kind]


def linear(factory: Any) -> nn.Module:
    model = QuantWrapper(nn.Linear(4, 4)).eval()
    model.qconfig = QConfig(activation=factory, weight=default_weight_observer)
    return model


@pytest.mark.parametrize("kind", [Halved, Doubled, AbsMax])
def test_what_calculate_qparams_says_is_what_is_used(kind: Any):
    made, faked = kind(), FakeQuantize(observer=kind)
    made(X)
    faked(X)
    want = scale_of(kind)
    for scale in (made.calculate_qparams()[0], made.qparams().scale.reshape(1), faked.scale):
        torch.testing.assert_close(scale, want)
    model = linear(kind)
    prepared: Any = prepare(model)
    prepared(X)
    torch.testing.assert_close(convert(prepared).quant.output_qparams.scale, want[0])
    mapping = QConfigMapping().set_global(model.qconfig)
    graph: Any = prepare_fx(nn.Linear(4, 4).eval(), mapping, (X,))
    graph(X)
    scales = [
        module.output_qparams.scale
        for module in convert_fx(graph).modules()
        if isinstance(module, qlab.nn.quantized.Quantize)
    ]
    torch.testing.assert_close(scales, [want[0]])


def test_a_fake_quantizer_of_anyones_is_asked_too():
    faked = OwnRange(observer=MinMaxObserver)
    y = faked(X)
    assert faked.scale == 0.5 and faked.zero_point == 7
    torch.testing.assert_close(y, torch.fake_quantize_per_tensor_affine(X, 0.5, 7, 0, 255))
    model = linear(OwnRange.with_args(observer=MinMaxObserver)).train()
    model.qconfig = QConfig(
        activation=OwnRange.with_args(observer=MinMaxObserver),
        weight=FakeQuantize.with_args(
            observer=MinMaxObserver, dtype=qlab.qint8, qscheme=qlab.per_tensor_symmetric
        ),
    )
    prepared: Any = prepare_qat(model)
    prepared(X)
    converted: Any = convert(prepared.eval())
    output = converted.quant.output_qparams
    assert output.scale == 0.5 and output.zero_point == 7


def test_a_range_per_channel():
    made = PerChannelMinMaxObserver()
    scale, zero_point = made._calculate_qparams(-torch.ones(3), torch.tensor([1.0, 2.0, 3.0]))
    torch.testing.assert_close(scale, torch.tensor([2.0, 3.0, 4.0]) / 255)
    assert zero_point.dtype == torch.int32 and len(zero_point) == 3
    assert not made.has_customized_qrange
    assert MinMaxObserver(quant_min=0, quant_max=15).has_customized_qrange


def test_an_observer_that_keeps_nothing_says_what_it_lacks():
    class Nothing(UniformQuantizationObserverBase):
        pass

    with pytest.raises(UnsupportedError, match=r"Nothing does not say what it keeps.*observe\(x\)"):
        Nothing()(X)


def test_with_args_for_classes_of_ones_own():
    class Mine:
        with_args = classmethod(_with_args)

        def __init__(self, a: int, b: int = 0) -> None:
            self.sum = a + b

    factory = Mine.with_args(a=1)
    assert factory().sum == 1 and factory.with_args(b=4)().sum == 5
    assert _with_args(factory, a=3)().sum == 3


def test_a_histogram_for_charts():
    made = HistogramObserver(bins=64)
    assert made.histogram.shape == (64,) and not made.histogram.any()
    x = torch.randn(4000, generator=torch.Generator().manual_seed(3))
    made(x)
    made(x + 1)
    both = torch.cat([x, x + 1])
    want = torch.histc(both, 64, float(both.min()), float(both.max()))
    assert made.histogram.dtype == torch.float32
    assert float(made.histogram.sum()) == pytest.approx(8000)
    assert (made.histogram.cumsum(0) - want.cumsum(0)).abs().max() < 8000 * 0.005
