"""Loggers and shadows: what they see, and that the models compute as before."""

import copy

import pytest
import torch
from torch import nn

from qlab import quantization as tq
from qlab.analysis.suite.instrument import add_loggers, add_shadow_loggers
from qlab.analysis.suite.loggers import OutputLogger
from qlab.analysis.suite.matching import get_unmatchable_types_map
from qlab.analysis.suite.metrics import compute_sqnr
from qlab.analysis.suite.results import (
    extend_logger_results_with_comparison,
    extract_logger_info,
    extract_shadow_logger_info,
)
from qlab.errors import ArgumentError, UnsupportedError
from qlab.nn.functions import MulScalar
from qlab.qtensor import QTensor
from tests.qlab.analysis.suite.forms import forms_of, net_forms
from tests.workflows.architectures import NETS
from tests.workflows.test_architectures import quantized, tensors


def output(results, layer, model):
    return results[layer]["node_output"][model][0]["values"][0]


def test_values_are_those_of_the_networks():
    forms = net_forms()
    a, b = add_loggers("a", forms.model, "b", forms.converted, OutputLogger)
    torch.testing.assert_close(a(forms.x), forms.model(forms.x))
    assert torch.equal(b(forms.x), forms.converted(forms.x))
    results = extract_logger_info(a, b, OutputLogger, "b")
    assert list(results) == ["conv", "conv2", "add", "pool", "flatten", "fc"]
    real = forms.model.relu(forms.model.bn(forms.model.conv(forms.x)))
    torch.testing.assert_close(output(results, "conv", "a"), real.detach())
    logits = output(results, "fc", "b")
    assert isinstance(logits, QTensor)
    assert torch.equal(logits.dequantize(), forms.converted(forms.x))


def test_models_given_stay_as_they_were():
    forms = net_forms()
    before = [str(m) for m in (forms.model, forms.prepared, forms.converted)]
    add_loggers("a", forms.prepared, "b", forms.converted, OutputLogger, True)
    add_shadow_loggers("a", forms.prepared, "b", forms.converted, OutputLogger, True)
    assert [str(m) for m in (forms.model, forms.prepared, forms.converted)] == before


def test_every_call_is_kept_and_copies_have_their_own():
    forms = net_forms()
    a, b = add_loggers("a", forms.model, "b", forms.converted, OutputLogger)
    twin = copy.deepcopy(b)
    for _ in range(3):
        a(forms.x), b(forms.x)
    results = extract_logger_info(a, b, OutputLogger, "b")
    assert [len(by["node_output"][m][0]["values"]) for by in results.values() for m in "ab"] == (
        [3] * 12
    )
    assert all(not m.stats for m in twin.modules() if isinstance(m, OutputLogger))


