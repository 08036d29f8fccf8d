"""The reference's three error functions: formulas, containers, edge cases."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import qlab
from qlab.analysis.suite.metrics import (
    compute_cosine_similarity,
    compute_normalized_l2_error,
    compute_sqnr,
)
from qlab.errors import DTypeError, ShapeError

ALL = [compute_sqnr, compute_normalized_l2_error, compute_cosine_similarity]


@given(st.integers(0, 2**32 - 1), st.floats(0.01, 10))
def test_they_follow_their_formulas(seed: int, size: float):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    y = x + size * torch.randn(3, 4, generator=generator, dtype=torch.float64)
    signal, noise = x.norm(), (x - y).norm()
    expected = [20 * torch.log10(signal / noise), noise / signal, (x * y).sum() / signal / y.norm()]
    for measure, value in zip(ALL, expected, strict=True):
        found = measure(x, y)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double().reshape(()), value, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("measure", ALL)
def test_quantized_tensors_are_taken_as_what_they_mean(measure):
    x = torch.randn(5, 6)
    y = qlab.quantize_per_tensor(x, 0.05, 128, qlab.quint8)
    assert torch.equal(measure(x, y), measure(x, y.dequantize()))
    assert torch.equal(measure(y, x), measure(y.dequantize(), x))


@pytest.mark.parametrize("measure", ALL)
def test_tuples_and_lists_are_compared_part_by_part(measure):
    a, b = torch.randn(2, 3), torch.randn(2, 3)
    found = measure((a, [b, a]), [b, (b, a)])
    assert torch.equal(found[0], measure(a, b))
    assert torch.equal(found[1][1], measure(a, a))


def test_shapes_of_the_answers():
    x = torch.randn(4)
    assert [tuple(measure(x, x + 1).shape) for measure in ALL] == [(), (), (1,)]


def test_cosine_reads_weights_with_an_axis_more():
    x = torch.randn(4, 3, 2)
    assert compute_cosine_similarity(x, x.unsqueeze(2)) == 1


def test_equal_and_zero_tensors_have_a_value():
    x, zero = torch.randn(3), torch.zeros(3)
    assert compute_sqnr(x, x) == math.inf
    assert compute_sqnr(zero, zero) == math.inf
    assert compute_sqnr(zero, x) == -math.inf
    assert compute_normalized_l2_error(zero, zero) == 0


@pytest.mark.parametrize("measure", ALL)
def test_whole_numbers_and_nan(measure):
    whole, broken = torch.arange(3), torch.tensor([1.0, math.nan, 2.0])
    assert measure(whole, whole) is None
    assert measure(broken, broken).isnan().all()


def test_they_stay_on_the_device(device: torch.device):
    x = torch.randn(3, device=device)
    assert all(measure(x, x + 1).device == x.device for measure in ALL)


def test_what_cannot_be_compared():
    with pytest.raises(ShapeError, match=r"one shape.*\(3,\).*\(4,\)"):
        compute_sqnr(torch.zeros(3), torch.zeros(4))
    with pytest.raises(DTypeError, match=r"compute_sqnr: two tensors.*Tensor and tuple"):
        compute_sqnr(torch.zeros(3), (torch.zeros(3),))
