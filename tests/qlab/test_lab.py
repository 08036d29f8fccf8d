import copy
import dataclasses
import math
import time

import pytest
import torch
from torch import nn

import qlab
import sample_models
from qlab import QConfigMapping, TensorSpec
from qlab.dtypes import qint8, quint8
from qlab.errors import (
    ArgumentError,
    DTypeError,
    NonFiniteError,
    QlabError,
    UnknownNameError,
    UnsupportedError,
)
from qlab.observers import MinMaxObserver
from qlab.qconfig import qconfig_of
from qlab.ranges import MSE, MinMax, Percentile

TRAINED = sample_models.names(trained=True)
_LABS: dict[str, qlab.Lab] = {}


def lab_for(name: str) -> qlab.Lab:
    """One calibrated lab per sample model for the whole module."""
    if name not in _LABS:
        sample = sample_models.load(name)
        _LABS[name] = qlab.Lab(
            sample.model, sample.example_inputs, sample.calibration(), sample.evaluation()
        )
        _LABS[name].calibrate()
    return _LABS[name]


@pytest.mark.parametrize("name", TRAINED)
def test_int8_with_per_channel_weights_keeps_every_sample_model(name):
    report = lab_for(name).compare("int8")
    output = report.output
    assert output["float_accuracy"] - output["accuracy"] <= 1.0
    assert output["top1_agreement"] >= 98.0
    assert output["sqnr"] >= 20.0
    assert report.size.ratio > 2.0
    assert report.complete
    assert report.samples == 500


def test_the_depthwise_net_loses_with_one_scale_per_weight_tensor_and_the_cause_is_named():
    lab = lab_for("depthwise")
    report = lab.compare("int8-per-tensor")
    assert report.output["float_accuracy"] - report.output["accuracy"] >= 5.0
    causes = {
        cause.kind: (name, cause)
        for name in report.worst(5).index
        for cause in lab.causes(name, "int8-per-tensor")
        if cause.tensor == "weight"
    }
    name, spread = causes["channel spread"]
    assert spread.value >= spread.threshold
    assert spread.gain is not None and spread.gain > 6.0
    assert "share one scale" in spread.sentence
    fixed = lab.compare("int8").layers.loc[name, "sqnr_local"]
    assert fixed - report.layers.loc[name, "sqnr_local"] > 6.0


@pytest.mark.parametrize("name", TRAINED)
def test_what_is_compared_is_what_is_converted(name):
    lab = lab_for(name)
    report, converted = lab.compare(), lab.convert()
    batches = sample_models.load(name).evaluation()
    top = torch.cat([converted(x).argmax(-1) for x, _ in batches])
    labels = torch.cat([y for _, y in batches])
    accuracy = 100.0 * (top == labels).double().mean().item()
    assert accuracy == pytest.approx(report.output["accuracy"])


@pytest.mark.parametrize("name", TRAINED)
def test_what_if_agrees_with_compare_within_one_decibel(name):
    lab = lab_for(name)
    layers = (
        qlab.Lab(
            sample_models.load(name).model,
            sample_models.load(name).example_inputs,
            sample_models.load(name).calibration(),
        )
        .compare()
        .layers
    )
    for layer, row in layers.iterrows():
        answer = lab.what_if(layer)
        assert answer.samples == 32
        if math.isfinite(row.sqnr_local):
            assert answer.output_sqnr == pytest.approx(row.sqnr_local, abs=1.0), layer


def test_what_if_takes_fewer_samples_of_a_large_layer_and_says_so(monkeypatch):
    lab = lab_for("residual")
    name = next(layer.name for layer in lab.layers if layer.type.startswith("Conv"))
    whole = lab.what_if(name)
    largest = math.prod(lab.layer(name).output_shape[1:])
    monkeypatch.setattr("qlab.analysis.observed._LAYER_ELEMENTS", 8 * largest)
    fewer = lab.what_if(name)
    assert (whole.samples, fewer.samples) == (32, 8)
    assert fewer.output_sqnr == pytest.approx(whole.output_sqnr, abs=1.0)
    monkeypatch.setattr("qlab.analysis.observed._LAYER_ELEMENTS", 1)
    assert lab.what_if(name).samples == 1


