"""The drop-in names of the reference are where its users look for them."""

import importlib
import subprocess
import sys
from types import ModuleType

import pytest

import qlab
import qlab.quantization

NAMES = {
    "observer": """
        ObserverBase MinMaxObserver MovingAverageMinMaxObserver PerChannelMinMaxObserver
        MovingAveragePerChannelMinMaxObserver HistogramObserver PlaceholderObserver
        RecordingObserver NoopObserver get_observer_state_dict load_observer_state_dict
        default_observer default_placeholder_observer default_debug_observer
        default_weight_observer default_histogram_observer default_per_channel_weight_observer
        default_dynamic_quant_observer default_float_qparams_observer
        UniformQuantizationObserverBase FixedQParamsObserver ReuseInputObserver
    """,
    "fake_quantize": """
        FakeQuantizeBase FakeQuantize FixedQParamsFakeQuantize FusedMovingAvgObsFakeQuantize
        default_fake_quant default_weight_fake_quant default_per_channel_weight_fake_quant
        default_histogram_fake_quant default_fused_act_fake_quant default_fused_wt_fake_quant
        default_fused_per_channel_wt_fake_quant disable_fake_quant enable_fake_quant
        disable_observer enable_observer
    """,
    "qconfig": """
        QConfig default_qconfig default_debug_qconfig default_per_channel_qconfig
        default_dynamic_qconfig float16_dynamic_qconfig float16_static_qconfig
        per_channel_dynamic_qconfig float_qparams_weight_only_qconfig default_qat_qconfig
        default_weight_only_qconfig default_activation_only_qconfig default_qat_qconfig_v2
        get_default_qconfig get_default_qat_qconfig default_embedding_qat_qconfig
    """,
    "qconfig_mapping": """
        QConfigMapping get_default_qconfig_mapping get_default_qat_qconfig_mapping
    """,
    "quantize": """
        quantize quantize_dynamic quantize_qat prepare prepare_qat convert propagate_qconfig_
        swap_module add_quant_dequant add_observer_ get_observer_dict default_eval_fn
    """,
    "fuse_modules": "fuse_modules fuse_modules_qat fuse_known_modules",
    "stubs": "QuantStub DeQuantStub QuantWrapper",
}


@pytest.mark.parametrize("module", NAMES)
def test_names_are_in_the_submodule_and_in_the_package(module):
    face = importlib.import_module(f"qlab.quantization.{module}")
    for name in NAMES[module].split():
        assert getattr(face, name) is getattr(qlab.quantization, name)


def test_submodules_stay_submodules():
    assert isinstance(qlab.quantization.fake_quantize, ModuleType)


@pytest.mark.parametrize(
    "first", ["qlab.quantization", "qlab.quantization.fake_quantize", "qlab.observers", "qlab"]
)
def test_any_import_order_works(first):
    code = f"import {first}; import qlab.quantization as q; q.FakeQuantize; q.fake_quantize.fuse"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
    )
    assert "module 'qlab.quantization.fake_quantize' has no attribute 'fuse'" in run.stderr


def test_top_level_names():
    assert {"QConfig", "QTensor", "quantize_per_tensor", "quint8"} <= set(qlab.__all__)
    for name in qlab.__all__:
        assert getattr(qlab, name) is not None


def test_graph_names_are_in_their_submodule_only():
    face = importlib.import_module("qlab.quantization.quantize_fx")
    assert {"prepare_fx", "convert_fx", "convert_to_reference_fx"} <= set(face.__all__)
    assert all(callable(getattr(face, name)) for name in face.__all__)


@pytest.mark.parametrize("first", ["quantize", "fuse_modules", "quantize_fx"])
def test_names_of_submodules_that_are_functions_too_are_functions(first):
    code = (
        f"import qlab.quantization.{first}; import qlab.quantization as q; "
        "from qlab.quantization.quantize import prepare; "
        "assert type(q.quantize).__name__ == type(q.fuse_modules).__name__ == 'function'; "
        "assert q.prepare is prepare"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


SUITE = {
    "_numeric_suite": """
        NON_LEAF_MODULE_TO_ADD_OBSERVER_ALLOW_LIST
        compare_weights get_logger_dict Logger ShadowLogger OutputLogger Shadow
        prepare_model_with_stubs compare_model_stub get_matching_activations
        prepare_model_outputs compare_model_outputs
    """,
    "_numeric_suite_fx": """
        OutputLogger OutputComparisonLogger NSTracer extract_weights add_loggers
        extract_logger_info add_shadow_loggers extract_shadow_logger_info
        extend_logger_results_with_comparison prepare_n_shadows_model loggers_set_enabled
        loggers_set_save_activations convert_n_shadows_model extract_results_n_shadows_model
        print_comparisons_n_shadows_model
    """,
    "fx.utils": "compute_sqnr compute_normalized_l2_error compute_cosine_similarity",
    "fx.qconfig_multi_mapping": "QConfigMultiMapping",
    "fx.ns_types": """
        NSSingleResultValuesType NSSubgraph NSSingleResultType NSResultsType NSNodeTargetType
    """,
    "fx.graph_matcher": "get_matching_subgraph_pairs GraphMatchingException",
    "fx.weight_utils": "get_conv_mod_weight get_linear_mod_weight get_lstm_mod_weights",
    "fx.mappings": """
        get_base_name_to_sets_of_related_ops get_unmatchable_types_map
        add_op_to_sets_of_related_ops
    """,
}


@pytest.mark.parametrize("module", SUITE)
def test_names_of_the_numeric_suite(module):
    face = importlib.import_module(f"qlab.ns.{module}")
    assert set(SUITE[module].split()) == set(face.__all__)
    assert all(getattr(face, name) is not None for name in face.__all__)
