import copy

import pytest
import torch
from torch import nn

import qlab.fake_quantize as fq
from qlab.dtypes import integer, qint8, quint8
from qlab.errors import ArgumentError, UncalibratedError, UnsupportedError
from qlab.fake_quantize import (
    FakeQuantize,
    FixedQParamsFakeQuantize,
    FusedMovingAvgObsFakeQuantize,
)
from qlab.granularity import PerGroup, per_channel_affine_float_qparams, per_tensor_symmetric
from qlab.observers import (
    FixedQParamsObserver,
    HistogramObserver,
    MinMaxObserver,
    MovingAverageMinMaxObserver,
    MovingAveragePerChannelMinMaxObserver,
    PerChannelMinMaxObserver,
    PlaceholderObserver,
    SpecObserver,
    factory_from_dict,
    factory_to_dict,
    spec_of,
)
from qlab.qparams import dequantize, quantize_round_first
from qlab.ranges import TensorSpec

FACTORIES = {
    name: getattr(fq, name)
    for name in fq.__all__
    if name.startswith(("default_", "fused_")) and not name.endswith("observer")
}


@pytest.mark.parametrize("factory", FACTORIES.values(), ids=FACTORIES)
def test_values_are_those_of_the_codes(factory):
    module = factory()
    for scale in (1.0, 2.0):
        x = torch.randn(4, 3, 2) * scale
        y = module(x)
        qparams = module.current_qparams()
        assert torch.equal(y, dequantize(quantize_round_first(x, qparams), qparams))
        for mine, observed in zip(
            (module.scale, module.zero_point), module.calculate_qparams(), strict=True
        ):
            assert torch.allclose(mine, observed, rtol=0.01)
        if not isinstance(module, FusedMovingAvgObsFakeQuantize):
            assert qparams.same_as(module.qparams())


@pytest.mark.parametrize("factory", FACTORIES.values(), ids=FACTORIES)
def test_factories_are_hashable_and_have_a_json_form(factory):
    hash(factory)
    assert factory_from_dict(factory_to_dict(factory)) == factory
    assert spec_of(factory) == factory().spec


@pytest.mark.parametrize(
    ("name", "description"),
    [
        ("default_fake_quant", "uint8 affine per tensor in codes 0 to 127, moving average"),
        ("default_weight_fake_quant", "int8 symmetric per tensor, moving average"),
        ("default_per_channel_weight_fake_quant", "int8 symmetric per channel, moving average"),
        ("default_histogram_fake_quant", "uint8 affine per tensor in codes 0 to 127, least squ"),
        ("default_fused_act_fake_quant", "uint8 affine per tensor, moving average"),
        ("default_fused_wt_fake_quant", "int8 symmetric per tensor, moving average"),
        ("default_fused_per_channel_wt_fake_quant", "int8 symmetric per channel, moving average"),
        ("default_embedding_fake_quant_4bit", "uint4 affine per channel with float zero points"),
        ("fused_wt_fake_quant_range_neg_127_to_127", "symmetric per tensor in codes -127 to 127"),
    ],
)
def test_defaults_mean_what_the_reference_says(name, description):
    assert description in spec_of(FACTORIES[name]).describe()


def test_gradient_is_one_inside_the_range_and_zero_outside():
    module = FakeQuantize(MinMaxObserver)
    module(torch.tensor([-1.0, 1.0]))
    module.disable_observer()
    x = torch.tensor([-2.0, -0.5, 0.3, 2.0], requires_grad=True)
    module(x).sum().backward()
    assert x.grad.tolist() == [0.0, 1.0, 1.0, 0.0]


def test_switches():
    module, x = FakeQuantize(), torch.tensor([-1.0, 0.123])
    model = nn.Sequential(module)
    model.apply(fq.disable_fake_quant)
    assert module(x) is x
    assert module.scale.item() == pytest.approx(1.123 / 255)
    model.apply(fq.enable_fake_quant)
    model.apply(fq.disable_observer)
    before = module.scale.clone()
    module(x * 100)
    assert torch.equal(module.scale, before)
    model.apply(fq.enable_observer)
    module(x * 100)
    assert module.scale > before
    assert (module.fake_quant_enabled.tolist(), module.observer_enabled.tolist()) == ([1], [1])


def test_before_data_scale_is_one():
    module = FakeQuantize()
    module.disable_observer()
    assert module(torch.tensor([0.4, 1.6, 300.0])).tolist() == [0.0, 2.0, 255.0]
    with pytest.raises(UncalibratedError, match="MovingAverageMinMaxObserver has seen no data"):
        module.calculate_qparams()


def test_empty_tensors_pass():
    x = torch.empty(0, 3)
    assert FakeQuantize()(x) is x