def test_what_if_answers_from_cached_statistics_without_a_pass():
    lab = lab_for("residual")
    layer = lab.compare().worst(1).index[0]
    lab.what_if(layer)
    calls = []
    handles = [m.register_forward_hook(lambda *_: calls.append(1)) for m in lab.graph.modules()]
    start = time.perf_counter()
    answer = lab.what_if(layer, activation=TensorSpec(quint8, policy=MSE()).with_bits(4))
    elapsed = time.perf_counter() - start
    for handle in handles:
        handle.remove()
    assert not calls
    assert answer.activation_qparams.dtype.bits == 4
    assert answer.output_sqnr < lab.what_if(layer).output_sqnr
    assert elapsed < 1.0


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7, 8, 16])
def test_fewer_bits_cost_more_in_the_app_s_own_numbers(bits):
    lab = lab_for("conv_bn_relu")
    name = next(layer.name for layer in lab.layers if layer.type.startswith("Conv"))
    weight = TensorSpec.int8_weight().with_bits(bits)
    answer = lab.what_if(name, weight=weight)
    assert answer.weight_error.sqnr_db == pytest.approx(6.02 * bits, abs=9.0)
    assert answer.execution == ("integer" if bits <= 8 else "simulated")


def test_layers_name_type_shapes_and_parameters():
    lab = lab_for("conv_bn_relu")
    layer = lab.layers[0]
    assert layer.type.startswith("Conv")
    assert layer.input_shape == (1, 1, 8, 8)
    assert layer.output_shape is not None and layer.output_shape[1] > 1
    assert layer.parameters > 0
    assert layer.fused
    assert lab.layer(layer.name) is layer


def test_a_layer_in_four_bits_is_worse_and_smaller_and_the_others_stay():
    lab = lab_for("residual")
    name = next(layer.name for layer in lab.layers if layer.type.startswith("Conv"))
    base = lab.plan().step(name)
    mapping = qlab.presets.get("int8").mapping()
    mapping.set_module_name(name, qconfig_of(base.output, base.weight.with_bits(4)))
    before, after = lab.compare(), lab.compare(mapping)
    assert after.layers.loc[name, "sqnr_local"] < before.layers.loc[name, "sqnr_local"] - 6
    assert after.layers.loc[name, "weight_bytes"] < before.layers.loc[name, "weight_bytes"]
    others = before.layers.index.drop(name)
    assert after.layers.loc[others, "type"].tolist() == before.layers.loc[others, "type"].tolist()
    assert after.size.quantized_bytes < before.size.quantized_bytes


def test_a_layer_kept_in_float_has_no_row():
    lab = lab_for("mlp")
    name = lab.compare().layers.index[0]
    mapping = qlab.presets.get("int8").mapping().set_module_name(name, None)
    report = lab.compare(mapping)
    assert name not in report.layers.index
    assert report.coverage.float_ >= 1
    assert report.integer_share < 1.0
    assert "module name" in report.plan.step(name).rule


def test_nothing_quantized_is_the_float_network():
    report = lab_for("mlp").compare(QConfigMapping())
    assert report.layers.empty
    assert report.output["sqnr"] == math.inf
    assert report.integer_share == 0.0


def test_ideal_bound_is_above_what_eight_bits_reach_locally_for_most_layers():
    layers = lab_for("conv_bn_relu").compare().layers
    assert (layers["sqnr_ideal"] > layers["sqnr_local"] - 1.0).all()


def test_the_float_model_is_never_changed():
    sample = sample_models.load("mlp")
    before = copy.deepcopy(sample.model.state_dict())
    lab = qlab.Lab(sample.model, sample.example_inputs, sample.calibration(64))
    lab.compare()
    assert sample.model.state_dict().keys() == before.keys()
    assert all(torch.equal(v, before[k]) for k, v in sample.model.state_dict().items())


