"""Causes that lie in the data: dead channels, batches that differ, too few samples."""

import math

import pytest
import torch
from torch import nn

import qlab
from qlab import QConfigMapping, TensorSpec
from qlab.analysis.causes import Cause
from qlab.analysis.stability import THRESHOLD_DB
from qlab.dtypes import quint8
from qlab.ranges import MSE, MinMax, MovingAverage, Percentile
from tests.qlab.analysis.diagnosed import (
    DEFAULT,
    MINMAX,
    PER_CHANNEL,
    batches,
    found,
    linear,
    mapping_of,
    quiet,
)


def test_dead_channels_cost_nothing_where_no_policy_counts_them():
    model = nn.Sequential(nn.Linear(16, 16), nn.ReLU())
    with torch.no_grad():
        model[0].weight[:2] = 0
        model[0].bias[:2] = -1
    for mapping in (DEFAULT, MINMAX):
        causes = found(model, mapping)
        assert causes["dead channels", "weight"].value == 2
        assert "saves 32 weights" in causes["dead channels", "weight"].sentence
        dead = causes["dead channels", "activation"]
        assert dead.value >= 2 and "no precision" in dead.sentence
        assert dead.remedy is None and dead.gain == 0 and "Remove" in dead.remedy_label
    assert ("dead channels", "weight") not in found(linear(), DEFAULT)


def test_dead_channels_that_a_percentile_counts_are_left_out_of_its_range():
    model = nn.Sequential(nn.Linear(16, 16), nn.ReLU())
    with torch.no_grad():
        model[0].weight[:12] = model[0].bias[:12] = 0  # zeros: most of what is counted
    data = batches()
    counted = mapping_of(TensorSpec(quint8, policy=Percentile(98.0)), PER_CHANNEL)
    cause = found(model, counted, data)["dead channels", "activation"]
    assert cause.gain is not None and cause.gain > 3
    changed = cause.apply(counted).module_name_qconfigs["0"]
    assert changed is not None and changed.activation_spec.policy == Percentile(99.5)
    alive = nn.Sequential(nn.Linear(16, 4), nn.ReLU())
    with torch.no_grad():
        alive[0].weight[:], alive[0].bias[:] = model[0].weight[12:], model[0].bias[12:]
    scales = []
    for net, mapping in ((model, cause.apply(counted)), (alive, counted)):
        spec = mapping.module_name_qconfigs.get("0") or mapping.global_qconfig
        lab = qlab.Lab(net.eval(), data[0][:1], data)
        scales.append(spec.activation_spec.qparams(lab.statistics("0")).scale_value)
    assert scales[0] == pytest.approx(scales[1], rel=0.01)  # that of the other channels alone


@pytest.mark.parametrize(
    ("scales", "words"),
    [
        ([1, 1, 1, 1, 3, 3, 3, 3], "From batch 4 on"),
        ([3, 3, 3, 3, 1, 1, 1, 1], "Until batch 4"),
        ([1, 1.4, 1.9, 2.7, 3.7, 5.2, 7.2, 10], "From batch"),
        ([1, 1, 1, 1, 1, 20, 1, 1], "Batch 5 reaches"),
    ],
)
def test_batches_that_differ_are_told_apart(scales, words):
    data = [scale * x for scale, x in zip(scales, batches(), strict=True)]
    cause = found(linear(), DEFAULT, data)["non-stationary batches", "activation"]
    assert words in cause.sentence
    assert cause.value >= cause.threshold
    policy = cause.apply(DEFAULT).module_name_qconfigs["0"].activation_spec.policy
    assert policy == MinMax() and cause.gain is not None  # the other range of all batches
    searched = found(linear(), MINMAX, data)["non-stationary batches", "activation"]
    changed = searched.apply(MINMAX).module_name_qconfigs["0"]
    assert changed.activation_spec.policy == MSE() and searched.gain is not None


