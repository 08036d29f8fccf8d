"""What the graph workflow does with models and arguments that it cannot take as they are."""

import pytest
import torch
from torch import nn

from qlab.errors import ArgumentError, DTypeError, NonFiniteError, TraceError
from qlab.graph import convert_fx, fuse_fx, prepare_fx

X = torch.randn(16, 6)


def calibrated(model):
    prepared = prepare_fx(model.eval(), "int8", X)
    prepared(X)
    return prepared


def step(prepared, name):
    return prepared.meta["plan"].step(name)


def test_a_layer_with_a_forward_hook_stays_in_float_and_keeps_it():
    model = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2))
    model[0].register_forward_hook(lambda module, inputs, output: output * 2)
    prepared = calibrated(model)
    assert "hooks" in step(prepared, "0").reason
    torch.testing.assert_close(convert_fx(prepared)(X), model(X), atol=0.1, rtol=0)


def test_a_batch_norm_without_running_statistics_stays_in_float():
    norm, images = nn.BatchNorm2d(4, track_running_stats=False), torch.randn(4, 3, 6, 6)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), norm, nn.ReLU()).eval()
    prepared = prepare_fx(model, "int8", images)
    prepared(images)
    assert "running statistics" in step(prepared, "1").reason
    torch.testing.assert_close(convert_fx(prepared)(images), model(images), atol=0.1, rtol=0)


def test_bounds_of_a_hardtanh_may_be_whole_numbers():
    model = nn.Sequential(nn.Linear(6, 4), nn.Hardtanh(-2, 3))
    torch.testing.assert_close(convert_fx(calibrated(model))(X), model(X), atol=0.05, rtol=0)


@pytest.mark.parametrize("name", ["weight", "bias"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_parameter_that_is_not_finite_is_named(name, value):
    model = nn.Sequential(nn.Linear(6, 4), nn.ReLU())
    getattr(model[0], name).data.view(-1)[0] = value
    with pytest.raises(NonFiniteError, match=f"{name} of layer '0'.*1 NaN or infinite of"):
        convert_fx(calibrated(model))


def test_a_model_is_prepared_and_converted_once():
    prepared = calibrated(nn.Linear(6, 4))
    converted = convert_fx(prepared)
    with pytest.raises(ArgumentError, match="converted already"):
        convert_fx(converted)
    for model in (prepared, converted):
        with pytest.raises(ArgumentError, match="prepared or converted already"):
            prepare_fx(model, "int8", X)


@pytest.mark.parametrize("model", [None, "resnet18", nn.Linear])
def test_what_is_no_model_is_refused(model):
    with pytest.raises(DTypeError, match=r"Not a model\. Expected a torch.nn.Module"):
        prepare_fx(model, "int8", X)
    with pytest.raises(DTypeError, match="Not a model"):
        fuse_fx(model)


def test_lazy_layers_have_no_parameters_yet():
    with pytest.raises(ArgumentError, match=r"layer '0' .LazyLinear. do not exist yet"):
        prepare_fx(nn.Sequential(nn.LazyLinear(4)), "int8", X)


def test_a_module_named_like_a_python_keyword_is_named():
    model = nn.Sequential()
    model.add_module("class", nn.Linear(6, 4))
    with pytest.raises(TraceError, match="'class'"):
        prepare_fx(model, "int8", X)


def test_names_that_are_no_identifiers_are_fine():
    model = nn.Sequential()
    model.add_module("a b-c", nn.Linear(6, 4))
    model.add_module("é", nn.ReLU())
    model.add_module("1", nn.Linear(4, 4))
    torch.testing.assert_close(convert_fx(calibrated(model))(X), model(X), atol=0.05, rtol=0)


def test_customisations_that_do_not_fit_are_refused():
    with pytest.raises(DTypeError, match="dict form"):
        prepare_fx(nn.Linear(6, 4), "int8", X, prepare_custom_config=["a"])
    with pytest.raises(ArgumentError, match=r"preserved attribute.*'missing'"):
        prepare_fx(
            nn.Linear(6, 4), "int8", X, prepare_custom_config={"preserved_attributes": ["missing"]}
        )