def test_calibration_reports_progress_stops_and_keeps_what_it_had():
    sample = sample_models.load("mlp")
    lab = qlab.Lab(sample.model, sample.example_inputs, sample.calibration(128, 32))
    seen = []
    result = lab.calibrate(lambda *p: seen.append(p), lambda: len(seen) == 2)
    assert [p[:2] for p in seen] == [(1, 4), (2, 4)]
    assert (result.batches, result.samples, result.complete) == (2, 64, False)
    assert lab.compare().samples == 128
    assert lab.calibrate().complete


def test_comparison_stops_early_and_says_so():
    sample = sample_models.load("mlp")
    lab = qlab.Lab(sample.model, sample.example_inputs, sample.calibration(128, 32))
    report = lab.compare(should_stop=lambda: True)
    assert (report.complete, report.samples) == (False, 32)


def test_statistics_of_weight_input_and_output():
    lab = lab_for("mlp")
    name = lab.compare().layers.index[0]
    assert lab.statistics(name, "weight").count == lab.weight(name).numel()
    assert lab.statistics(name, "input").count == 256 * 64
    assert lab.statistics(name).count % 256 == 0


def test_every_policy_is_shown_side_by_side():
    lab = lab_for("mlp")
    name = lab.compare().layers.index[0]
    errors = lab.policies(name, TensorSpec())
    assert len(errors) == 5
    best = max(errors.values(), key=lambda e: e.sqnr_db)
    assert errors[MSE().label].sqnr_db == pytest.approx(best.sqnr_db, abs=0.01)
    weights = lab.policies(name, TensorSpec.int8_weight(), kind="weight")
    assert MinMax().label in weights


def test_in_front_of_a_clamp_statistics_and_policies_speak_of_the_clamped_tensor():
    lab = lab_for("norms")
    step = lab.plan("int8").step("group_norm")
    assert float(lab.statistics(step.name, mapping="int8").min_val) == 0.0
    whole = lab.statistics(step.name, mapping=QConfigMapping())
    assert float(whole.min_val) < 0.0
    assert lab.stability("int8").table.loc[step.name, "low"] == 0.0
    assert lab.stability(QConfigMapping()).table.loc[step.name, "low"] == float(whole.min_val)
    error = lab.policies(step.name, step.output, mapping="int8")[step.output.policy.label]
    assert error == lab.what_if(step.name, mapping="int8").activation_error
    alone = lab.policies(step.name, step.output, mapping=QConfigMapping())
    assert alone[step.output.policy.label].signal == pytest.approx(whole.sum_of_squares)


def _branches(x):
    return x if x.sum() > 0 else -x


class _DataDependent(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, x):
        return _branches(self.layer(x))


def test_bad_input_says_what_was_expected():
    sample = sample_models.load("mlp")
    lab = lab_for("mlp")
    name = lab.layers[0].name
    with pytest.raises(DTypeError, match=r"Lab needs a model.*int"):
        qlab.Lab(3, sample.example_inputs, [])
    untraced = qlab.Lab(_DataDependent(), torch.zeros(1, 2), [torch.zeros(1, 2)])
    with pytest.raises(UnsupportedError, match=r"needs the model as one graph.*test_lab.py"):
        _ = untraced.graph
    with pytest.raises(QlabError, match=r"example inputs"):
        qlab.Lab(sample.model, torch.zeros(1, 3), [torch.zeros(1, 3)])
    with pytest.raises(ArgumentError, match=r"calibration data is empty"):
        qlab.Lab(sample.model, sample.example_inputs, []).calibrate()
    with pytest.raises(UnknownNameError, match=r"Unknown layer 'nope'"):
        lab.what_if("nope")
    with pytest.raises(UnknownNameError, match=r"Unknown layer 'nope'"):
        lab.layer("nope")
    with pytest.raises(UnknownNameError, match=r"kind of tensor 'gradient'"):
        lab.statistics(name, "gradient")
    with pytest.raises(UnknownNameError, match=r"kind of tensor 'input'"):
        lab.policies(name, TensorSpec(), kind="input")
    with pytest.raises(UnknownNameError, match=r"int7-magic"):
        lab.compare("int7-magic")
    with pytest.raises(DTypeError, match=r"Not a configuration.*dict"):
        lab.compare({})
    with pytest.raises(ArgumentError, match=r"\.safetensors, .*\.html.*model\.pickle"):
        lab.export("model.pickle")


