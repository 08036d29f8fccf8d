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
    QuantizationError,
    TensorSpec,
    expected_error,
    histogram_error,
    measured_error,
)
from qlab.stats import TensorStats

POLICIES = (MinMax(), MovingAverage(), Percentile(), Percentile(99.0), MSE(), Entropy())
BITS = range(3, 9)
SAMPLES = 32
CHANNELS = 32


def _specs(turn: int | None = None):
    """Every width and scheme, each under every policy; with ``turn`` under one, another next."""
    for width, bits in enumerate(BITS):
        for symmetric in (False, True):
            at = None if turn is None else (turn + width + 3 * symmetric) % len(POLICIES)
            for policy in POLICIES if at is None else POLICIES[at : at + 1]:
                yield TensorSpec(integer(bits, signed=symmetric), symmetric, policy=policy)


def _half_of_specs(turn: int):
    """Every width under every policy, with one scheme or the other, by turns."""
    for number, spec in enumerate(_specs()):
        if (turn + number // len(POLICIES) + number // (2 * len(POLICIES))) % 2:
            yield spec


def _off(expected: QuantizationError, measured: QuantizationError) -> float:
    """How far a prediction is off; 0 where both see no error."""
    return abs(expected.total - measured.total) / (measured.total or 1.0)


@pytest.mark.parametrize("name", sample_models.names(trained=True))
def test_of_every_observable_tensor(name: str):
    sample = sample_models.load(name)
    data = sample.calibration(SAMPLES, SAMPLES)
    lab = qlab.Lab(sample.model, sample.example_inputs, data)
    statistics = lab.calibrate().statistics
    _, values = GraphRunner(lab.graph, statistics).collect((data[0],))
    far = []
    for index, (node, stats) in enumerate(statistics.items()):
        for spec in _half_of_specs(index):
            qparams = spec.qparams(stats)
            measured = measured_error(values[node], qparams)
            few = stats.values is not None
            off = _off(expected_error(stats, qparams), measured)
            # Calibration convolves in another order of memory, hence 1e-5. Of few values the
            # histogram is not asked; it is seldom off by more than 1 % even so.
            from_histogram = _off(histogram_error(stats, qparams), measured)
            if off > (1e-5 if few else 0.01) or from_histogram > 0.015:
                far.append((node, spec.describe(), off, from_histogram))
    assert not far


@pytest.mark.parametrize("samples", [8, 32, 256])
def test_of_few_values_it_is_the_measured_error(samples: int):
    statistics, values = _mlp(samples)
    for node in ("fc1", "fc2"):
        for spec in _specs():
            qparams = spec.qparams(statistics[node])
            expected = expected_error(statistics[node], qparams).total
            measured = measured_error(values[node], qparams).total
            assert expected == pytest.approx(measured, rel=1e-12)


@pytest.mark.parametrize(("samples", "bound"), [(8, 0.03), (32, 0.02), (256, 0.01)])
def test_of_few_values_the_histogram_alone_is_as_good_as_it_states(samples: int, bound: float):
    """With few values in a bin, chance places them."""
    statistics, values = _mlp(samples)
    for node in ("fc1", "fc2"):
        for spec in _specs():
            qparams = spec.qparams(statistics[node])
            expected = histogram_error(statistics[node], qparams).total
            assert expected == pytest.approx(measured_error(values[node], qparams).total, bound)


def _mlp(samples: int):
    """Statistics and values of the MLP's tensors by node."""
    sample = sample_models.load("mlp")
    data = sample.calibration(samples, samples)
    lab = qlab.Lab(sample.model, sample.example_inputs, data)
    statistics = lab.calibrate().statistics
    return statistics, GraphRunner(lab.graph, statistics).collect((data[0],))[1]


@pytest.mark.parametrize("name", sample_models.names(trained=True))
def test_of_every_weight(name: str):
    sample = sample_models.load(name)
    lab = qlab.Lab(sample.model, sample.example_inputs, sample.calibration(1))
    weights = [step.name for step in lab.plan().steps if step.weight]
    far = []
    for index, layer in enumerate(weights):
        weight, stats = lab.weight(layer), lab.statistics(layer, "weight")
        for spec in _specs(index):
            qparams = spec.qparams_of(weight)
            if _off(histogram_error(stats, qparams), measured_error(weight, qparams)) > 0.01:
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
        histogram_error(stats, QParams.per_tensor(scale, zero, qparams.dtype)).total
        for stats, scale, zero in scales
    )
    measured = measured_error(weight, qparams).total
    return abs(expected - measured) > 0.01 * measured