def test_inputs_have_their_places():
    class Joined(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1, self.fc2 = nn.Linear(4, 3), nn.Linear(4, 3)

        def forward(self, x):
            joined = torch.cat([self.fc1(x), self.fc2(x)], 1)
            return joined * joined.sum(1, keepdim=True)

    model = Joined().eval()
    a, b = add_loggers("a", model, "b", copy.deepcopy(model), OutputLogger, True)
    a(torch.randn(2, 4)), b(torch.randn(2, 4))
    results = extract_logger_info(a, b, OutputLogger, "b")
    places = {
        layer: [
            (r["index_of_arg"], r["index_within_arg"], r["prev_node_name"])
            for r in by["node_input"]["b"]
        ]
        for layer, by in results.items()
    }
    assert places["cat"] == [(0, 0, "fc1"), (0, 1, "fc2")]
    assert places["mul"] == [(0, 0, "cat"), (1, 0, "sum_1")]


def test_a_shadow_differs_by_one_layer_only():
    forms = net_forms()
    shadows = add_shadow_loggers("a", forms.model, "b", forms.converted, OutputLogger)
    assert torch.equal(shadows(forms.x), forms.converted(forms.x))
    results = extract_shadow_logger_info(shadows, OutputLogger, "b")
    before = output(results, "conv", "b").dequantize()
    expected = forms.model.conv2(before).detach()
    torch.testing.assert_close(output(results, "conv2", "a"), expected)
    pooled = output(results, "flatten", "b").dequantize()
    torch.testing.assert_close(output(results, "fc", "a"), forms.model.fc(pooled).detach())


def test_integer_layers_shadow_a_float_model():
    forms = net_forms()
    shadows = add_shadow_loggers("a", forms.converted, "b", forms.model, OutputLogger)
    torch.testing.assert_close(shadows(forms.x), forms.model(forms.x))
    results = extract_shadow_logger_info(shadows, OutputLogger, "a")
    extend_logger_results_with_comparison(results, "b", "a", compute_sqnr, "sqnr")
    found = [by["node_output"]["a"][0] for by in results.values()]
    assert all(isinstance(result["values"][0], QTensor) for result in found)
    assert min(result["sqnr"][0] for result in found) > 25


def test_codes_of_another_scale_are_converted():
    forms = net_forms()
    wider = forms_of(forms.model, 3 * forms.x).converted
    shadows = add_shadow_loggers("a", wider, "b", forms.converted, OutputLogger)
    assert torch.equal(shadows(forms.x), forms.converted(forms.x))
    results = extract_shadow_logger_info(shadows, OutputLogger, "b")
    extend_logger_results_with_comparison(results, "b", "a", compute_sqnr, "sqnr")
    assert min(by["node_output"]["a"][0]["sqnr"][0] for by in results.values()) > 20


@pytest.mark.parametrize("name", NETS)
def test_models_of_every_kind(name):
    model, converted, inputs = quantized(name, "int8-minmax")
    a, b = add_loggers("a", model, "b", converted, OutputLogger, True)
    shadows = add_shadow_loggers("a", model, "b", converted, OutputLogger, True)
    with torch.no_grad():
        a(*inputs)
        for instrumented in (b, shadows):
            pairs = zip(tensors(instrumented(*inputs)), tensors(converted(*inputs)), strict=True)
            assert all(torch.equal(x, y) for x, y in pairs)
    for results, least in (
        (extract_logger_info(a, b, OutputLogger, "b"), 10),
        (extract_shadow_logger_info(shadows, OutputLogger, "b"), 20),
    ):
        extend_logger_results_with_comparison(results, "a", "b", compute_sqnr, "sqnr")
        assert len(results) >= 2
        for by_type in results.values():
            for result in by_type["node_output"]["b"]:
                assert all(value is None or value > least for value in result["sqnr"])


def test_eager_quantized_models_are_traced():
    model = nn.Sequential(
        tq.QuantStub(), nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), tq.DeQuantStub()
    ).eval()
    x = torch.randn(2, 3, 4, 4)
    fused = tq.fuse_modules(model, [["1", "2", "3"]])
    fused.qconfig = tq.get_default_qconfig("onednn")
    prepared = tq.prepare(fused)
    prepared(x)
    converted = tq.convert(prepared)
    shadows = add_shadow_loggers("a", model, "b", converted, OutputLogger)
    assert torch.equal(shadows(x), converted(x))
    results = extract_shadow_logger_info(shadows, OutputLogger, "b")
    extend_logger_results_with_comparison(results, "a", "b", compute_sqnr, "sqnr")
    (layer,) = results.values()
    assert layer["node_output"]["b"][0]["sqnr"][0] > 35


def test_dynamic_layers_of_the_eager_workflow_keep_activations_apart():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    dynamic = tq.quantize_dynamic(model)
    a, b = add_loggers("a", model, "b", dynamic, OutputLogger)
    x = torch.randn(3, 4)
    a(x), b(x)
    assert len(extract_logger_info(a, b, OutputLogger, "b")) == 3


def test_refusals():
    forms = net_forms()
    for function in (add_loggers, add_shadow_loggers):
        with pytest.raises(ArgumentError, match=f"{function.__name__}: both models have the same"):
            function("a", forms.model, "a", forms.converted, OutputLogger)

    class Other(nn.Module):
        def __init__(self, count):
            super().__init__()
            self.count = count

        def forward(self, x):
            return torch.cat([x] + [x * 2.0] * (self.count - 1), 1)

    over = get_unmatchable_types_map()
    over["mods_unmatchable"].add(MulScalar)
    given = ("a", Other(1), "b", Other(2), OutputLogger)
    with pytest.raises(UnsupportedError, match=r"'cat' \(.*cat\) cannot be a shadow.*inputs for"):
        add_shadow_loggers(*given, unmatchable_types_map=over)