def test_a_weight_spec_for_a_layer_without_weight_is_refused():
    lab = lab_for("residual")
    name = next(layer.name for layer in lab.layers if layer.type.lower().startswith("add"))
    with pytest.raises(ArgumentError, match=r"no weight to quantize"):
        lab.what_if(name, weight=TensorSpec.int8_weight())
    with pytest.raises(UnknownNameError, match=r"has no weight"):
        lab.weight(name)


def test_nan_in_the_float_model_names_the_first_layer():
    sample = sample_models.load("mlp")
    linear = [m for m in sample.model.modules() if isinstance(m, nn.Linear)][1]
    with torch.no_grad():
        linear.weight[0, 0] = math.nan
    path = next(p for p, m in sample.model.named_modules() if m is linear)
    lab = qlab.Lab(sample.model, sample.example_inputs, sample.calibration(32))
    with pytest.raises(NonFiniteError, match=rf"first layer that produces it is '{path}'"):
        lab.calibrate()


def test_one_scale_per_weight_tensor_is_never_better_than_one_per_channel():
    lab = lab_for("depthwise")
    for layer in lab.layers:
        if layer.quantizable and lab.plan().step(layer.name).weight:
            channel = lab.what_if(layer.name)
            tensor = lab.what_if(layer.name, weight=TensorSpec(qint8, symmetric=True))
            assert tensor.weight_error.total >= channel.weight_error.total


def test_what_a_clamp_cuts_off_is_no_error():
    lab = lab_for("norms")
    step = lab.plan("int8").step("group_norm")
    assert step.bounds == (0.0, math.inf)
    row = lab.compare("int8").layers.loc["group_norm"]
    assert row["sqnr_ideal"] + 1 > row["sqnr_local"] > 30
    answer = lab.what_if("group_norm", mapping="int8")
    assert abs(answer.output_sqnr - row["sqnr_local"]) < 1
    assert answer.activation_error.clipped_share < 0.01


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (torch.randn(4, 3), r"layer '0' \(Linear\) refused its input.*Received shape \(4, 3\)"),
        (torch.ones(4, 6, dtype=torch.int32), "Received shape .4, 6. of torch.int32"),
    ],
)
def test_data_that_does_not_fit_names_the_layer_that_refused_it(batch, message):
    lab = qlab.Lab(nn.Sequential(nn.Linear(6, 2)), torch.randn(4, 6), [batch])
    with pytest.raises(ArgumentError, match=message):
        lab.calibrate()


def test_an_error_in_a_layer_is_told_without_node_dumps():
    lab = qlab.Lab(nn.Linear(6, 2), torch.randn(4, 6), [torch.full((4, 6), math.nan)])
    with pytest.raises(NonFiniteError) as caught:
        lab.calibrate()
    assert "While executing" not in str(caught.value)


@pytest.mark.parametrize("device", ["nowhere", "cuda:99", 1.5, "meta"])
def test_a_device_that_does_not_exist_is_refused(device):
    with pytest.raises(ArgumentError, match="device"):
        qlab.Lab(nn.Linear(6, 2), torch.randn(4, 6), [torch.randn(4, 6)], device=device)


def test_an_empty_name_is_no_preset():
    with pytest.raises(UnknownNameError, match="preset ''"):
        lab_for("mlp").plan("")


