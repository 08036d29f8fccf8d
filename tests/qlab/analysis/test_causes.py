"""Each cause on data made so that it is the cause, its remedy measured; and where it is none."""

import math

import pytest
import torch
from torch import Tensor, nn

import qlab
import sample_models
from qlab import QConfigMapping, TensorSpec
from qlab.analysis.cause_finders import FINDERS
from qlab.analysis.causes import Cause
from qlab.dtypes import qint8, quint8
from qlab.errors import DTypeError, UnknownNameError, UnsupportedError
from qlab.granularity import PerAxis
from qlab.qconfig import qconfig_of
from qlab.ranges import MSE, MinMax, Percentile
from tests.qlab.analysis.diagnosed import (
    DEFAULT,
    MINMAX,
    PER_CHANNEL,
    PER_TENSOR,
    SEARCHED,
    batches,
    check,
    found,
    linear,
    mapping_of,
    quiet,
)


def test_an_even_layer_has_no_cause_of_its_own():
    data = batches(count=16, size=256)
    assert quiet(data) <= {"quantized input"}
    assert quiet(data, MINMAX) <= {"quantized input"}


def test_one_far_channel_of_a_weight_is_an_outlier_and_one_scale_per_channel_helps():
    model = linear()
    with torch.no_grad():
        model[0].weight[3] *= 40
    causes = found(model, mapping_of(SEARCHED.with_bits(16), PER_TENSOR))
    cause = causes["outlier channels", "weight"]
    assert cause.value == pytest.approx(40, rel=0.3)
    assert "1 of 16 weight channels reaches" in cause.sentence
    assert ("channel spread", "weight") not in causes
    assert cause.gain is not None  # the far channel carries the signal: all others are below it
    changed = cause.apply(mapping_of(SEARCHED.with_bits(16), PER_TENSOR))
    assert changed.module_name_qconfigs["0"].weight_spec.granularity == PerAxis(0)
    named = qlab.presets.get("int8-per-tensor").mapping()
    assert cause.apply("int8-per-tensor").to_dict() == cause.apply(named).to_dict()
    for other in (None, 3):
        with pytest.raises(DTypeError, match=r"Not a configuration.*the name of a preset"):
            cause.apply(other)


def test_channels_of_all_sizes_are_a_spread_and_one_scale_per_channel_helps():
    model = linear()
    with torch.no_grad():
        model[0].weight *= torch.logspace(-1.2, 0, 16)[:, None]
    cause = found(model, mapping_of(SEARCHED, PER_TENSOR))["channel spread", "weight"]
    assert cause.value >= cause.threshold
    assert "share one scale" in cause.sentence
    assert cause.remedy_label == "Use one scale per channel"
    assert cause.gain is not None and cause.gain > 0
    assert ("channel spread", "weight") not in found(model, DEFAULT)


def test_small_activation_channels_get_more_bits_as_one_scale_is_all_that_kernels_take():
    model = linear()
    with torch.no_grad():
        model[0].weight *= torch.logspace(-1.5, 0, 16)[:, None]
    cause = found(model, DEFAULT)["channel spread", "activation"]
    assert cause.gain is not None and cause.gain > 1
    changed = cause.apply(DEFAULT).module_name_qconfigs["0"]
    assert changed is not None and changed.activation_spec.dtype.bits == 16
    assert "16 bits" in cause.remedy_label and "equalization" in cause.remedy_label
    wide = found(model, mapping_of(SEARCHED.with_bits(16), PER_CHANNEL))
    assert wide["channel spread", "activation"].remedy is None
    with pytest.raises(UnsupportedError, match=r"avoids the cause.*[^.]\. [A-Z]") as caught:
        wide["channel spread", "activation"].apply(DEFAULT)
    assert ".." not in str(caught.value)
    searched = found(model, MINMAX)["channel spread", "activation"]
    assert searched.gain is not None


def test_a_far_activation_channel_is_an_outlier():
    model = linear()
    with torch.no_grad():
        model[0].weight[0] *= 30
    cause = found(model, DEFAULT)["outlier channels", "activation"]
    assert cause.value > 8
    assert cause.gain is not None and "16 bits" in cause.remedy_label


def test_a_side_of_zero_that_is_never_used_costs_a_bit():
    symmetric = mapping_of(TensorSpec(qint8, symmetric=True), PER_CHANNEL)
    model = nn.Sequential(nn.Linear(16, 16), nn.ReLU())
    cause = found(model, symmetric)["unused sign range", "activation"]
    assert cause.value == 1.0
    assert cause.gain is not None and 1 < cause.gain < 7
    assert ("unused sign range", "activation") not in found(linear(), symmetric)
    assert ("unused sign range", "activation") not in found(model, MINMAX)


