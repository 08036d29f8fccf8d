import functools
import math

import pytest
import torch
from torch import nn

import qlab
import sample_models
from qlab.analysis.compare import limits_of
from qlab.analysis.metrics import ErrorSums
from qlab.analysis.parts import only
from qlab.dtypes import float8_e4m3fn, quint8
from qlab.errors import ArgumentError, NonFiniteError, UnknownNameError, UnsupportedError
from qlab.qparams import QParams, dequantize, quantize
from qlab.ranges import measured_error
from tests.qlab.analysis.test_hooked import Opaque, core


@functools.cache
def lab_for(name):
    sample = sample_models.load(name)
    data = sample.evaluation(64)[:2]
    return qlab.Lab(sample.model, sample.example_inputs, sample.calibration(64), data)


def test_rounding_and_clipping_add_up_to_the_whole_and_steps_are_counted():
    layers = lab_for("residual").compare().layers
    parts = layers.nmse_rounding_local + layers.nmse_clipping_local
    assert parts.tolist() == pytest.approx(layers.nmse_local.tolist(), rel=1e-4)
    assert (layers.clipped_share > 0).any()
    assert (layers.nmse_clipping_local[layers.clipped_share == 0] == 0).all()
    assert layers.rmse_scale_local.between(0.1, 3).all()
    assert (layers.rmse_scale_accumulated >= layers.rmse_scale_local * 0.9).all()


@pytest.mark.parametrize("dtype", [quint8, float8_e4m3fn])
def test_what_is_clipped_is_what_the_tensor_error_says(dtype):
    x = torch.randn(4000) * 3
    scale = 0.02 if dtype is quint8 else 0.005
    qparams = QParams.per_tensor(scale, 100 if dtype is quint8 else 0, dtype)
    expected, sums = measured_error(x, qparams), ErrorSums()
    sums.update(x, dequantize(quantize(x, qparams), qparams), limits_of(qparams))
    assert sums.clipped_share == pytest.approx(100 * expected.clipped_share)
    assert 0 < sums.clipped_share < 100
    assert sums.clipping == pytest.approx(expected.clipping, rel=1e-5)
    assert sums.noise - sums.clipping == pytest.approx(expected.rounding, rel=1e-3)
    assert limits_of(None) is None


def test_weights_alone_and_activations_alone():
    lab = lab_for("depthwise")
    report = lab.compare("int8-per-tensor", parts=True)
    both, weight, activation = report.layers, report.weight_only, report.activation_only
    assert list(both) == list(weight) == list(activation)
    assert list(activation.index) == list(both.index)
    assert set(weight.index) == {n for n in both.index if lab.plan().step(n).weight is not None}
    assert weight.rmse_scale_local.isna().all()
    noise = weight.nmse_local + activation.nmse_local.loc[weight.index]
    assert (both.nmse_local.loc[weight.index] / noise).between(0.3, 3).all()
    worst = both.sqnr_local.loc[weight.index].idxmin()
    assert weight.sqnr_local[worst] < activation.sqnr_local[worst]  # one scale for all channels
    assert report.complete
    assert lab.compare().weight_only is None


@pytest.mark.parametrize("traced", [True, False])
def test_the_float_network_runs_once_for_a_comparison_with_its_parts(traced, monkeypatch):
    batches = [torch.randn(4, 8) for _ in range(3)]
    net = core() if traced else Opaque(core())
    lab, runs = qlab.Lab(net.eval(), batches[0], batches, memory_budget=0), []
    assert lab.traced is traced
    lab.compare()
    if traced:
        get = lab._study.floats.get
        monkeypatch.setattr(lab._study.floats, "get", lambda *p: runs.append(1) or get(*p))
    else:
        run = lab._study.runs.run
        monkeypatch.setattr(
            lab._study.runs,
            "run",
            lambda *p, **k: ("replaced" not in k and runs.append(1)) or run(*p, **k),
        )
    seen = []
    lab.compare(parts=True, on_progress=lambda *step: seen.append(step[:2]))
    assert len(runs) == 3 and seen == [(1, 3), (2, 3), (3, 3)]


def test_a_part_of_a_mapping_keeps_its_rules():
    int8 = qlab.presets.get("int8").mapping()
    mapping = int8.copy().set_module_name("a", None).set_object_type(nn.Linear, int8.global_qconfig)
    for part, other in (("weight", "activation"), ("activation", "weight")):
        reduced = only(mapping, part)
        assert [rule.style for rule in reduced.rules()] == [r.style for r in mapping.rules()]
        for rule in reduced.rules():
            if rule.qconfig is not None:
                assert getattr(rule.qconfig, part) == getattr(int8.global_qconfig, part)
                assert getattr(rule.qconfig, other) != getattr(int8.global_qconfig, other)
    assert mapping.global_qconfig == int8.global_qconfig


@pytest.mark.parametrize(
    ("name", "mapping"),
    [("depthwise", "int8"), ("mlp", "int8"), ("vit", "int4-weights"), ("vit", "int8-weights-only")],
)
def test_channels_add_up_to_the_layer(name, mapping):
    lab = lab_for(name)
    layers = lab.compare(mapping).layers
    layer = layers.sqnr_local.idxmin()
    frame = lab.channels(layer, mapping)
    shape = lab.layer(layer).output_shape
    assert len(frame) == shape[1 if len(shape) == 4 else -1]
    assert frame.max_abs.max() == pytest.approx(layers.max_abs_local[layer], rel=1e-5)
    if layers.clipped_share.notna()[layer]:
        assert frame.clipped_share.mean() == pytest.approx(layers.clipped_share[layer])
        assert math.sqrt((frame.rmse_scale**2).mean()) == pytest.approx(
            layers.rmse_scale_local[layer], rel=1e-4
        )
    else:
        assert frame.rmse_scale.isna().all()


def test_channels_of_what_is_not_quantized_are_refused():
    lab = lab_for("mlp")
    mapping = qlab.presets.get("int8").mapping().set_module_name("fc1", None)
    with pytest.raises(UnsupportedError, match=r"'fc1' is not quantized.*kept in float by"):
        lab.channels("fc1", mapping)
    with pytest.raises(UnknownNameError, match="nope"):
        lab.channels("nope")


def test_nan_in_the_evaluation_data_names_batch_and_input():
    x = torch.randn(8, 6)
    lab = qlab.Lab(nn.Linear(6, 3), x, [x], [torch.full((8, 6), math.nan)])
    told = "NaN in the data: batch 0 of the evaluation data, the model's input"
    with pytest.raises(NonFiniteError, match=told):
        lab.compare()
    with pytest.raises(NonFiniteError, match=told):
        lab.channels(lab.layers[0].name)


@pytest.mark.parametrize("budget", [0, 100_000])
def test_compare_does_not_depend_on_the_memory_budget(budget):
    sample = sample_models.load("residual")
    lab = qlab.Lab(
        sample.model,
        sample.example_inputs,
        sample.calibration(64),
        sample.evaluation(64)[:2],
        memory_budget=budget,
    )
    assert lab.compare().layers.equals(lab_for("residual").compare().layers)


def test_the_worst_layers_are_of_a_column_that_exists():
    report = lab_for("residual").compare()
    worst = report.worst(2, "nmse_local")
    assert len(worst) == 2 and worst.nmse_local.iloc[0] == report.layers.nmse_local.min()
    with pytest.raises(UnknownNameError, match=r"Unknown column of the layers 'sqnr'.*sqnr_local"):
        report.worst(2, "sqnr")
    for count in (0, -3, 1.5):
        with pytest.raises(ArgumentError, match="count says how many"):
            report.worst(count)