class Several(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 3)

    def forward(self, x):
        logits = self.linear(x)
        return {"class": logits.argmax(-1), "logits": (logits, None)}


def test_the_outputs_that_are_measured_are_those_of_real_numbers():
    x = torch.randn(8, 6)
    lab = qlab.Lab(Several(), x, [x])
    reference, value = (graph(x)["logits"][0] for graph in (lab.graph, lab.convert()))
    expected = (reference - value).abs().max().item()
    assert lab.compare().output["max_abs"] == pytest.approx(expected)


def test_every_output_of_real_numbers_is_reported():
    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.logits, self.box = nn.Linear(6, 8), nn.Linear(8, 3), nn.Linear(8, 4)

        def forward(self, x):
            y = torch.relu(self.body(x))
            logits = self.logits(y)
            masked = logits.masked_fill(logits < 9.0, -math.inf)
            return {"class": logits.argmax(-1), "logits": logits, "rest": (self.box(y), [masked])}

    x = torch.randn(8, 6)
    lab = qlab.Lab(Heads(), x, [x])
    report, (a, b) = lab.compare(), (model(x) for model in (lab.graph, lab.convert()))
    assert list(report.outputs.index) == ["logits", "rest[0]", "rest[1][0]"]
    assert report.output["max_abs"] == report.outputs["max_abs"].max()
    expected = (a["rest"][0] - b["rest"][0]).abs().max().item()
    assert report.outputs.loc["rest[0]", "max_abs"] == pytest.approx(expected)
    assert report.outputs.loc["rest[1][0]"].isna().all()
    assert list(lab_for("mlp").compare().outputs.index) == ["output"]


class Encoder(nn.Module):
    """A small encoder that is called by keywords, with a mask, as people call transformers."""

    def __init__(self):
        super().__init__()
        self.embed, self.layer = (
            nn.Embedding(32, 16),
            nn.TransformerEncoderLayer(16, 2, 32, batch_first=True),
        )
        self.head = nn.Linear(16, 3)

    def forward(self, ids, kinds=None, mask=None, scale=1.0):
        x = self.embed(ids) * scale
        if kinds is not None:
            x = x + self.embed(kinds)
        keep = mask.to(x.dtype)[..., None]
        x = self.layer(x, src_key_padding_mask=mask == 0)
        return {"pooled": self.head((x * keep).sum(1) / keep.sum(1)), "states": x}


def token_batches(count: int) -> list[dict[str, torch.Tensor]]:
    draw = torch.Generator().manual_seed(0)
    return [
        {
            "mask": (torch.arange(6) < torch.randint(2, 7, (4, 1), generator=draw)).long(),
            "ids": torch.randint(0, 32, (4, 6), generator=draw),
            "labels": torch.randint(0, 3, (4,), generator=draw),
        }
        for _ in range(count)
    ]


def test_inputs_by_keyword_with_batches_that_are_dicts(tmp_path):
    torch.manual_seed(0)
    model, batches = Encoder().eval(), token_batches(3)
    example = {name: batches[0][name] for name in ("mask", "ids")} | {"scale": 2.0}
    lab = qlab.Lab(model, example, batches)
    report = lab.compare("int8")
    assert report.samples == 12 and "accuracy" in report.output
    assert list(report.outputs.index) == ["pooled", "states"]
    with torch.no_grad():
        expected = [model(**{**example, **only_inputs(batch)}) for batch in batches]
        given = [lab.convert("int8")(batch["ids"], batch["mask"]) for batch in batches]
    pairs = [
        (x[k], y[k]) for x, y in zip(expected, given, strict=True) for k in report.outputs.index
    ]
    noise = sum(((a - b) ** 2).sum().item() for a, b in pairs)
    signal = sum((a**2).sum().item() for a, _ in pairs)
    assert report.output["sqnr"] == pytest.approx(10 * math.log10(signal / noise), abs=0.01)
    assert lab.latency(batch=batches[0], repeats=4).shape == (4, 6)
    path = lab.save(tmp_path / "lab")
    assert qlab.load_lab(path, model, batches).compare("int8").output == report.output
    with pytest.raises(ArgumentError, match=r"lacks inputs.*ids, mask.*[Rr]eceived ids, labels"):
        lab.add_data([{name: batches[0][name] for name in ("ids", "labels")}])
    with pytest.raises(ArgumentError, match=r"do not fit Encoder\.forward.*'words'"):
        qlab.Lab(model, {"words": batches[0]["ids"]}, batches)
    with pytest.raises(ArgumentError, match="example inputs hold no tensor"):
        qlab.Lab(nn.Linear(2, 2), (3,), [torch.zeros(1, 2)])