def test_fused_affine_is_a_moving_average_with_fake_quantization():
    arguments = {"quant_min": -128, "quant_max": 127, "dtype": qint8, "averaging_constant": 0.3}
    fused = FusedMovingAvgObsFakeQuantize(**arguments)
    plain = FakeQuantize(MovingAverageMinMaxObserver, **arguments)
    for _ in range(3):
        x = torch.randn(5, 4)
        assert torch.allclose(fused(x), plain(x), atol=1e-6)


def test_fused_rounds_by_the_kernel_and_converts_by_the_observer():
    fused = FusedMovingAvgObsFakeQuantize(
        quant_min=-128, quant_max=127, dtype=qint8, qscheme=per_tensor_symmetric
    )
    fused(torch.tensor([-1.0, 3.0]))
    assert fused.scale.item() == pytest.approx(3 / 127)
    assert fused.qparams().scale_value == pytest.approx(3 / 127.5)
    assert fused.zero_point.item() == 0


def test_fixed_parameters_do_not_follow_the_data():
    module = fq.default_fixed_qparams_range_0to1_fake_quant()
    y = module(torch.tensor([-1.0, 0.5, 0.501, 2.0]))
    assert y.tolist() == [0.0, 0.5, 0.5, 255 / 256]
    assert module.calculate_qparams()[0].tolist() == [1 / 256]


@pytest.mark.parametrize(
    "factory",
    [fq.default_per_channel_weight_fake_quant, fq.default_fixed_qparams_range_0to1_fake_quant],
)
def test_state_is_saved_and_loaded(factory):
    module, loaded, x = factory(), factory(), torch.randn(4, 3)
    module(x)
    loaded.load_state_dict(module.state_dict())
    for twin in (loaded, copy.deepcopy(module)):
        twin.disable_observer()
        assert torch.equal(twin(x), module(x))
        assert twin.qparams().same_as(module.qparams())


def test_state_dict_has_the_names_of_the_reference():
    assert set(FakeQuantize().state_dict()) == {
        *("fake_quant_enabled", "observer_enabled", "scale", "zero_point"),
        *(f"activation_post_process.{name}" for name in ("eps", "min_val", "max_val")),
    }


def test_any_spec_can_be_trained_with():
    spec = TensorSpec(integer(4, signed=True), True, PerGroup(2))
    module = FakeQuantize(SpecObserver, spec=spec)
    weight = torch.randn(3, 4, requires_grad=True)
    y = module(weight)
    assert module.scale.shape == (3, 2)
    assert (y - weight).abs().max() <= module.scale.max() / 2 + 1e-6
    y.sum().backward()
    assert weight.grad is not None


def test_attributes_of_the_reference():
    module = fq.default_per_channel_weight_fake_quant()
    assert (module.ch_axis, module.is_per_channel, module.quant_min) == (0, True, -128)
    assert (module.dtype, module.is_dynamic) == (qint8, False)
    assert fq.default_dynamic_fake_quant().is_dynamic
    assert (FakeQuantize().ch_axis, FakeQuantize().dtype) == (-1, quint8)
    assert "quant_min=-128" in repr(module)


def test_keeps_the_dtype_of_its_input():
    assert FakeQuantize()(torch.randn(3, dtype=torch.bfloat16)).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: FakeQuantize(quant_min=0), ArgumentError, "go together"),
        (lambda: FakeQuantize(quant_min=5, quant_max=0), ArgumentError, "does not fit quint8"),
        (lambda: FakeQuantize(PlaceholderObserver), UnsupportedError, "needs an observer"),
        (lambda: FakeQuantize(nn.Identity), UnsupportedError, "needs an observer"),
        (lambda: FixedQParamsFakeQuantize(MinMaxObserver), UnsupportedError, "known beforehand"),
        (
            lambda: FusedMovingAvgObsFakeQuantize(HistogramObserver),
            UnsupportedError,
            "follows a moving average.*Use FakeQuantize",
        ),
        (
            lambda: FusedMovingAvgObsFakeQuantize(
                MovingAveragePerChannelMinMaxObserver, qscheme=per_channel_affine_float_qparams
            ),
            UnsupportedError,
            "with integer zero points",
        ),
        (lambda: FakeQuantize(PerChannelMinMaxObserver, is_dynamic=True), UnsupportedError, "dyna"),
    ],
)
def test_bad_arguments(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_fixed_takes_any_factory_of_fixed_parameters():
    made = FixedQParamsFakeQuantize(FixedQParamsObserver.with_args(scale=0.5, zero_point=1))
    assert made(torch.tensor([0.7])).tolist() == [0.5]