def test_what_only_the_data_could_measure_has_no_gain_where_it_is_not_there(tmp_path):
    data = [4.0**index * x for index, x in enumerate(batches())]
    lab = qlab.Lab(linear(), data[0], data)
    averaged = mapping_of(TensorSpec(quint8, policy=MovingAverage()), TensorSpec.int8_weight())
    loaded = qlab.load_lab(lab.save(tmp_path / "lab"))
    name = lab.layers[0].name
    gains = [{c.kind: c.gain for c in each.causes(name, averaged)} for each in (lab, loaded)]
    for kind in ("non-stationary batches", "too few samples"):
        assert gains[0].pop(kind) > 0
        assert gains[1].pop(kind) is None
    assert gains[0] == pytest.approx(gains[1])


def test_a_moving_average_that_lags_behind_growing_batches_is_replaced():
    data = [scale * x for scale, x in zip([1, 1, 1, 1, 9, 9, 9, 9], batches(), strict=True)]
    average = TensorSpec.uint8_activation(policy=MovingAverage(0.01))
    cause = found(linear(), mapping_of(average, PER_CHANNEL), data)
    gain = cause["non-stationary batches", "activation"].gain
    assert gain is not None and gain > 6


@pytest.mark.parametrize("seed", range(10))
def test_batches_of_one_distribution_are_steady(seed):
    torch.manual_seed(seed)
    heavy = torch.distributions.StudentT(5.0)
    assert "non-stationary batches" not in quiet(batches())
    assert "non-stationary batches" not in quiet([heavy.sample((64, 16)) for _ in range(8)])


@pytest.mark.parametrize("mapping", [MINMAX, DEFAULT], ids=["min-max", "least squares"])
def test_a_range_that_half_of_the_batches_would_have_given_otherwise_needs_more_data(mapping):
    data = batches(count=2)
    data[1] *= 3
    cause = found(linear(), mapping, data)["too few samples", "activation"]
    assert cause.value > cause.threshold == THRESHOLD_DB
    assert "more data" in cause.remedy_label and "2 batches" in cause.sentence
    assert "too few samples" not in quiet(batches(count=16, size=256), mapping)


def few_samples(lab: qlab.Lab, mapping: QConfigMapping | str) -> Cause:
    return next(c for c in lab.causes("0", mapping) if c.kind == "too few samples")


def test_too_few_samples_by_the_number_of_stability_under_every_policy():
    model, data = linear(), batches(count=4, size=1)
    lab = qlab.Lab(model, data[0], data, batches(count=2, size=256))
    assert lab.stability().settled is False
    for preset in ("int8", "int8-minmax", "int8-per-tensor", "int16-activations"):
        cause = few_samples(lab, preset)
        assert cause.value == lab.stability(preset).table.loc["0", "change"]


def test_the_gain_against_too_few_samples_is_that_on_samples_the_range_has_not_seen():
    model, data = linear(), batches(count=4, size=1)
    evaluation = batches(count=2, size=8)
    lab = qlab.Lab(model, data[0], data, evaluation)
    pairs = [(m, few_samples(lab, m)) for m in (DEFAULT, MINMAX)]  # each the other's remedy
    [(mapping, cause)] = [pair for pair in pairs if pair[1].remedy is not None]
    mappings = mapping, cause.apply(mapping)
    before, after = (lab.compare(m).layers.loc["0", "sqnr_local"] for m in mappings)
    assert cause.gain == pytest.approx(after - before, abs=1e-4) and after > before
    [worse] = [found for _, found in pairs if found.remedy is None]
    assert worse.gain is None and "another range would change −" in worse.remedy_label


def test_without_other_data_half_of_the_batches_judges_the_range_of_the_others():
    spiked = batches(count=2, size=512)
    spiked[1][0, 0] = 30.0  # one value alone decides about the range
    few = found(linear(), mapping_of(TensorSpec(quint8).with_bits(4), PER_CHANNEL), spiked)
    gain = few["too few samples", "activation"].gain
    assert gain is not None and gain > 0.3


def test_one_batch_cannot_tell_whether_it_was_enough():
    cause = found(linear(), DEFAULT, batches(count=1))["too few samples", "activation"]
    assert "Cannot tell from 1 batch" in cause.sentence
    assert math.isnan(cause.value) and cause.remedy is None
    assert "several batches" in cause.remedy_label
