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
from qlab.analysis.stability import THRESHOLD_DB
from qlab.dtypes import qint8, quint8
from qlab.errors import UnknownNameError, UnsupportedError
from qlab.granularity import PerAxis
from qlab.qconfig import qconfig_of
from qlab.ranges import MSE, MinMax, MovingAverage, Percentile

PER_TENSOR = TensorSpec(qint8, symmetric=True)
PER_CHANNEL = TensorSpec.int8_weight()
SEARCHED = TensorSpec.uint8_activation(policy=MSE())


def mapping_of(activation: TensorSpec | None, weight: TensorSpec | None) -> QConfigMapping:
    return QConfigMapping().set_global(qconfig_of(activation, weight))


DEFAULT = mapping_of(SEARCHED, PER_CHANNEL)
MINMAX = mapping_of(TensorSpec(quint8), PER_CHANNEL)


def batches(count: int = 8, size: int = 64, features: int = 16) -> list[Tensor]:
    return [torch.randn(size, features) for _ in range(count)]


def linear(features: int = 16, outputs: int = 16) -> nn.Sequential:
    model = nn.Sequential(nn.Linear(features, outputs, bias=False))
    nn.init.uniform_(model[0].weight, -0.5, 0.5)
    return model


def found(
    model: nn.Module, mapping: QConfigMapping, data: list[Tensor] | None = None, layer: str = "0"
) -> dict[tuple[str, str], Cause]:
    """The causes of a layer by kind and tensor, in their order."""
    data = data or batches()
    lab = qlab.Lab(model.eval(), data[0][:1], data)
    causes = lab.causes(layer, mapping)
    for cause in causes:
        check(lab, cause, mapping)
    return {(cause.kind, cause.tensor): cause for cause in causes}


def check(lab: qlab.Lab, cause: Cause, mapping: QConfigMapping) -> None:
    """What holds for every cause: numbers in the words, a remedy that is one, nothing mutated."""
    before = mapping.copy()
    assert cause.sentence.endswith(".") and any(c.isdigit() for c in cause.sentence)
    harmless = cause.kind == "dead channels" and cause.gain == 0
    assert (cause.remedy is None) == (cause.gain is None or harmless)
    if cause.remedy is None:
        with pytest.raises(UnsupportedError, match="No change of the configuration avoids"):
            cause.apply(mapping)
    else:
        changed = cause.apply(mapping)
        assert changed != mapping
        assert not lab.plan(changed).unmatched
    assert mapping == before


def quiet(data: list[Tensor] | None = None, mapping: QConfigMapping = DEFAULT) -> set[str]:
    """The kinds of cause that an even layer has."""
    return {kind for kind, _ in found(linear(), mapping, data)}


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
    assert worse.gain is None and "another range would change -" in worse.remedy_label


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