def only_inputs(batch):
    return {name: value for name, value in batch.items() if name != "labels"}


@dataclasses.dataclass
class Result:
    kind: torch.Tensor
    logits: torch.Tensor


def test_a_dataclass_is_compared_by_its_first_output_of_real_numbers():
    class Answers(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(6, 3)

        def forward(self, x):
            logits = self.linear(x)
            return Result(kind=logits.argmax(-1), logits=logits)

    x = torch.randn(8, 6)
    lab = qlab.Lab(Answers(), x, [x])
    report = lab.compare()
    assert list(report.outputs.index) == ["logits"]
    alone = qlab.Lab(Answers().linear, x, [x])
    assert lab.convert()(x).logits.shape == (8, 3)
    assert [layer.name for layer in lab.layers if layer.quantizable] == ["linear"]
    assert set(alone.compare().output) == set(report.output)


def test_what_if_and_causes_speak_of_the_codes_that_convert_uses():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 8))
    data = [torch.randn(32, 16)]  # what_if runs on 32 samples
    clipped = TensorSpec(quint8, policy=Percentile(99.0), reduce_range=True)
    weight = TensorSpec(qint8, symmetric=True, reduce_range=True)
    mapping = QConfigMapping().set_global(qconfig_of(clipped, weight))
    lab = qlab.Lab(model, data[0], data)
    converted, report = lab.convert(mapping), lab.compare(mapping)
    nodes = [node for node in converted.graph.nodes if "qparams" in node.meta]
    coded = {node.meta["source"]: node.meta["qparams"] for node in nodes}
    for name, row in report.layers.iterrows():
        answer = lab.what_if(name, mapping=mapping)
        assert answer.output_sqnr == pytest.approx(row.sqnr_local, abs=1.0), name
        node = lab.plan(mapping).step(name).node
        assert answer.activation_qparams.same_as(coded[node])
        share = 100.0 * answer.activation_error.clipped_share
        assert share == pytest.approx(row.clipped_share, abs=0.1)
        assert answer.activation_qparams.same_as(lab.qparams(name, clipped))
        if lab.plan(mapping).step(name).weight:
            used = converted.get_submodule(name).weight_qparams
            assert answer.weight_qparams.same_as(used)
            assert lab.qparams(name, weight, "weight").same_as(used)
        widest = dataclasses.replace(clipped, policy=MinMax())
        error = lab.policies(name, clipped, mapping=mapping)[MinMax().label]
        assert error == lab.what_if(name, activation=widest, mapping=mapping).activation_error


def test_labels_that_are_no_class_indices_are_refused():
    x = torch.randn(8, 6)
    lab = qlab.Lab(nn.Linear(6, 3), x, [(x, torch.randn(8))])
    with pytest.raises(DTypeError, match="class indices"):
        lab.compare()


def test_what_if_takes_specs_and_names_only():
    lab = lab_for("mlp")
    with pytest.raises(DTypeError, match=r"weight's quantization.*Expected a TensorSpec"):
        lab.what_if(lab.layers[0].name, weight="int4")
    with pytest.raises(UnknownNameError, match="Unknown layer"):
        lab.what_if([])


def small_lab(**arguments) -> qlab.Lab:
    sample = sample_models.load("mlp")
    return qlab.Lab(sample.model, sample.example_inputs, sample.calibration(64), **arguments)


