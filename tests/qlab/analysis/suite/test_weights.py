"""The weights of two forms of a model."""

import pytest
import torch
from torch import nn

from qlab.analysis.suite.metrics import compute_sqnr
from qlab.analysis.suite.results import extend_logger_results_with_comparison
from qlab.analysis.suite.weights import extract_weights, weight_of
from qlab.errors import ArgumentError
from qlab.graph import convert_fx, prepare_qat_fx
from qlab.nn.intrinsic.fold import fold_batch_norm
from qlab.qconfig import QConfigMapping, default_dynamic_qconfig
from qlab.qtensor import QTensor
from qlab.quantization import get_default_qat_qconfig_mapping
from qlab.registry import ROWS
from tests.golden.ns_cases import Net, Recurrent
from tests.qlab.analysis.suite.forms import forms_of, net_forms


def test_a_float_model_has_its_batch_norms_folded_in():
    forms = net_forms()
    results = extract_weights("float", forms.model, "int8", forms.converted)
    assert list(results) == ["conv", "conv2", "fc"]
    weights = {name: by["weight"]["float"][0]["values"][0] for name, by in results.items()}
    folded = fold_batch_norm(forms.model.conv, forms.model.bn)
    assert torch.equal(weights["conv"], folded.weight)
    assert torch.equal(weights["fc"], forms.model.fc.weight)
    for by in results.values():
        quantized = by["weight"]["int8"][0]["values"][0]
        assert isinstance(quantized, QTensor)
    extend_logger_results_with_comparison(results, "float", "int8", compute_sqnr, "sqnr")
    assert min(by["weight"]["int8"][0]["sqnr"][0] for by in results.values()) > 40


def test_a_trained_model_too():
    model, x = Net().train(), torch.randn(4, 3, 6, 6)
    prepared = prepare_qat_fx(model, get_default_qat_qconfig_mapping("onednn"), (x,))
    prepared(x)
    results = extract_weights("a", prepared.eval(), "b", convert_fx(prepared))
    extend_logger_results_with_comparison(results, "a", "b", compute_sqnr, "sqnr")
    # The convolution's unfolded weight would be more than 100 % off.
    assert min(by["weight"]["b"][0]["sqnr"][0] for by in results.values()) > 30


def test_recurrent_layers_give_all_their_products():
    mapping = QConfigMapping().set_global(default_dynamic_qconfig)
    forms = forms_of(Recurrent(), torch.randn(3, 1, 4), mapping)
    results = extract_weights("a", forms.model, "b", forms.converted)
    values = [results["lstm"]["weight"][name][0]["values"][0] for name in ("a", "b")]
    assert [tuple(w.shape) for w in values[0]] == [tuple(w.shape) for w in values[1]]
    assert torch.equal(values[0][1], forms.model.lstm.weight_hh_l0)
    extend_logger_results_with_comparison(results, "a", "b", compute_sqnr, "sqnr")
    assert min(results["lstm"]["weight"]["b"][0]["sqnr"][0]) > 40


def test_functions_of_a_caller_take_the_place_of_the_registry():
    forms = net_forms()
    take = {"call_module": {nn.Linear: lambda module: module.weight + 1}}
    results = extract_weights("a", forms.model, "b", forms.prepared, None, None, take)
    assert list(results) == ["fc"]
    assert torch.equal(
        results["fc"]["weight"]["b"][0]["values"][0], forms.model.fc.weight.detach() + 1
    )


def test_every_row_with_a_weight_gives_one():
    made = {
        "embedding": nn.Embedding(4, 3),
        "embedding_bag": nn.EmbeddingBag(4, 3),
        "prelu": nn.PReLU(),
        "linear": nn.Linear(3, 2),
        "conv1d": nn.Conv1d(2, 3, 1),
        "conv2d": nn.Conv2d(2, 3, 1),
        "conv3d": nn.Conv3d(2, 3, 1),
        "conv_transpose2d": nn.ConvTranspose2d(2, 3, 1),
    }
    for name, module in made.items():
        row = next(row for row in ROWS if row.name == name)
        assert row.weight
        assert torch.equal(weight_of(module), module.weight)
    assert weight_of(nn.ReLU()) is None
    assert weight_of(nn.Sequential()) is None


def test_one_name_for_two_models_is_refused():
    forms = net_forms()
    with pytest.raises(ArgumentError, match="extract_weights: both models have the same name"):
        extract_weights("a", forms.model, "a", forms.converted)
