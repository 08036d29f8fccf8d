"""Arguments of the wrong kind at the public names: the error says which and what is taken."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import torch
from torch import nn

import qlab
import qlab.nn.intrinsic.qat as nniqat
import qlab.nn.intrinsic.quantized as nniq
import qlab.nn.qat as nnqat
import qlab.nn.quantizable as nnqa
import qlab.nn.quantized as nnq
import qlab.nn.quantized.dynamic as nnqd
import qlab.nn.quantized.functional as qF
import qlab.ns._numeric_suite as ns
import qlab.ns._numeric_suite_fx as nsfx
from qlab.errors import QlabError
from qlab.quantization import (
    FakeQuantize,
    FixedQParamsFakeQuantize,
    FixedQParamsObserver,
    HistogramObserver,
    MinMaxObserver,
    MovingAverageMinMaxObserver,
    QConfigMapping,
    QuantWrapper,
    RecordingObserver,
    add_observer_,
    add_quant_dequant,
    convert,
    default_embedding_qat_qconfig,
    default_eval_fn,
    default_qat_qconfig,
    default_qconfig,
    fuse_conv_bn,
    fuse_conv_bn_relu,
    fuse_linear_bn,
    fuse_modules,
    get_default_qconfig,
    get_default_qconfig_mapping,
    get_dynamic_quant_module_class,
    get_fuser_method,
    get_observer_dict,
    get_observer_state_dict,
    get_static_quant_module_class,
    load_observer_state_dict,
    prepare,
    prepare_qat,
    propagate_qconfig_,
    quantize,
    quantize_dynamic,
    quantize_qat,
    swap_module,
    utils,
)
from qlab.quantization.backend_config import BackendPatternConfig
from qlab.quantization.fx.custom_config import (
    ConvertCustomConfig,
    FuseCustomConfig,
    PrepareCustomConfig,
)
from qlab.quantization.quantize_fx import attach_preserved_attrs_to_model, prepare_fx

X = torch.randn(2, 3, 6, 6)
MAPPING = get_default_qconfig_mapping("onednn")
STANDALONE = "standalone_module_name"
TO_OBSERVED = "float_to_observed_custom_module_class"
TO_QUANTIZED = "observed_to_quantized_custom_module_class"


def net() -> nn.Sequential:
    layers = (nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    return nn.Sequential(*layers).eval()


def wrapped() -> QuantWrapper:
    model = QuantWrapper(net())
    model.qconfig = get_default_qconfig("onednn")
    return model


def observed() -> nn.Module:
    return prepare(wrapped())


def converted() -> Any:
    model = observed()
    model(X)
    return convert(model)


def codes() -> qlab.QTensor:
    return qlab.quantize_per_tensor(X, 0.1, 3, qlab.quint8)


def channels() -> qlab.QTensor:
    zeros = torch.zeros(4, dtype=torch.int64)
    return qlab.quantize_per_channel(torch.randn(4, 3), torch.ones(4), zeros, 0, qlab.qint8)


WRONG: list[tuple[Any, str]] = [
    (lambda: prepare(wrapped(), allow_list=3), "prepare: allow_list cannot be used"),
    (
        lambda: prepare(wrapped(), observer_non_leaf_module_list=3),
        "prepare: observer_non_leaf_module_list cannot be used",
    ),
    (
        lambda: prepare(wrapped(), prepare_custom_config_dict=3),
        "prepare: prepare_custom_config_dict cannot be used",
    ),
    (
        lambda: prepare(wrapped(), prepare_custom_config_dict={TO_OBSERVED: 3}),
        "prepare: the entry 'float_to_observed_custom_module_class' cannot be used",
    ),
    (
        lambda: prepare(wrapped(), prepare_custom_config_dict={TO_OBSERVED: {nn.Linear: 3}}),
        "3 cannot take another module's place",
    ),
    (
        lambda: prepare(wrapped(), prepare_custom_config_dict={"non_traceable_module_name": 3}),
        "propagate_qconfig_: names cannot be used",
    ),
    (lambda: convert(observed(), mapping=3), "convert: mapping cannot be used"),
    (
        lambda: convert(observed(), mapping={nn.Linear: 3}),
        "convert: 'module.4' (Linear): 3 cannot take another module's place",
    ),
    (
        lambda: convert(observed(), mapping={nn.Linear: nn.Linear}),
        "convert: 'module.4' (Linear): Linear cannot take another module's place",
    ),
    (
        lambda: convert(observed(), convert_custom_config_dict=3),
        "convert: convert_custom_config_dict cannot be used",
    ),
    (
        lambda: convert(observed(), convert_custom_config_dict={TO_QUANTIZED: 3}),
        "convert: the entry 'observed_to_quantized_custom_module_class' cannot be used",
    ),
    (
        lambda: convert(
            observed(), convert_custom_config_dict={TO_QUANTIZED: {nn.Linear: nn.Linear}}
        ),
        "convert: 'module.4' (Linear): Linear cannot take another module's place",
    ),
    (lambda: prepare_qat(wrapped().train(), mapping=3), "prepare_qat: mapping cannot be used"),
    (
        lambda: prepare_qat(wrapped().train(), mapping={nn.Linear: 3}),
        "prepare_qat: 'module.4' (Linear): 3 cannot take another module's place",
    ),
    (lambda: quantize_qat(wrapped(), None, []), "quantize_qat: run_fn cannot be called"),
    (
        lambda: quantize_qat(wrapped(), lambda m: None, None),
        "quantize_qat: run_args cannot be used",
    ),
    (lambda: quantize_qat(wrapped(), lambda m: None, 3), "quantize_qat: run_args cannot be used"),
    (lambda: quantize(wrapped(), None, []), "quantize: run_fn cannot be called"),
    (lambda: quantize(wrapped(), lambda m: None, None), "quantize: run_args cannot be used"),
    (lambda: quantize(None, lambda m: None, []), "quantize: not a model"),
    (lambda: quantize(wrapped(), default_eval_fn, [[X]]), "default_eval_fn: the data are no pairs"),
    (lambda: quantize(wrapped(), default_eval_fn, [3]), "default_eval_fn: the data cannot be used"),
    (lambda: fuse_modules(net(), [None]), "fuse_modules: a chain to fuse is not named"),
    (lambda: fuse_modules(net(), [0, 1]), "fuse_modules: a chain to fuse is not named"),
    (
        lambda: fuse_modules(net(), ["0", "1"], fuser_func=3),
        "fuse_modules: fuser_func cannot be called",
    ),
    (
        lambda: fuse_modules(net(), ["0", "1"], fuser_func=lambda *a: None),
        "fuse_modules: fuser_func gave something else than the fused modules",
    ),
    (
        lambda: fuse_modules(net(), ["0", "1"], fuser_func=lambda *a: [3, 4]),
        "fuse_modules: fuser_func gave something else than the fused modules",
    ),
    (
        lambda: fuse_modules(net(), ["0", "1"], fuse_custom_config_dict=3),
        "fuse_modules: fuse_custom_config_dict cannot be used",
    ),
    (
        lambda: fuse_modules(
            net(), ["0", "1"], fuse_custom_config_dict={"additional_fuser_method_mapping": 3}
        ),
        "fuse_modules: additional_fuser_method_mapping cannot be used",
    ),
    (lambda: quantize_dynamic(net(), mapping=3), "quantize_dynamic: mapping cannot be used"),
    (
        lambda: quantize_dynamic(net(), mapping={nn.Linear: 3}),
        "convert: '4' (Linear): 3 cannot take another module's place",
    ),
    (lambda: add_quant_dequant(None), "add_quant_dequant: not a model"),
    (lambda: add_observer_(None), "add_observer_: not a model"),
    (lambda: propagate_qconfig_(None), "propagate_qconfig_: not a model"),
    (lambda: propagate_qconfig_(net(), 3), "propagate_qconfig_: qconfig_dict cannot be used"),
    (
        lambda: propagate_qconfig_(net(), None, 3),
        "propagate_qconfig_: prepare_custom_config_dict cannot be used",
    ),
    (
        lambda: swap_module(observed().module[4], {nn.Linear: 3}),
        "3 cannot take another module's place",
    ),
    (lambda: get_observer_dict(None, {}), "get_observer_dict: not a model"),
    (lambda: get_observer_state_dict(None), "get_observer_state_dict: not a model"),
    (lambda: load_observer_state_dict(None, {}), "load_observer_state_dict: not a model"),
    (
        lambda: load_observer_state_dict(observed(), None),
        "load_observer_state_dict: obs_dict cannot be used",
    ),
    (
        lambda: converted().load_state_dict({3: 3}),
        "This state dict does not fit the QuantWrapper, which stays as it was: 3: not a name",
    ),
    (
        lambda: converted().module[4].load_state_dict(None),
        "QuantizedLinear.load_state_dict: the state cannot be used",
    ),
    (
        lambda: converted().module[4].load_state_dict({}),
        "This state dict does not fit the Linear, which stays as it was: weight_codes: missing",
    ),
    (
        lambda: nnqd.Linear(3, 2).load_state_dict({}),
        "This state dict does not fit the Linear, which stays as it was: weight_codes: missing",
    ),
    (
        lambda: nnqd.Linear(3, 2).load_state_dict(None),
        "DynamicQuantizedLinear.load_state_dict: the state cannot be used",
    ),
    (
        lambda: nnq.Embedding(3, 2).load_state_dict({}),
        "This state dict does not fit the Embedding, which stays as it was: weight_codes: missing",
    ),
    (
        lambda: nnq.Linear(3, 2).load_state_dict(dict.fromkeys(nnq.Linear(3, 2).state_dict())),
        "This state dict does not fit the Linear, which stays as it was: weight_codes: not a",
    ),
    (lambda: converted()(), "QuantWrapper: the input to quantize comes by place"),
    (
        lambda: prepare_fx(net(), {"object_type": 3}, (X,)),
        "QConfigMapping: the rules of 'object_type' cannot be used",
    ),
    (
        lambda: prepare_fx(net(), {"object_type": [3]}, (X,)),
        "A rule of 'object_type' is not complete",
    ),
    (
        lambda: prepare_fx(net(), {"module_name": [("a", "b", "c")]}, (X,)),
        "A rule of 'module_name' is not complete",
    ),
    (
        lambda: prepare_fx(net(), MAPPING, (X,), prepare_custom_config={STANDALONE: 3}),
        "custom config: the entry 'standalone_module_name' cannot be used",
    ),
    (
        lambda: prepare_fx(net(), MAPPING, (X,), prepare_custom_config={"preserved_attributes": 3}),
        "custom config: the entry 'preserved_attributes' cannot be used",
    ),
    (
        lambda: attach_preserved_attrs_to_model(None, None),
        "attach_preserved_attrs_to_model: model cannot be used",
    ),
    (
        lambda: attach_preserved_attrs_to_model(net(), 3),
        "attach_preserved_attrs_to_model: model cannot be used",
    ),
    (
        lambda: QConfigMapping().set_object_type([], default_qconfig),
        "set_object_type takes a class, a function or a name",
    ),
    (
        lambda: QConfigMapping().set_module_name_regex(None, default_qconfig),
        "set_module_name_regex: the pattern cannot be used",
    ),
    (lambda: QConfigMapping.from_dict(None), "QConfigMapping: its dict form cannot be used"),
    (lambda: QConfigMapping.from_dict(3), "QConfigMapping: its dict form cannot be used"),
    (lambda: QConfigMapping.from_dict([]), "QConfigMapping: its dict form cannot be used"),
    (
        lambda: PrepareCustomConfig.from_dict(None),
        "PrepareCustomConfig: the dict form cannot be used",
    ),
    (
        lambda: PrepareCustomConfig.from_dict({STANDALONE: [3]}),
        "custom config: an entry of 'standalone_module_name' is not complete",
    ),
    (
        lambda: PrepareCustomConfig().set_non_traceable_module_names(3),
        "custom config: the entry 'non_traceable_module_name' cannot be used",
    ),
    (
        lambda: PrepareCustomConfig().set_non_traceable_module_classes(3),
        "custom config: the entry 'non_traceable_module_class' cannot be used",
    ),
    (
        lambda: PrepareCustomConfig().set_input_quantized_indexes(3),
        "custom config: the entry 'input_quantized_idxs' cannot be used",
    ),
    (
        lambda: PrepareCustomConfig().set_output_quantized_indexes([-1]),
        "Indexes of quantized outputs are whole numbers from 0",
    ),
    (
        lambda: PrepareCustomConfig.from_dict({"input_quantized_idxs": [True]}),
        "Indexes of quantized inputs are whole numbers from 0",
    ),
    (
        lambda: PrepareCustomConfig().set_standalone_module_name(3, None, (), None, None),
        "set_standalone_module_name: the path cannot be used",
    ),
    (
        lambda: PrepareCustomConfig().set_standalone_module_class("a", None, (), None, None),
        "set_standalone_module_class: the class cannot be used",
    ),
    (
        lambda: PrepareCustomConfig().set_non_traceable_module_names([3]),
        "custom config: the entry 'non_traceable_module_name' cannot be used",
    ),
    (
        lambda: PrepareCustomConfig.from_dict({"non_traceable_module_class": ["a"]}),
        "custom config: the entry 'non_traceable_module_class' cannot be used",
    ),
    (
        lambda: ConvertCustomConfig.from_dict({"preserved_attributes": [3]}),
        "custom config: the entry 'preserved_attributes' cannot be used",
    ),
    (
        lambda: ConvertCustomConfig().set_observed_to_quantized_mapping(3, nnqa.LSTM),
        "set_observed_to_quantized_mapping: the class cannot be used",
    ),
    (
        lambda: BackendPatternConfig(nn.Linear).set_dtype_configs(3),
        "set_dtype_configs: the configs cannot be used",
    ),
    (
        lambda: BackendPatternConfig(nn.Linear).set_dtype_configs([3]),
        "set_dtype_configs: a config cannot be used",
    ),
    (
        lambda: BackendPatternConfig(nn.Linear).add_dtype_config(3),
        "add_dtype_config: the config cannot be used",
    ),
    (
        lambda: BackendPatternConfig(nn.Linear).set_observation_type(3),
        "set_observation_type: the type cannot be used",
    ),
    (
        lambda: PrepareCustomConfig().set_preserved_attributes(3),
        "custom config: the entry 'preserved_attributes' cannot be used",
    ),
    (
        lambda: ConvertCustomConfig.from_dict(None),
        "ConvertCustomConfig: the dict form cannot be used",
    ),
    (lambda: FuseCustomConfig.from_dict(None), "FuseCustomConfig: the dict form cannot be used"),
    (lambda: FuseCustomConfig.from_dict(3), "FuseCustomConfig: the dict form cannot be used"),
    (lambda: MinMaxObserver(eps="a"), "TensorSpec: eps cannot be used"),
    (lambda: MinMaxObserver(eps=None), "TensorSpec: eps cannot be used"),
    (lambda: MinMaxObserver(factory_kwargs=3), "MinMaxObserver: factory_kwargs cannot be used"),
    (
        lambda: MinMaxObserver(factory_kwargs={"device": "nope"}),
        "MinMaxObserver: the arguments do not fit",
    ),
    (
        lambda: MovingAverageMinMaxObserver(averaging_constant=None),
        "MovingAverage: the constant cannot be used",
    ),
    (lambda: HistogramObserver(bins=None), "HistogramObserver: at least one bin"),
    (lambda: RecordingObserver()(None), "RecordingObserver: the input is not a tensor"),
    (lambda: FixedQParamsObserver(None, None), "FixedQParamsObserver: scale cannot be used"),
    (lambda: FixedQParamsObserver("a", 0), "FixedQParamsObserver: scale cannot be used"),
    (lambda: FakeQuantize(observer=3), "FakeQuantize: the observer cannot be called"),
    (lambda: FakeQuantize().enable_fake_quant("a"), "enable_fake_quant: enabled cannot be used"),
    (lambda: FakeQuantize().enable_observer(None), "enable_observer: enabled cannot be used"),
    (lambda: FixedQParamsFakeQuantize(3), "FakeQuantize: the observer cannot be called"),
    (
        lambda: nnq.Linear(3, 4).set_weight_bias(channels(), "a"),
        "QuantizedLinear: the bias cannot be used",
    ),
    (
        lambda: nnq.Linear.from_reference(nn.Linear(3, 2), 1.0, 0),
        "QuantizedLinear.from_reference: not a reference module",
    ),
    (lambda: nnq.BatchNorm2d("a"), "BatchNorm: invalid number of features"),
    (lambda: nnq.LayerNorm(None), "LayerNorm: normalized_shape cannot be used"),
    (lambda: nnq.PReLU(1.0, 0, "a"), "PReLU: the arguments do not fit"),
    (lambda: nnq.Dropout("a"), "Dropout: the arguments do not fit"),
    (lambda: nnq.Dropout(9), "Dropout: the arguments do not fit"),
    (lambda: nnq.FloatFunctional().cat(None), "FloatFunctional.cat: the tensors cannot be used"),
    (lambda: nnq.QFunctional().cat(None), "QFunctional.cat: the tensors cannot be used"),
    (lambda: nnq.LSTM(3, 4)(None), "QuantizedLSTM: the input is not a tensor"),
    (
        lambda: nnq.MultiheadAttention(4, 2)(None, None, None),
        "QuantizedMultiheadAttention: the query is not a tensor",
    ),
    (lambda: nnq.MultiheadAttention(4, 3), "MultiheadAttention: the arguments do not fit"),
    (lambda: nnqa.LSTM(3, 4)(None), "QuantizableLSTM: the input is not a tensor"),
    (lambda: nnqa.LSTM("a", 4), "LSTMCell: invalid sizes"),
    (lambda: nnqa.LSTM(3, 4, num_layers="a"), "LSTM: invalid number of layers"),
    (lambda: nnqa.LSTM(3, 4, dropout="a"), "LSTM: dropout must be a number"),
    (lambda: nnqa.LSTMCell("a", 4), "LSTMCell: invalid sizes"),
    (lambda: nnqa.MultiheadAttention("a", 4), "MultiheadAttention: the arguments do not fit"),
    (lambda: nnqa.MultiheadAttention(4, "a"), "MultiheadAttention: the arguments do not fit"),
    (
        lambda: nnqa.MultiheadAttention(4, 2)(None, None, None),
        "QuantizableMultiheadAttention: the query is not a tensor",
    ),
    (
        lambda: nnqd.LSTM(3, 2)(torch.ones(4, 1, 3), 3),
        "DynamicQuantizedLSTM: the initial state is no tensor",
    ),
    (
        lambda: nnqd.LSTM(3, 2)(torch.ones(4, 1, 3), (None, None)),
        "DynamicQuantizedLSTM: the initial state is no tensor",
    ),
    (lambda: nnqd.LSTM(3, 2, num_layers="a"), "LSTM: invalid number of layers"),
    (lambda: nnqd.LSTM(3, 2, dropout="a"), "LSTM: dropout must be a number"),
    (
        lambda: nnqd.GRU(3, 2)(torch.ones(4, 1, 3), "a"),
        "DynamicQuantizedGRU: the initial state is no tensor",
    ),
    (
        lambda: nnqd.LSTMCell(3, 2)(torch.ones(4, 3), 3),
        "DynamicQuantizedLSTMCell: the initial state is no tensor",
    ),
    (
        lambda: nnqat.Conv2d(3, 4, None, qconfig=default_qat_qconfig),
        "Conv2d: the arguments do not fit",
    ),
    (
        lambda: nnqat.Conv2d(3, 4, 3, padding_mode="a", qconfig=default_qat_qconfig),
        "Conv2d: the arguments do not fit",
    ),
    (
        lambda: nnqat.Embedding("a", 4, qconfig=default_embedding_qat_qconfig),
        "Embedding: the arguments do not fit",
    ),
    (
        lambda: nnqat.EmbeddingBag("a", 4, qconfig=default_embedding_qat_qconfig),
        "EmbeddingBag: the arguments do not fit",
    ),
    (
        lambda: nniqat.ConvBn2d("a", 4, 3, qconfig=default_qat_qconfig),
        "ConvBn2d: the arguments do not fit",
    ),
    (lambda: nniq.BNReLU2d("a"), "BatchNorm: invalid number of features"),
    (lambda: qF.conv2d(codes(), codes(), "a"), "A layer: a parameter cannot be used"),
    (lambda: qF.linear(codes(), codes(), "a"), "A layer: a parameter cannot be used"),
    (
        lambda: qF.adaptive_avg_pool2d(codes(), torch.ones(2)),
        "adaptive_avg_pool2d: the arguments do not fit",
    ),
    (lambda: qF.celu(codes(), 1.0, 0, "a"), "celu: alpha must be a number"),
    (lambda: qF.elu(codes(), 1.0, 0, "a"), "elu: alpha must be a number"),
    (lambda: qF.elu(codes(), 1.0, 0, None), "elu: alpha must be a number"),
    (lambda: qF.leaky_relu(codes(), "a"), "leaky_relu: negative_slope must be a number"),
    (lambda: qF.hardtanh(codes(), "a"), "hardtanh: min_val must be a number"),
    (lambda: qF.threshold(codes(), "a", 0), "threshold: threshold must be a number"),
    (lambda: qF.threshold(codes(), codes(), codes()), "threshold: threshold must be a number"),
    (lambda: qF.clamp(codes(), "a", 1), "hardtanh: min_val must be a number"),
    (lambda: qF.clamp(codes(), codes(), codes()), "hardtanh: min_val must be a number"),
    (lambda: qF.clamp(codes(), None, None), "hardtanh: min_val must be a number"),
    (lambda: ns.compare_weights(None, None), "compare_weights: a state dict cannot be used"),
    (
        lambda: ns.compare_model_stub(net(), converted(), None, X),
        "prepare_model_with_stubs: module_swap_list cannot be used",
    ),
    (
        lambda: ns.compare_model_stub(net(), converted(), [3], X),
        "prepare_model_with_stubs: a class to shadow cannot be used",
    ),
    (lambda: ns.get_logger_dict(None), "get_logger_dict: not a model"),
    (lambda: ns.get_matching_activations(None, None), "get_logger_dict: not a model"),
    (
        lambda: nsfx.add_loggers("a", net(), "b", net(), None),
        "Loggers: logger_cls cannot be called",
    ),
    (lambda: nsfx.add_loggers("a", net(), "b", net(), 3), "Loggers: logger_cls cannot be called"),
    (lambda: nsfx.extract_logger_info(None, None, None, None), "extract_logger_info: not a model"),
    (
        lambda: nsfx.extract_shadow_logger_info(None, None, None),
        "extract_shadow_logger_info: not a model",
    ),
    (
        lambda: nsfx.extend_logger_results_with_comparison(None, "a", "b", None, "x"),
        "extend_logger_results_with_comparison: comparison_fn cannot be called",
    ),
    (
        lambda: nsfx.extend_logger_results_with_comparison({"a": 3}, "a", "b", None, "x"),
        "extend_logger_results_with_comparison: comparison_fn cannot be called",
    ),
    (lambda: nsfx.convert_n_shadows_model(None), "convert_n_shadows_model: not a model"),
    (
        lambda: nsfx.extract_results_n_shadows_model(None),
        "extract_results_n_shadows_model: not a model",
    ),
    (
        lambda: nsfx.print_comparisons_n_shadows_model(None),
        "print_comparisons_n_shadows_model: results cannot be used",
    ),
    (lambda: nsfx.loggers_set_enabled(None, True), "loggers_set_enabled: not a model"),
    (
        lambda: nsfx.loggers_set_save_activations(None, True),
        "loggers_set_save_activations: not a model",
    ),
    (lambda: QuantWrapper(None), "QuantWrapper: not a model"),
    (lambda: QuantWrapper(nn.ReLU())(), "QuantWrapper: the input to quantize comes by place"),
    (lambda: get_static_quant_module_class(None), "the quantized form: a class cannot be used"),
    (lambda: get_static_quant_module_class(3), "the quantized form: a class cannot be used"),
    (
        lambda: get_static_quant_module_class(nn.Linear, 3),
        "get_static_quant_module_class: mapping cannot be used",
    ),
    (
        lambda: get_dynamic_quant_module_class(None),
        "the dynamically quantized form: a class cannot be used",
    ),
    (lambda: get_fuser_method(None), "get_fuser_method: op_list cannot be used"),
    (lambda: get_fuser_method(3), "get_fuser_method: op_list cannot be used"),
    (lambda: fuse_conv_bn(None, None, None), "fuse_modules: not a model"),
    (lambda: fuse_linear_bn(None, None, None), "fuse_modules: not a model"),
    (lambda: fuse_conv_bn_relu(None, None, None, None), "fuse_modules: not a model"),
    (lambda: utils.get_fqn_to_example_inputs(None, None), "get_fqn_to_example_inputs: not a model"),
    (
        lambda: utils.get_fqn_to_example_inputs(net(), X),
        "get_fqn_to_example_inputs: example_inputs cannot be used",
    ),
    (lambda: utils.get_quant_type(None), "A question about a qconfig: the argument cannot be used"),
    (
        lambda: utils.activation_dtype(None),
        "A question about a qconfig: the argument cannot be used",
    ),
    (lambda: utils.weight_dtype(3), "A question about a qconfig: the argument cannot be used"),
    (
        lambda: utils.weight_is_quantized(None),
        "A question about a qconfig: the argument cannot be used",
    ),
    (lambda: utils.validate_qmin_qmax(None, None), "validate_qmin_qmax: a code cannot be used"),
    (
        lambda: utils.check_min_max_valid(None, None),
        "check_min_max_valid: the smallest value is not a tensor",
    ),
    (lambda: utils.get_qparam_dict(None), "get_qparam_dict: not an observer"),
    (
        lambda: utils.get_qconfig_dtypes(None),
        "A question about a qconfig: the argument cannot be used",
    ),
]


@pytest.mark.parametrize(("call", "message"), WRONG, ids=[str(i) for i in range(len(WRONG))])
def test_the_error_names_what_cannot_be_used(call: Any, message: str):
    with pytest.raises(QlabError, match=f"^{re.escape(message)}"):
        call()


def state(model: nn.Module) -> dict[str, Any]:
    return {
        path: (type(module), getattr(module, "qconfig", "none"), module.training)
        for path, module in model.named_modules()
    }


IN_PLACE: dict[str, tuple[Any, Any]] = {
    "prepare": (wrapped, lambda m: prepare(m, inplace=True, allow_list=3)),  # pyright: ignore
    "prepare, custom": (
        wrapped,
        lambda m: prepare(
            m, inplace=True, prepare_custom_config_dict={TO_OBSERVED: {nn.Linear: 3}}
        ),
    ),
    "convert": (observed, lambda m: convert(m, {nn.Linear: 3}, inplace=True)),
    "fuse_modules": (
        net,
        lambda m: fuse_modules(m, ["0", "1"], inplace=True, fuser_func=lambda *_: [3, 4]),  # pyright: ignore
    ),
    "quantize": (wrapped, lambda m: quantize(m.train(), None, [], inplace=True)),  # pyright: ignore
    "quantize_dynamic": (
        lambda: net().train(),
        lambda m: quantize_dynamic(m, mapping=3, inplace=True),  # pyright: ignore
    ),
    "propagate_qconfig_": (net, lambda m: propagate_qconfig_(m, 3)),  # pyright: ignore
    "load_observer_state_dict": (observed, lambda m: load_observer_state_dict(m, None)),  # pyright: ignore
}


@pytest.mark.parametrize("name", IN_PLACE)
def test_the_model_is_left_as_it_was(name: str):
    make, call = IN_PLACE[name]
    model = make()
    if name == "quantize":
        model.train()
    before, weights = state(model), copy.deepcopy(model.state_dict())
    with pytest.raises(QlabError):
        call(model)
    assert state(model) == before
    assert list(model.state_dict()) == list(weights)


@pytest.mark.parametrize("make", [lambda: nnq.Linear(3, 2), lambda: nnqd.Linear(3, 2)])
def test_a_state_that_does_not_fit_a_lone_module_leaves_it_as_it_was(make: Any):
    module = make()
    before = {k: v.clone() for k, v in module.state_dict().items() if v is not None}
    name = next(k for k in before if k.endswith("weight_codes") or "codes" in k)
    scale = next(k for k in before if "scale" in k)
    wrong = {**before, scale: before[scale] * 2, name: torch.zeros(9, 9, dtype=torch.int8)}
    with pytest.raises(QlabError, match=rf"stays as it was: .*{name}"):
        module.load_state_dict(wrong)
    assert all(torch.equal(value, module.state_dict()[k]) for k, value in before.items())