def test_a_tail_that_min_max_stretches_to_is_found_and_least_squares_helps():
    model, data = linear(), batches()
    with torch.no_grad():
        model[0].weight[:] = torch.eye(16)
    data[0][0, 0] = 60.0
    data[1][0, 0] = -60.0
    spec = TensorSpec(quint8).with_bits(4)
    cause = found(model, mapping_of(spec, PER_CHANNEL), data)["heavy tail", "activation"]
    assert cause.value > 10
    assert cause.gain is not None
    assert ("heavy tail", "activation") not in found(model, DEFAULT, data)


def test_a_heavy_tail_of_a_weight_is_cut_where_that_helps():
    model = linear(64, 64)
    with torch.no_grad():
        model[0].weight[:] = torch.randn(64, 64) * 0.1
        model[0].weight[5, 7] = 3.0
    spec = TensorSpec(qint8, symmetric=True).with_bits(4)
    activation = SEARCHED.with_bits(16)
    causes = found(model, mapping_of(activation, spec), batches(features=64))
    cause = causes["heavy tail", "weight"]
    assert cause.gain is not None and cause.gain > 0


def test_a_range_that_clips_most_of_the_error_away_is_widened():
    tight = TensorSpec.uint8_activation(policy=Percentile(90.0))
    cause = found(linear(), mapping_of(tight, PER_CHANNEL))["clipping", "activation"]
    assert cause.value > 0.9
    assert cause.gain is not None and cause.gain > 3
    assert ("clipping", "activation") not in found(linear(), MINMAX)


def test_few_bits_are_told_and_eight_help():
    four = mapping_of(SEARCHED, PER_CHANNEL.with_bits(4))
    cause = found(linear(), four)["few bits", "weight"]
    assert (cause.value, cause.threshold) == (4, 8)
    assert "16 codes" in cause.sentence
    assert cause.gain is not None and cause.gain > 6
    assert ("few bits", "weight") not in found(linear(), DEFAULT)


class Joined(nn.Module):
    """Two branches of which one is far smaller."""

    def __init__(self, how: str, small: float) -> None:
        super().__init__()
        self.how = how
        self.a, self.b = nn.Linear(16, 16, bias=False), nn.Linear(16, 16, bias=False)
        with torch.no_grad():
            self.b.weight *= small

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.a(x), self.b(x)
        return a + b if self.how == "add" else torch.cat([a, b], 1)


@pytest.mark.parametrize("how", ["add", "cat"])
def test_operands_that_reach_unevenly_far_are_named_and_more_bits_help(how):
    cause = found(Joined(how, 0.02), DEFAULT, layer=how)["uneven operands", "activation"]
    assert cause.value == pytest.approx(50, rel=0.5)
    assert "'a' reaches" in cause.sentence and "'b'" in cause.sentence
    assert cause.gain is not None and cause.gain > 0
    assert ("uneven operands", "activation") not in found(Joined(how, 0.5), DEFAULT, layer=how)


def test_error_that_comes_in_with_the_input_is_mended_where_the_input_is_made():
    model = nn.Sequential(nn.Linear(16, 16), nn.GELU(), nn.Linear(16, 16))
    mapping = DEFAULT.copy().set_module_name("1", qconfig_of(SEARCHED.with_bits(4), None))
    cause = found(model, mapping, layer="2")["quantized input", "input"]
    assert cause.value > 0.9
    assert "'1' asks" in cause.sentence
    assert cause.gain is not None and cause.gain > 6
    changed = cause.apply(mapping)
    assert changed.module_name_qconfigs["1"].activation_spec.dtype.bits == 16
    assert "2" not in changed.module_name_qconfigs


def test_a_network_s_own_input_is_decided_with_the_first_layer():
    four = mapping_of(TensorSpec(quint8).with_bits(4), PER_CHANNEL)
    first = mapping_of(SEARCHED.with_bits(4), PER_CHANNEL)
    model = nn.Sequential(nn.Linear(16, 16), nn.ReLU())  # half the range: less error than its input
    assert "input and output" in found(model, four)["quantized input", "input"].remedy_label
    assert found(model, first)["quantized input", "input"].remedy_label.startswith("16 bits")


def test_remedies_add_up_on_one_layer_and_keep_what_a_person_set():
    lab = qlab.Lab(linear(), batches()[0][:1], batches())
    poor = mapping_of(
        TensorSpec.uint8_activation(policy=Percentile(90.0)), PER_CHANNEL.with_bits(3)
    )
    by_kind = {cause.kind: cause for cause in lab.causes("0", poor)}
    both = by_kind["clipping"].apply(by_kind["few bits"].apply(poor))
    qconfig = both.module_name_qconfigs["0"]
    assert qconfig.weight_spec.dtype.bits == 8
    assert qconfig.activation_spec.policy == MSE()
    kept_float = poor.copy().set_module_name("0", None)
    assert by_kind["few bits"].apply(kept_float).module_name_qconfigs["0"] is not None


