"""The error that statistics predict is, within 1 %, the error measured on the data."""

import pytest
from torch import Tensor

import qlab
import sample_models
from qlab.dtypes import integer
from qlab.execution import GraphRunner
from qlab.granularity import PerAxis
from qlab.qparams import QParams
from qlab.ranges import (
    MSE,
    Entropy,
    MinMax,
    MovingAverage,
    Percentile,
    TensorSpec,
    expected_error,
    measured_error,
)
from qlab.stats import TensorStats

POLICIES = (MinMax(), MovingAverage(), Percentile(), Percentile(99.0), MSE(), Entropy())
BITS = range(3, 9)
SAMPLES = 32
CHANNELS = 32


def _schemes(index: int):
    """Every width and scheme, each with a policy; another one for the next tensor."""
    for turn, bits in enumerate(BITS):
        for symmetric in (False, True):
            policy = POLICIES[(index + turn + 3 * symmetric) % len(POLICIES)]
            yield TensorSpec(integer(bits, signed=symmetric), symmetric, policy=policy)


def _far(stats: TensorStats, x: Tensor, qparams: QParams) -> bool:
    expected, measured = expected_error(stats, qparams), measured_error(x, qparams)
    return abs(expected.total - measured.total) > 0.01 * measured.total


@pytest.mark.parametrize("name", sample_models.names(trained=True))
def test_of_every_observable_tensor(name: str):
    sample = sample_models.load(name)
    data = sample.calibration(SAMPLES, SAMPLES)
    lab = qlab.Lab(sample.model, sample.example_inputs, data)
    statistics = lab.calibrate().statistics
    _, values = GraphRunner(lab.graph, statistics).collect((data[0],))
    far = [
        (node, spec.describe())
        for index, (node, stats) in enumerate(statistics.items())
        for spec in _schemes(index)
        if _far(stats, values[node], spec.qparams(stats))
    ]
    assert not far


@pytest.mark.parametrize(("samples", "bound"), [(8, 0.03), (32, 0.02), (256, 0.01)])
def test_of_few_values_under_every_policy(samples: int, bound: float):
    """The limit that `expected_error` states: with few values in a bin, chance places them."""
    sample = sample_models.load("mlp")
    data = sample.calibration(samples, samples)
    lab = qlab.Lab(sample.model, sample.example_inputs, data)
    statistics = lab.calibrate().statistics
    _, values = GraphRunner(lab.graph, statistics).collect((data[0],))
    for node in ("fc1", "fc2"):
        for bits in BITS:
            for policy in POLICIES:
                spec = TensorSpec(integer(bits, signed=False), policy=policy)
                qparams = spec.qparams(statistics[node])
                expected = expected_error(statistics[node], qparams).total
                assert expected == pytest.approx(measured_error(values[node], qparams).total, bound)


@pytest.mark.parametrize("name", sample_models.names(trained=True))
def test_of_every_weight(name: str):
    sample = sample_models.load(name)
    lab = qlab.Lab(sample.model, sample.example_inputs, sample.calibration(1))
    weights = [step.name for step in lab.plan().steps if step.weight]
    far = []
    for index, layer in enumerate(weights):
        weight, stats = lab.weight(layer), lab.statistics(layer, "weight")
        for spec in _schemes(index):
            if _far(stats, weight, spec.qparams_of(weight)):
                far.append((layer, spec.describe()))
        rows = [TensorStats.of(row) for row in weight[:CHANNELS]]
        for bits in (BITS[index % 3], BITS[index % 3 + 3]):
            spec = TensorSpec(integer(bits, signed=True), True, PerAxis(0))
            if _far_per_channel(rows, weight[:CHANNELS], spec.qparams_of(weight[:CHANNELS])):
                far.append((layer, spec.describe()))
    assert weights
    assert not far


def _far_per_channel(rows: list[TensorStats], weight: Tensor, qparams: QParams) -> bool:
    """Whether the sum of what each channel's own statistics predict is off."""
    scales = zip(rows, qparams.scale.tolist(), qparams.zero_point.tolist(), strict=True)
    expected = sum(
        expected_error(stats, QParams.per_tensor(scale, zero, qparams.dtype)).total
        for stats, scale, zero in scales
    )
    measured = measured_error(weight, qparams).total
    return abs(expected - measured) > 0.01 * measured
