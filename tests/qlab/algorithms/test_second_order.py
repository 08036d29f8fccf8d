import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from qlab.algorithms.moments import Moments
from qlab.algorithms.second_order import round_second_order
from qlab.dtypes import integer, qint8
from qlab.errors import ArgumentError, NonFiniteError
from qlab.granularity import PerAxis, PerGroup, PerTensor
from qlab.qparams import dequantize, quantize
from qlab.ranges import MSE, TensorSpec

GRANULARITIES = [PerTensor(), PerAxis(0), PerGroup(8)]


def correlated(samples: int, inputs: int) -> torch.Tensor:
    return torch.randn(samples, inputs) @ torch.randn(inputs, inputs)


def spec_of(bits: int, granularity, symmetric: bool = True) -> TensorSpec:
    return TensorSpec(integer(bits, signed=True), symmetric, granularity, MSE())


@pytest.mark.parametrize("granularity", GRANULARITIES, ids=str)
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_it_beats_the_nearest_codes_on_the_output_and_stays_on_the_grid(
    bits, symmetric, granularity
):
    layer, x = nn.Linear(32, 12), correlated(200, 32)
    qparams = spec_of(bits, granularity, symmetric).qparams_of(layer.weight)
    found = round_second_order(layer.weight, Moments.of(layer, [x]), qparams)
    if bits < 8:  # at 8 bits, weights moved beyond a group's range of 8 weights lose what was won
        assert found.errors.sum() < 0.9 * found.nearest_errors.sum()
    assert (found.errors <= found.nearest_errors).all()
    torch.testing.assert_close(dequantize(quantize(found.weight, qparams), qparams), found.weight)
    with torch.no_grad():
        error = (x @ (found.weight - layer.weight).T).double().square().sum(0)
    torch.testing.assert_close(found.errors, error, rtol=1e-4, atol=1e-6)


def test_independent_inputs_of_equal_power_leave_nothing_to_make_up_for():
    layer = nn.Linear(8, 4)
    qparams = spec_of(3, PerAxis(0)).qparams_of(layer.weight)
    found = round_second_order(layer.weight, Moments.of(layer, [torch.eye(8)]), qparams)
    nearest = dequantize(quantize(layer.weight, qparams), qparams)
    assert torch.equal(found.weight, nearest)
    assert found.kept_nearest.all()


def test_two_equal_inputs_share_their_error():
    layer = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.4, 0.4]]))
    qparams = TensorSpec(qint8, True).choose(torch.tensor(-127.5), torch.tensor(127.5))
    assert float(qparams.scale) == 1.0
    found = round_second_order(layer.weight, Moments.of(layer, [torch.ones(5, 2)]), qparams)
    assert found.weight.sum() == 1.0  # 0.4 + 0.4 is nearer to 1 than to the nearest codes' 0


@settings(max_examples=20)
@given(st.integers(0, 2**31), st.integers(1, 40))
def test_the_block_size_changes_nothing(seed, block):
    torch.manual_seed(seed)
    layer = nn.Linear(24, 6)
    moments = Moments.of(layer, [correlated(100, 24)])
    qparams = spec_of(4, PerAxis(0)).qparams_of(layer.weight)
    whole = round_second_order(layer.weight, moments, qparams, block=24)
    assert torch.equal(
        round_second_order(layer.weight, moments, qparams, block=block).weight, whole.weight
    )


def test_the_order_matters_where_inputs_differ():
    layer, x = nn.Linear(32, 12), correlated(200, 32) * torch.logspace(-1, 1, 32)
    qparams, moments = spec_of(3, PerAxis(0)).qparams_of(layer.weight), Moments.of(layer, [x])
    first, ordered = (
        round_second_order(layer.weight, moments, qparams, act_order=order)
        for order in (False, True)
    )
    assert ordered.errors.sum() < first.errors.sum()


@pytest.mark.parametrize(
    ("layer", "x"),
    [
        (nn.Conv2d(8, 12, 3, groups=4, padding=1), torch.randn(16, 8, 9, 9)),
        (nn.Conv2d(8, 8, 3, groups=8), torch.randn(16, 8, 9, 9)),
        (nn.Conv1d(8, 6, 3), torch.randn(16, 8, 20)),
    ],
    ids=["grouped", "depthwise", "conv1d"],
)
def test_convolutions_are_rounded_group_by_group(layer, x):
    x = x.cumsum(-1) / 4  # neighbours alike
    qparams = spec_of(3, PerAxis(0)).qparams_of(layer.weight)
    found = round_second_order(layer.weight, Moments.of(layer, [x]), qparams)
    assert found.weight.shape == layer.weight.shape
    assert found.errors.sum() < 0.9 * found.nearest_errors.sum()


def test_inputs_that_are_always_zero_and_too_few_samples_are_no_obstacle():
    layer, x = nn.Linear(16, 4), torch.randn(3, 16)
    x[:, 5] = 0
    qparams = spec_of(4, PerAxis(0)).qparams_of(layer.weight)
    found = round_second_order(layer.weight, Moments.of(layer, [x]), qparams)
    assert found.weight.isfinite().all()
    assert found.errors.sum() < found.nearest_errors.sum()
    nothing = round_second_order(layer.weight, Moments.of(layer, [torch.zeros(3, 16)]), qparams)
    assert nothing.kept_nearest.all()


@pytest.mark.parametrize("wrong", [{"damping": 0.0}, {"block": 0}])
def test_settings_must_be_positive(wrong):
    layer = nn.Linear(4, 2)
    qparams = spec_of(4, PerAxis(0)).qparams_of(layer.weight)
    with pytest.raises(ArgumentError, match="damping and block must be positive"):
        round_second_order(layer.weight, Moments.of(layer, [torch.ones(2, 4)]), qparams, **wrong)


def test_nan_is_refused():
    layer = nn.Linear(4, 2)
    qparams = spec_of(4, PerAxis(0)).qparams_of(layer.weight)
    moments = Moments.of(layer, [torch.full((2, 4), torch.nan)])
    with pytest.raises(NonFiniteError, match="weights and inputs must be finite"):
        round_second_order(layer.weight, moments, qparams)
