"""Every layer quantized in several ways beside the float model."""

import pytest
import torch
from torch import nn

from qlab.analysis.suite.loggers import loggers_set_enabled
from qlab.analysis.suite.n_shadows import (
    comparisons_frame,
    convert_n_shadows_model,
    extract_results_n_shadows_model,
    prepare_n_shadows_model,
    print_comparisons_n_shadows_model,
)
from qlab.errors import ArgumentError, DTypeError, UncalibratedError, UnsupportedError
from qlab.graph import convert_fx, prepare_fx
from qlab.observers import MinMaxObserver
from qlab.qconfig import QConfig, QConfigMapping, default_dynamic_qconfig
from qlab.qconfig.multi_mapping import QConfigMultiMapping
from qlab.registry.backend import get_native_backend_config
from tests.golden.ns_cases import Net
from tests.workflows.architectures import NETS


def qconfig(bits: int) -> QConfig:
    weight = MinMaxObserver.with_args(
        dtype="qint8", quant_min=-(2 ** (bits - 1)), quant_max=2 ** (bits - 1) - 1
    )
    return QConfig(MinMaxObserver.with_args(dtype="quint8"), weight)


def run(model: nn.Module, inputs, multi) -> nn.Module:
    shadows = prepare_n_shadows_model(model, inputs, multi)
    with torch.no_grad():
        shadows(*inputs)  # loggers are off: nothing is compared yet
        shadows = convert_n_shadows_model(shadows)
        loggers_set_enabled(shadows, True)
        shadows(*inputs)
    return shadows


def test_more_bits_are_better_in_every_layer():
    model, x = Net().eval(), torch.randn(4, 3, 6, 6)
    multi = QConfigMultiMapping().set_global([qconfig(4), qconfig(8)])
    shadows = run(model, (x,), multi)
    torch.testing.assert_close(shadows(x), model(x))
    frame = comparisons_frame(extract_results_n_shadows_model(shadows)).set_index("node_name")
    assert list(frame.index) == ["conv", "conv2", "add", "pool", "flatten", "fc"]
    for layer in ("conv", "conv2", "fc"):
        assert frame.loc[layer, 1] > frame.loc[layer, 0] + 5
    assert frame.loc["add", 0] == frame.loc["add", 1] > 30


def test_a_layer_alone_is_what_the_copy_computes():
    model, x = Net().eval(), torch.randn(4, 3, 6, 6)
    shadows = run(model, (x,), QConfigMultiMapping().set_module_name("conv", [qconfig(8)]))
    assert [n for n, _ in shadows.named_children() if "wrapper" in n] == ["shadow_wrapper_0_1"]
    alone = nn.Sequential(model.conv, model.bn, model.relu)
    prepared = prepare_fx(alone, QConfigMapping().set_global(qconfig(8)), x)
    prepared(x)
    values = extract_results_n_shadows_model(shadows)["model"]["node_output"]["subgraph_0_1"]
    assert torch.equal(values[0]["values"][0], convert_fx(prepared)(x))
    assert values[0]["qconfig_str"] == str(qconfig(8))


def test_layers_without_a_qconfig_in_one_place_have_no_copy_there():
    multi = QConfigMultiMapping().set_global([qconfig(8), default_dynamic_qconfig])
    multi.set_module_name("fc", [qconfig(8)])
    shadows = run(Net().eval(), (torch.randn(2, 3, 6, 6),), multi)
    frame = comparisons_frame(extract_results_n_shadows_model(shadows)).set_index("node_name")
    assert frame.loc["fc"].isna()[1] and not frame.loc["conv"].isna().any()


@pytest.mark.parametrize("name", NETS)
def test_models_of_every_kind(name):
    make, inputs = NETS[name]
    multi = QConfigMultiMapping().set_global([qconfig(8)])
    frame = comparisons_frame(extract_results_n_shadows_model(run(make(), inputs(), multi)))
    assert len(frame) >= 2
    assert (frame[0] > 15).all()


def test_functions_of_a_caller_prepare_and_convert():
    seen = []

    def prepare(model, qconfig_mapping, example_inputs, more):
        seen.append(more)
        return prepare_fx(model, qconfig_mapping, example_inputs)

    def convert(model, more):
        seen.append(more)
        return convert_fx(model)

    x = torch.randn(2, 4)
    multi = QConfigMultiMapping().set_global([qconfig(8)])
    shadows = prepare_n_shadows_model(nn.Linear(4, 2), x, multi, None, prepare, {"more": 1})
    shadows(x)
    convert_n_shadows_model(shadows, convert, {"more": 2})
    assert seen == [1, 2]
    with pytest.raises(ArgumentError, match=r"custom_prepare_kwargs names.*example_inputs"):
        prepare_n_shadows_model(nn.Linear(4, 2), x, multi, None, prepare, {"example_inputs": x})


def test_it_prints_a_table(capsys: pytest.CaptureFixture[str]):
    shadows = run(
        nn.Linear(4, 2), (torch.randn(8, 4),), QConfigMultiMapping().set_global([qconfig(8)])
    )
    print_comparisons_n_shadows_model(extract_results_n_shadows_model(shadows))
    header, row = capsys.readouterr().out.splitlines()
    assert header.split() == ["node_name", "node_type", "fqn", "0"]
    assert row.split()[:3] == ["_0", "torch.nn.modules.linear.Linear", "0"]


def test_refusals():
    model, x = Net().eval(), torch.randn(2, 3, 6, 6)
    multi = QConfigMultiMapping().set_global([qconfig(8)])
    with pytest.raises(DTypeError, match=r"not a mapping to several.*from_list_qconfig_mapping"):
        prepare_n_shadows_model(model, x, QConfigMapping())  # pyright: ignore
    with pytest.raises(ArgumentError, match="no layer has a qconfig"):
        prepare_n_shadows_model(model, x, QConfigMultiMapping())
    for name in ("custom_tracer",):
        with pytest.raises(UnsupportedError, match=f"does not know {name}"):
            prepare_n_shadows_model(model, x, multi, **{name: object()})
    with pytest.raises(ArgumentError, match="convert_n_shadows_model: the model has no copies"):
        convert_n_shadows_model(prepare_fx(model, "int8", x))
    with pytest.raises(ArgumentError, match=r"no results of a model with copies.*'conv'"):
        print_comparisons_n_shadows_model({"conv": {}})


def test_without_calibration_nothing_is_converted():
    shadows = prepare_n_shadows_model(
        Net(), torch.randn(2, 3, 6, 6), QConfigMultiMapping().set_global([qconfig(8)])
    )
    before = dict(shadows.named_children())
    with pytest.raises(UncalibratedError, match="convert_n_shadows_model, shadow_wrapper_0_1"):
        convert_n_shadows_model(shadows)
    assert dict(shadows.named_children()) == before
    with pytest.raises(UncalibratedError, match="extract_results_n_shadows_model: no logger"):
        extract_results_n_shadows_model(shadows)


def test_the_copies_are_prepared_for_a_backend_config():
    mapping, x = QConfigMultiMapping().set_global([qconfig(8)]), torch.randn(2, 3, 6, 6)
    backend = get_native_backend_config()
    with_it = prepare_n_shadows_model(Net(), x, mapping, backend)
    without = prepare_n_shadows_model(Net(), x, mapping, None)
    assert [name for name, _ in with_it.named_children()] == [
        name for name, _ in without.named_children()
    ]
    for name, copied in with_it.named_children():
        if name.startswith("shadow_wrapper_"):
            assert copied.meta["backend"] is backend