def test_what_compare_measures_is_kept_as_runs_with_parents(tmp_path):
    lab = small_lab(runs=tmp_path / "runs.sqlite")
    report, _ = lab.compare("int8"), lab.compare(QConfigMapping())
    lab.compare("int8")
    first, second = lab.runs
    assert (first.name, first.parent) == ("int8", None)
    assert (second.name, second.parent) == ("run 2", first.id)
    assert second.mapping == QConfigMapping()
    assert first.metrics["quantized_bytes"] == report.size.quantized_bytes
    assert {k: first.metrics[k] for k in report.output} == report.output
    assert first.layers.equals(report.layers)
    assert first.seconds is not None and first.seconds > 0
    assert lab.runs.latest(lab.subject) == first
    lab.compare("int4-weights", parent=first.id)
    assert lab.runs.latest().parent == first.id
    lab.compare("int8", name="eight")
    assert lab.runs.get(first.id).name == "eight" and len(lab.runs) == 3
    first = lab.runs.get(first.id)
    reopened = small_lab(runs=tmp_path / "runs.sqlite")
    assert reopened.runs.latest(reopened.subject) == first


def test_what_was_stopped_or_has_no_json_form_is_not_kept():
    lab = small_lab()
    assert not lab.compare("int8", should_stop=lambda: True).complete
    own = QConfigMapping().set_global(
        qlab.QConfig(lambda: MinMaxObserver(), qconfig_of(None, None).weight)
    )
    lab.compare(own)
    assert len(lab.runs) == 0


def test_the_subject_tells_models_and_data_apart_and_not_their_order():
    sample = sample_models.load("mlp")
    batches = list(sample.evaluation())
    images, labels = (torch.cat(part) for part in zip(*batches, strict=True))

    def subject(data, model=sample.model) -> str:
        return qlab.Lab(model, sample.example_inputs, sample.calibration(16), data).subject

    order = torch.randperm(len(images))
    assert subject(batches) == subject([(images[order], labels[order])])
    assert subject(batches) != subject([(images[order], labels)])
    other = copy.deepcopy(sample.model)
    with torch.no_grad():
        next(other.parameters()).view(-1)[0] += 1
    assert subject(batches) != subject(batches, other)


def test_types_are_what_rules_by_type_match():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sigmoid(), nn.Flatten(), nn.Linear(4, 2))
    lab = qlab.Lab(model, torch.rand(1, 3, 1, 1), [torch.rand(4, 3, 1, 1)])
    assert "type Conv2d" in lab.types
    for words, kind in lab.types.items():
        mapping = qlab.presets.get("int8").mapping().set_object_type(kind, None)
        plan = lab.plan(mapping)
        assert not plan.unmatched
        assert words in {step.rule for step in plan.steps}


def test_a_layers_size_is_that_of_its_parameters_and_of_its_codes():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten())
    model.add_module("fc", nn.Linear(8 * 36, 5))
    lab = qlab.Lab(model.eval(), (torch.randn(1, 3, 8, 8),), [torch.randn(4, 3, 8, 8)])
    presets = {8: "int8", 4: "int4-weights"}
    sizes = {bits: lab.layer_sizes(lab.convert(preset)) for bits, preset in presets.items()}
    for bits, table in sizes.items():
        assert table.index.name == "layer"
        assert table.float_bytes["fc"] == 4 * (8 * 36 * 5 + 5)
        assert table.float_bytes["0"] == 4 * (8 * 27 + 8)  # the batch norm is folded
        codes = 8 * 36 * 5 * bits // 8
        assert codes < table.quantized_bytes["fc"] < codes + 4 * 5 * 6
        assert table.float_bytes["3"] == 0
    kept = qlab.presets.get("int8").mapping().set_module_name("fc", None)
    table = lab.layer_sizes(lab.convert(kept))
    assert table.quantized_bytes["fc"] == table.float_bytes["fc"]
