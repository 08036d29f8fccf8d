import pytest
import torch
from torch import nn

from qlab.algorithms.channel_scales import (
    search_activation_aware,
    search_clip,
    search_smoothing,
    smoothing_factors,
)
from qlab.algorithms.moments import Moments
from qlab.dtypes import integer
from qlab.errors import UnsupportedError
from qlab.granularity import PerAxis, PerGroup, PerTensor
from qlab.qparams import fake_quantize
from qlab.ranges import MinMax, TensorSpec

STRENGTHS = [0.25, 0.5, 0.75, 1.0]


def spec_of(bits: int, granularity=None, symmetric: bool = True) -> TensorSpec:
    dtype = integer(bits, signed=True)
    return TensorSpec(dtype, symmetric, granularity or PerAxis(0), MinMax())


def test_the_factors_are_those_of_the_paper():
    inputs, weight = torch.tensor([4.0, 1.0, 0.0]), torch.tensor([[1.0, -9.0, 1.0]])
    found = smoothing_factors(inputs, [weight, weight / 2], 0.5)
    expected = torch.tensor([2.0, 1.0 / 3.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(found, expected)
    strong = smoothing_factors(inputs, [weight], 1.0)
    torch.testing.assert_close(strong, torch.tensor([4.0, 1.0, 1.0], dtype=torch.float64))


def test_smoothing_moves_outliers_of_the_input_into_the_weights():
    x, weights = torch.randn(100, 16), [torch.randn(8, 16), torch.randn(4, 16)]
    outliers = torch.ones(16)
    outliers[3] = 100.0
    weights = [weight / outliers for weight in weights]
    specs = TensorSpec.uint8_activation(), [TensorSpec.int8_weight()] * 2
    found = search_smoothing(x * outliers, weights, specs, STRENGTHS)
    assert found.strength is not None
    assert found.ratio < 1 / 100
    assert found.factors[3] > 20 * found.factors[[0, 1, 2]].max()


def test_nothing_to_gain_leaves_the_inputs_as_they_are():
    x, weight = torch.randn(100, 16), torch.randn(8, 16)
    found = search_smoothing(x, [weight], (None, [None]), STRENGTHS)
    assert found.strength is None
    assert torch.equal(found.factors, torch.ones(16, dtype=torch.float64))
    assert found.errors == found.errors_before


def test_activation_aware_factors_protect_what_loud_inputs_meet():
    layer, x = nn.Linear(32, 16), torch.randn(200, 32)
    x[:, :2] *= 30
    moments, weight = Moments.of(layer, [x]), layer.weight.detach()
    found = search_activation_aware(moments, [weight], [spec_of(4)], STRENGTHS)
    assert found.ratio < 0.95
    assert found.factors[:2].min() > found.factors[2:].max()
    rounded = fake_quantize(w := weight * found.factors.float(), spec_of(4).qparams_of(w))
    change = rounded / found.factors.float() - weight
    noise = (x @ change.T).double().square().sum()
    assert found.errors == (pytest.approx(float(noise), rel=1e-4),)


def test_silent_inputs_need_no_factors():
    layer, x = nn.Linear(4, 2), torch.zeros(3, 4)
    found = search_activation_aware(Moments.of(layer, [x]), [layer.weight], [spec_of(4)], STRENGTHS)
    assert (found.strength, found.errors) == (None, (0.0,))


@pytest.mark.parametrize("granularity", [PerTensor(), PerAxis(0), PerGroup(8)], ids=str)
@pytest.mark.parametrize("symmetric", [True, False])
def test_a_cut_range_costs_the_output_less(granularity, symmetric):
    layer, x = nn.Linear(32, 12), torch.randn(100, 32)
    with torch.no_grad():
        layer.weight[:, 1] *= 4
        x[:, 1] *= 0.01  # a large weight that matters little
    moments, spec = Moments.of(layer, [x]), spec_of(3, granularity, symmetric)
    plain, cut = spec.qparams_of(layer.weight), search_clip(layer.weight, moments, spec)
    before, after = (
        moments.errors(fake_quantize(layer.weight, q) - layer.weight).sum() for q in (plain, cut)
    )
    assert cut.scale.shape == plain.scale.shape
    assert after < 0.8 * before


def test_each_output_channel_is_cut_on_its_own_and_never_for_the_worse():
    layer, x = nn.Conv2d(4, 8, 3), torch.randn(10, 4, 6, 6)
    moments, spec = Moments.of(layer, [x]), spec_of(4)
    plain, cut = spec.qparams_of(layer.weight), search_clip(layer.weight, moments, spec)
    before, after = (
        moments.errors(fake_quantize(layer.weight, q) - layer.weight) for q in (plain, cut)
    )
    assert (after <= before).all()
    assert (after < before).any()
    assert (cut.scale <= plain.scale).all()


def test_other_granularities_are_refused():
    layer = nn.Linear(8, 8)
    moments = Moments.of(layer, [torch.randn(4, 8)])
    with pytest.raises(UnsupportedError, match="output channel, or group of inputs"):
        search_clip(layer.weight, moments, spec_of(4, PerAxis(1)))