def test_what_gains_stands_first_what_gains_nothing_last_and_the_gain_is_real():
    model = nn.Sequential(nn.Linear(16, 16), nn.ReLU())
    with torch.no_grad():
        model[0].weight[:2] = 0
        model[0].bias[:2] = -1
    data = batches()
    lab = qlab.Lab(model, data[0][:1], data)
    poor = mapping_of(TensorSpec(qint8, symmetric=True, policy=MinMax()), PER_CHANNEL.with_bits(4))
    causes = lab.causes("0", poor)
    gains = [cause.gain for cause in causes]
    ranks = [1 if gain is None else 0 if gain > 0 else 2 for gain in gains]
    assert ranks == sorted(ranks)
    measured = [gain for gain in gains if gain is not None and gain > 0]
    assert len(measured) > 1 and measured == sorted(measured, reverse=True)
    best = causes[0]
    before, after = (lab.compare(m).layers.loc["0", "sqnr_local"] for m in (poor, best.apply(poor)))
    assert after - before == pytest.approx(best.gain, abs=1.0)


def test_a_layer_in_float_or_without_error_has_no_cause():
    lab = qlab.Lab(linear(), batches()[0][:1], batches())
    assert lab.causes("0", QConfigMapping()) == ()
    with pytest.raises(UnknownNameError, match="nowhere"):
        lab.causes("nowhere")


def test_a_remedy_gains_nothing_where_there_was_no_error():
    model = nn.Sequential(nn.Linear(16, 16), nn.ReLU())
    with torch.no_grad():
        model[0].weight.zero_()
        model[0].bias.fill_(-100)
    gains = [c.gain for c in found(model, MINMAX).values() if c.gain is not None]
    assert gains and all(gain == 0 for gain in gains)


def test_a_constant_error_of_each_channel_is_one_that_a_bias_takes_back():
    x = 1 + 0.05 * torch.randn(64, 16, generator=torch.Generator().manual_seed(0))
    lab = qlab.Lab(linear(), x[:1], [x])
    mapping = mapping_of(SEARCHED.with_bits(16), PER_CHANNEL.with_bits(4))
    causes = {cause.kind: cause for cause in lab.causes("0", mapping)}
    cause = causes["mean shift"]
    check(lab, cause, mapping)
    assert 0.9 < cause.value <= 1 and cause.remedy is None
    assert cause.algorithms == ("bias_correction",)
    better = lab.apply(lab.repair_with("bias_correction", mapping))
    assert "mean shift" not in {cause.kind for cause in better.causes("0", mapping)}
    assert "mean shift" not in quiet()


def test_every_cause_of_the_table_has_its_case_here():
    kinds = {
        "outlier channels", "channel spread", "unused sign range", "heavy tail", "clipping",
        "few bits", "dead channels", "non-stationary batches", "too few samples",
        "uneven operands", "quantized input", "mean shift",
    }  # fmt: skip
    assert len(FINDERS) == len(kinds)


def test_the_depthwise_net_is_brought_back_by_applying_what_its_causes_say():
    sample = sample_models.load("depthwise")
    lab = qlab.Lab(sample.model, sample.example_inputs, sample.calibration(), sample.evaluation())
    start = mapping = qlab.presets.get("int8-per-tensor").mapping()
    kinds = set()
    for layer in lab.layers:
        for cause in lab.causes(layer.name, start):
            if cause.tensor == "weight" and cause.gain is not None and cause.gain > 0:
                kinds.add(cause.kind)
                mapping = cause.apply(mapping)
    assert "channel spread" in kinds
    before, after = lab.compare(start).output, lab.compare(mapping).output
    assert before["float_accuracy"] - before["accuracy"] >= 5.0
    assert after["float_accuracy"] - after["accuracy"] <= 1.0
    assert math.isfinite(after["sqnr"]) and after["sqnr"] > before["sqnr"] + 6


def test_one_call_gives_every_layer_of_the_depthwise_net_the_remedy_of_its_worst():
    sample = sample_models.load("depthwise")
    lab = qlab.Lab(sample.model, sample.example_inputs, sample.calibration(), sample.evaluation())
    before = lab.compare("int8-per-tensor")
    worst = str(before.layers["sqnr_local"].idxmin())
    cause = lab.causes(worst, "int8-per-tensor")[0]
    assert (cause.kind, cause.tensor) == ("channel spread", "weight")
    mapping = lab.remedy(cause, "int8-per-tensor")
    after = lab.compare(mapping).output
    assert after["float_accuracy"] - before.output["accuracy"] >= 5.0
    assert after["float_accuracy"] - after["accuracy"] <= 1.0
    changed = [step.name for step in lab.plan(mapping).steps if "name" in step.rule]
    assert worst in changed and "fc" not in changed  # whose channels share a scale well


def test_a_cause_without_a_remedy_changes_no_layer():
    cause = Cause("too few samples", "fc", "activation", 1.0, 0.5, "It moves.", None, "More data")
    sample = sample_models.load("mlp")
    lab = qlab.Lab(sample.model, sample.example_inputs, sample.calibration(16))
    with pytest.raises(UnsupportedError, match="No change of the configuration avoids"):
        lab.remedy(cause)
