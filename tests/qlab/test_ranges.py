"""Specs, policies, and the error that statistics predict."""

import json

import pytest
import torch

from qlab import ranges
from qlab.dtypes import integer
from qlab.ranges import MSE, Entropy, MinMax, Percentile, TensorSpec
from qlab.stats import TensorStats


@pytest.mark.parametrize("policy", [MinMax(), Percentile(), MSE(), Entropy()], ids=lambda p: p.name)
@pytest.mark.parametrize("bits", [3, 4, 5, 6, 7, 8])
def test_the_expected_error_is_the_measured_one(policy, bits: int):
    x = torch.randn(100_000)
    stats = TensorStats.of(x)
    qparams = TensorSpec(integer(bits, signed=False), policy=policy).qparams(stats)
    expected = ranges.expected_error(stats, qparams)
    measured = ranges.measured_error(x, qparams)
    assert expected.total == pytest.approx(measured.total, rel=0.01)


def test_specs_survive_json():
    spec = TensorSpec.int8_weight(policy=Percentile(99.9))
    assert TensorSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
