"""The eager workflow: fuse, prepare, calibrate, convert; and the same integers as in a graph."""

import copy

import torch
from torch import nn

from qlab.eager import convert, fuse_modules, prepare, quantize
from qlab.graph import convert_fx, prepare_fx
from qlab.nn import quantized as nnq
from qlab.nn.intrinsic import quantized as nniq
from qlab.qconfig import get_default_qconfig, get_default_qconfig_mapping
from tests.qlab.eager.nets import batches, conv_net
from tests.workflows.test_fx import sqnr


def calibrated(model, data):
    model.qconfig = get_default_qconfig()
    prepared = prepare(fuse_modules(model, model.fusable))
    with torch.no_grad():
        for batch in data:
            prepared(batch)
    return prepared


def test_the_eager_model_gives_the_integers_of_the_graph():
    model, data = conv_net(), batches()
    converted = convert(calibrated(model, data))
    assert isinstance(converted.quant, nnq.Quantize)
    assert isinstance(converted.conv1, nniq.ConvReLU2d)
    assert isinstance(converted.skip, nnq.QFunctional)
    assert isinstance(converted.bn1, nn.Identity)

    prepared = prepare_fx(model, get_default_qconfig_mapping(), data[0])
    with torch.no_grad():
        for batch in data:
            prepared(batch)
    graph = convert_fx(prepared)
    x = torch.randn(16, 3, 8, 8)
    with torch.no_grad():
        eager, traced, reference = converted(x), graph(x), model(x)
    for path in ("conv1", "conv2", "fc"):
        ours, theirs = graph.get_submodule(path), converted.get_submodule(path)
        assert ours.output_qparams.same_as(theirs.output_qparams)
        assert torch.equal(ours.weight().codes, theirs.weight().codes)
    assert torch.equal(eager, traced)
    assert sqnr(reference, eager) >= 20


def test_every_step_copies():
    model, data = conv_net(), batches()
    before = copy.deepcopy(model.state_dict())
    kinds = [type(module) for module in model.modules()]
    prepared = calibrated(model, data)
    convert(prepared)
    assert [type(module) for module in model.modules()] == kinds
    assert not hasattr(model.conv1, "qconfig")
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])
    assert isinstance(prepared.fc, nn.Linear)


def test_in_place_changes_the_model_itself():
    model, data = conv_net(), batches()
    model.qconfig = get_default_qconfig()
    assert fuse_modules(model, model.fusable, inplace=True) is model
    assert prepare(model, inplace=True) is model
    model(data[0])
    assert convert(model, inplace=True) is model
    assert isinstance(model.fc, nnq.Linear)
    assert not hasattr(model, "qconfig")


def test_quantize_does_it_in_one_call():
    model, data = conv_net(), batches()
    model.qconfig = get_default_qconfig()

    def calibrate(prepared, given):
        for batch in given:
            prepared(batch)

    converted = quantize(model, calibrate, [data])
    assert isinstance(converted.fc, nnq.Linear)
    assert isinstance(model.fc, nn.Linear)
    converted(data[0])


def test_a_converted_model_is_restored_from_its_state_dict():
    model, data = conv_net(), batches()
    converted = convert(calibrated(model, data))
    other = convert(calibrated(model, [batch * 3 for batch in data]))
    x = data[0]
    assert not torch.equal(other(x), converted(x))
    other.load_state_dict(converted.state_dict())
    assert torch.equal(other(x), converted(x))
    assert torch.equal(copy.deepcopy(converted)(x), converted(x))


def test_a_module_without_qconfig_stays_in_float():
    model, data = conv_net(), batches()
    model.fc.qconfig = None
    prepared = calibrated(model, data)
    assert not hasattr(prepared.fc, "activation_post_process")
    converted = convert(prepared)
    assert type(converted.fc) is nn.Linear
