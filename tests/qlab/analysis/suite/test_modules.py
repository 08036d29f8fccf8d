"""Eager models side by side: loggers and shadows on the modules themselves."""

import copy

import pytest
import torch
from torch import nn

from qlab import quantization as tq
from qlab.analysis.suite.modules import (
    Logger,
    OutputLogger,
    Shadow,
    ShadowLogger,
    compare_model_outputs,
    compare_model_stub,
    get_logger_dict,
    get_matching_activations,
    matching_path,
    prepare_model_outputs,
    prepare_model_with_stubs,
)
from qlab.dtypes import quint8
from qlab.errors import ArgumentError, DTypeError, UncalibratedError
from qlab.nn.quantized import FloatFunctional
from qlab.qparams import QParams
from qlab.qtensor import QTensor
from tests.golden.ns_cases import EagerNet, Recurrent


@pytest.fixture
def pair():
    """A fused float model, the quantized one made of it, and data."""
    model = EagerNet(tq.QuantStub(), tq.DeQuantStub(), FloatFunctional()).eval()
    model = tq.fuse_modules(model, [["conv", "bn", "relu"]])
    model.qconfig = tq.get_default_qconfig("onednn")
    prepared, x = tq.prepare(model), torch.randn(3, 3, 6, 6)
    prepared(x)
    return model, tq.convert(prepared), x


def test_outputs_at_the_same_places(pair):
    model, quantized, x = pair
    whole = model(x), quantized(x)
    found = compare_model_outputs(model, quantized, x)
    assert set(found) == {
        "quant.stats", "conv.stats", "conv2.stats", "arithmetic.stats", "head.2.stats"
    }  # fmt: skip
    assert all(len(both["float"]) == len(both["quantized"]) == 1 for both in found.values())
    assert torch.equal(found["quant.stats"]["float"][0], x)
    last = found["head.2.stats"]
    assert isinstance(last["quantized"][0], QTensor)
    assert torch.equal(last["float"][0], whole[0])
    assert torch.equal(last["quantized"][0].dequantize(), whole[1])


def test_allow_list_and_loggers_of_ones_own(pair):
    class Count(Logger):
        def __init__(self):
            super().__init__()
            self.stats["tensor_val"] = []

        def forward(self, x):
            self.stats["tensor_val"].append(x.numel())
            return x

    model, quantized, x = pair
    kinds = {nn.Linear, type(quantized.head[2])}
    found = compare_model_outputs(model, quantized, x, logger_cls=Count, allow_list=kinds)
    assert found == {"head.2.stats": {"float": [6], "quantized": [6]}}


def test_each_module_on_the_same_input(pair):
    model, quantized, x = pair
    expected = quantized(x)
    kinds = {type(model.conv), nn.Conv2d, FloatFunctional, nn.Linear, nn.Flatten}
    found = compare_model_stub(model, quantized, kinds, x)
    assert set(found) == {"conv.stats", "conv2.stats", "arithmetic.stats", "head.2.stats"}
    assert torch.equal(quantized(x), expected)
    conv = found["conv.stats"]
    given = quantized.quant(x).dequantize()
    assert conv["float"][0].shape == conv["quantized"][0].shape == (3, 4, 6, 6)
    torch.testing.assert_close(conv["float"][0], model.conv(given).detach())
    step = conv["quantized"][0].q_scale()
    assert (conv["float"][0] - conv["quantized"][0].dequantize()).abs().max() < 4 * step


def test_recurrent_layers():
    model, x = Recurrent().eval(), torch.randn(3, 2, 4)
    quantized = tq.quantize_dynamic(model)
    outputs = compare_model_outputs(copy.deepcopy(model), copy.deepcopy(quantized), x)
    assert set(outputs) == {"lstm.stats", "fc.stats"}
    stubs = compare_model_stub(model, quantized, {nn.LSTM}, x)
    assert list(stubs) == ["lstm.stats"]
    both = stubs["lstm.stats"]
    torch.testing.assert_close(both["float"][0], both["quantized"][0], rtol=0.1, atol=0.1)


@pytest.mark.parametrize(
    ("name", "second"),
    [("add", "x"), ("mul", "x"), ("add_relu", "x"), ("add_scalar", 2.0), ("mul_scalar", 2.0)],
)
def test_operations_of_a_shadow(name, second):
    functional, quantized = FloatFunctional(), tq.convert(_calibrated())[1]
    shadow = Shadow(quantized, functional, ShadowLogger)
    x = QTensor(torch.arange(6, dtype=torch.uint8), _qparams())
    output = getattr(shadow, name)(x, x if second == "x" else second)
    assert isinstance(output, QTensor)
    real = x.dequantize()
    expected = getattr(functional, name)(real, real if second == "x" else second)
    assert torch.equal(shadow.logger.stats["float"][0], expected)
    assert torch.equal(shadow.logger.stats["quantized"][0].codes, output.codes)


