"""prepare_fx, convert_fx, fuse_fx: what they take, what they refuse."""

import copy
import pickle

import pytest
import torch
from torch import nn

from qlab.errors import (
    ArgumentError,
    DTypeError,
    FormatError,
    UncalibratedError,
    UnknownNameError,
    UnsupportedError,
)
from qlab.graph import as_mapping, convert_fx, fuse_fx, prepare_fx
from qlab.nn import intrinsic as nni
from qlab.nn import quantized as nnq
from qlab.observers import MinMaxObserver, PerChannelMinMaxObserver
from qlab.qconfig import QConfig, QConfigMapping
from tests.qlab.graph.test_annotate import EVERYWHERE, INT8, Net, X


def calibrated(mapping=EVERYWHERE, model=None, **options):
    prepared = prepare_fx(model or Net(), mapping, X, **options)
    prepared(X)
    return prepared


@pytest.mark.parametrize(
    "mapping", [EVERYWHERE, EVERYWHERE.to_dict(), {"": INT8}, "int8"], ids=["mapping", *"abc"]
)
def test_a_mapping_a_dict_or_a_presets_name(mapping):
    assert isinstance(convert_fx(calibrated(mapping)).head, nnq.Linear)


def test_other_mappings_are_refused():
    with pytest.raises(UnknownNameError, match=r"Unknown preset 'int9'.*Did you mean 'int8'"):
        as_mapping("int9")
    with pytest.raises(DTypeError, match="Not a qconfig mapping"):
        as_mapping(8)
    with pytest.raises(FormatError, match="no such kind of rule"):
        as_mapping({"object": []})


def test_an_unprepared_model_is_refused():
    for model in (Net(), torch.fx.symbolic_trace(Net())):
        with pytest.raises(ArgumentError, match=r"was not prepared.*Call prepare_fx"):
            convert_fx(model)


def test_without_data_a_graph_is_converted_that_waits_for_a_state_dict():
    prepared = prepare_fx(model := Net(), EVERYWHERE, X)
    with pytest.warns(UserWarning, match=r"convert_fx: no calibration data reached 'x'.*load"):
        blank = convert_fx(prepared)
    with pytest.raises(UncalibratedError, match=r"not known.*Load a state dict"):
        blank(X)
    prepared(X)
    converted = convert_fx(prepared)
    blank.load_state_dict(converted.state_dict())
    assert torch.equal(blank(X), converted(X))
    assert torch.equal(model(X), model(X))


def test_a_graph_with_data_in_some_places_names_the_layer_without():
    prepared = calibrated()
    prepared.activation_post_process_1.reset_min_max_vals()
    with pytest.raises(UncalibratedError, match="output of 'stem' has no calibrated range"):
        convert_fx(prepared)


def test_a_copy_of_a_calibrated_model_converts_alike():
    prepared = calibrated()
    twin = copy.deepcopy(prepared)
    assert torch.equal(convert_fx(twin)(X), convert_fx(prepared)(X))


def test_converting_leaves_the_prepared_model_as_it_was():
    prepared = calibrated()
    code = prepared.code
    first = convert_fx(prepared)
    prepared(X * 4)
    second = convert_fx(prepared)
    assert prepared.code == code
    assert not first.stem.output_qparams.same_as(second.stem.output_qparams)


def test_another_mapping_may_leave_more_in_float():
    mapping = QConfigMapping().set_global(INT8).set_module_name("head", None)
    converted = convert_fx(calibrated(), qconfig_mapping=mapping)
    assert type(converted.head) is nn.Linear
    few = QConfigMapping().set_module_name("head", INT8)
    with pytest.raises(UncalibratedError, match="output of 'x' has no calibrated range"):
        convert_fx(calibrated(few), qconfig_mapping=EVERYWHERE)


def test_fuse_fx_fuses_without_example_inputs():
    model = Net().eval()
    fused = fuse_fx(model)
    assert type(fused.get_submodule("left.0")) is nni.ConvReLU2d
    torch.testing.assert_close(fused(X), model(X), rtol=1e-4, atol=1e-5)


class Nested(nn.Module):
    def __init__(self):
        super().__init__()
        self.net, self.version = Net(), 7

    def forward(self, x):
        return self.net(x)


def test_custom_configuration():
    custom = {"non_traceable_module_name": ["net"], "preserved_attributes": ["version"]}
    prepared = calibrated(model=Nested(), prepare_custom_config=custom)
    assert type(prepared.net) is Net and prepared.version == 7
    converted = convert_fx(prepared, {"preserved_attributes": ["version"]})
    assert converted.version == 7
    assert converted.meta["plan"].step("net").reason == "no integer form of Net"
    by_class = calibrated(
        model=Nested(), prepare_custom_config={"non_traceable_module_class": [Net]}
    )
    assert type(by_class.net) is Net
    assert fuse_fx(Nested(), {"preserved_attributes": ["version"]}).version == 7


@pytest.mark.parametrize(
    "call",
    [
        lambda: prepare_fx(Net(), EVERYWHERE, X, None, object()),
        lambda: convert_fx(calibrated(), keep_original_weights=True),
    ],
)
def test_customisations_that_are_not_known_are_refused(call):
    with pytest.raises(UnsupportedError, match="_fx does not know"):
        call()


def test_own_observers_decide_activations_and_weights():
    class Doubled(MinMaxObserver):
        """Not registered: its scale is twice what its spec says."""

        def qparams(self):
            found = super().qparams()
            return type(found)(found.scale * 2, found.zero_point, found.dtype)

    own = QConfig(Doubled, Doubled.with_args(dtype="qint8", qscheme="per_tensor_symmetric"))
    plain = QConfig(
        MinMaxObserver, MinMaxObserver.with_args(dtype="qint8", qscheme="per_tensor_symmetric")
    )
    torch.manual_seed(0)
    model = Net()
    scales = []
    for qconfig in (own, plain):
        stem = convert_fx(calibrated(QConfigMapping().set_global(qconfig), model)).stem
        scales.append((stem.output_qparams.scale_value, stem.weight_qparams.scale_value))
    assert scales[0] == (2 * scales[1][0], 2 * scales[1][1])


def test_a_converted_model_is_pickled():
    converted = convert_fx(calibrated())
    again = pickle.loads(pickle.dumps(converted))
    assert torch.equal(again(X), converted(X))


def test_an_activation_with_several_scales_is_reported():
    asked = QConfig(PerChannelMinMaxObserver, MinMaxObserver.with_args(dtype="qint8"))
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)).eval()
    mapping = QConfigMapping().set_global(INT8).set_module_name("1", asked)
    with pytest.warns(
        UserWarning,
        match=r"prepare_fx: '1' \(Linear\) stay.*one scale.*'1' asks.* QConfig\(.*PerChannel",
    ):
        prepare_fx(model, mapping, (torch.randn(2, 4),))
