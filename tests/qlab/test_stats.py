"""TensorStats: exact, mergeable in any order, flat in memory."""

import math

import torch

from qlab.stats import TensorStats


def test_moments_and_extrema_are_those_of_the_data():
    x = torch.randn(100_000)
    stats = TensorStats.of(x)
    wide = x.double()
    assert stats.count == x.numel()
    assert torch.equal(stats.min_val, x.min())
    assert torch.equal(stats.max_val, x.max())
    assert math.isclose(stats.mean, float(wide.mean()), rel_tol=1e-12, abs_tol=1e-15)
    assert math.isclose(stats.variance, float(wide.var(unbiased=False)), rel_tol=1e-12)
    assert math.isclose(stats.sum_of_squares, float(wide.square().sum()), rel_tol=1e-12)