def test_a_shadow_joins_and_multiplies():
    shadow = Shadow(tq.convert(_calibrated())[1], FloatFunctional(), ShadowLogger)
    x = QTensor(torch.arange(4, dtype=torch.uint8).reshape(2, 2), _qparams())
    assert shadow.cat([x, x], 1).shape == (2, 4)
    assert shadow.matmul(x, x).shape == (2, 2)
    joined, product = shadow.logger.stats["float"]
    assert torch.equal(joined, torch.cat([x.dequantize()] * 2, 1))
    assert torch.equal(product, x.dequantize() @ x.dequantize())


class _Functional(nn.Sequential):
    def forward(self, x):
        return self[1].add(self[0](x), self[0](x))


def _calibrated():
    model = _Functional(tq.QuantStub(), FloatFunctional()).eval()
    model.qconfig = tq.default_qconfig
    prepared = tq.prepare(model)
    prepared(torch.randn(4, 4))
    return prepared


def _qparams():
    return QParams.per_tensor(0.1, 2, quint8)


def test_logger_dict_has_paths_and_a_prefix():
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2)))
    model[1][0].add_module("logger", OutputLogger())
    assert list(get_logger_dict(model)) == ["1.0.stats"]
    assert list(get_logger_dict(model, "net")) == ["net.1.0.stats"]
    assert get_logger_dict(nn.Linear(2, 2)) == {}
    model.add_module("logger", OutputLogger())
    assert list(get_logger_dict(model)) == ["stats", "1.0.stats"]
    assert Logger()(3) == 3


def test_paths_of_fused_modules_match():
    known = ["conv.0.weight", "conv.1.weight", "fc.weight", "deep.a.b.weight"]
    assert matching_path("fc.", known, "weight") == "fc.weight"
    assert matching_path("conv.", known, "weight") == "conv.0.weight"
    assert matching_path("deep.", known, "weight") is None
    assert matching_path("", ["weight"], "weight") == "weight"


def test_nothing_was_run_yet(pair):
    model, quantized, x = pair
    with pytest.raises(UncalibratedError, match="the float model has kept nothing"):
        get_matching_activations(model, quantized)
    prepare_model_outputs(model, quantized)
    model(x)
    with pytest.raises(UncalibratedError, match="the quantized model has kept nothing"):
        get_matching_activations(model, quantized)


def test_observers_are_not_replaced(pair):
    model, quantized, _ = pair
    with pytest.raises(ArgumentError, match=r"no logger can be hung on the float.*an observer on"):
        prepare_model_outputs(tq.prepare(model), quantized)


def test_models_are_compared_again_with_other_loggers(pair):
    class Shape(OutputLogger):
        def forward(self, x):
            self.stats["tensor_val"].append(tuple(x.shape))
            return x

    model, quantized, x = pair
    first = compare_model_outputs(model, quantized, x)
    again = compare_model_outputs(model, quantized, x, logger_cls=Shape)
    assert again.keys() == first.keys()
    assert again["conv.stats"]["float"] == [tuple(first["conv.stats"]["float"][0].shape)]
    assert all(len(again[key]["float"]) == len(first[key]["float"]) for key in first)


def test_a_second_shadow_takes_the_place_of_the_first():
    model = nn.Sequential(tq.QuantStub(), nn.Linear(2, 2)).eval()
    model.qconfig = tq.default_qconfig
    prepared, x = tq.prepare(model), torch.randn(3, 2)
    prepared(x)
    quantized = tq.convert(prepared)
    first = compare_model_stub(model, quantized, {nn.Linear}, x)
    again = compare_model_stub(model, quantized, {nn.Linear}, x)
    assert list(first) == list(again) == ["1.stats"]
    assert torch.equal(again["1.stats"]["float"][0], first["1.stats"]["float"][0])


def test_loggers_that_a_comparison_of_outputs_left_are_no_shadows():
    model = nn.Sequential(tq.QuantStub(), nn.Linear(2, 2)).eval()
    model.qconfig = tq.default_qconfig
    prepared, x = tq.prepare(model), torch.randn(3, 2)
    prepared(x)
    quantized = tq.convert(prepared)
    assert set(compare_model_outputs(model, quantized, x)) == {"0.stats", "1.stats"}
    found = compare_model_stub(model, quantized, {nn.Linear}, x)
    assert list(found) == ["1.stats"]
    assert set(found["1.stats"]) == {"float", "quantized"}


def test_models_that_do_not_correspond(pair):
    model, quantized, x = pair
    with pytest.raises(ArgumentError, match=r"nothing to shadow.*in place of Conv3d"):
        prepare_model_with_stubs(model, quantized, {nn.Conv3d}, ShadowLogger)
    with pytest.raises(ArgumentError, match="nothing to shadow"):
        prepare_model_with_stubs(nn.Sequential(nn.Linear(2, 2)), quantized, {nn.Linear}, Logger)
    with pytest.raises(ArgumentError, match=r"on the float model.*none of them"):
        prepare_model_outputs(model, quantized, allow_list={nn.Conv3d})
    with pytest.raises(ArgumentError, match="the models do not correspond"):
        compare_model_outputs(nn.Sequential(nn.Conv2d(3, 3, 1)), quantized, x)
    for function in (prepare_model_outputs, prepare_model_with_stubs):
        with pytest.raises(DTypeError, match=f"{function.__name__}: not a model"):
            function(model, {}, {nn.Linear}, Logger)
