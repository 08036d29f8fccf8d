"""prepare: where qconfigs go, where observers hang, and with which range."""

import copy
import re

import pytest
import torch
from torch import nn

from qlab.eager import (
    add_observer_,
    add_quant_dequant,
    convert,
    get_observer_dict,
    prepare,
    prepare_qat,
    propagate_qconfig_,
)
from qlab.errors import ArgumentError, DTypeError
from qlab.nn.aware import QuantizationAware
from qlab.nn.stubs import QuantStub, QuantWrapper
from qlab.observers import (
    FixedQParamsObserver,
    HistogramObserver,
    MinMaxObserver,
    PerChannelMinMaxObserver,
)
from qlab.qconfig import (
    QConfig,
    default_debug_qconfig,
    default_dynamic_qconfig,
    default_qconfig,
    float16_static_qconfig,
    float_qparams_weight_only_qconfig,
    get_default_qat_qconfig,
    get_default_qconfig,
)
from tests.qlab.eager.nets import conv_net

OTHER = QConfig(MinMaxObserver, MinMaxObserver.with_args(dtype="qint8"))


def test_qconfigs_spread_to_children():
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2), nn.ReLU()))
    model.qconfig = default_qconfig
    model[1].qconfig = None
    propagate_qconfig_(model)
    assert model[0].qconfig is default_qconfig
    assert model[1][0].qconfig is None and model[1][1].qconfig is None


def test_a_dict_gives_qconfigs_by_path_and_class():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.ReLU())
    propagate_qconfig_(model, {"": default_qconfig, "1": OTHER, nn.ReLU: None})
    assert [part.qconfig for part in model] == [default_qconfig, OTHER, None]


def test_children_named_as_not_traceable_get_none():
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    model.qconfig = default_qconfig
    custom = {"non_traceable_module_name": ["0"], "non_traceable_module_class": [nn.ReLU]}
    propagate_qconfig_(model, None, custom)
    assert not hasattr(model[0], "qconfig") and not hasattr(model[1], "qconfig")


def test_a_qconfig_that_is_none_names_the_module():
    model = nn.Sequential(nn.Linear(2, 2))
    model[0].qconfig = "int8"
    with pytest.raises(DTypeError, match=r"qconfig of '0' \(Linear\).*Received 'int8'"):
        prepare(model)


def test_observers_hang_on_what_can_be_quantized():
    model = conv_net()
    model.qconfig = get_default_qconfig()
    prepared = prepare(model)
    found = {}
    get_observer_dict(prepared, found)
    assert set(found) == {
        f"{path}.activation_post_process"
        for path in ("quant", "conv1", "bn1", "conv2", "bn2", "skip", "fc")
    }
    assert all(isinstance(observer, HistogramObserver) for observer in found.values())
    prefixed = {}
    get_observer_dict(prepared.fc, prefixed, "net.fc")
    assert list(prefixed) == ["net.fc.activation_post_process"]


def test_observers_see_outputs_and_change_nothing():
    model, x = conv_net(), torch.randn(2, 3, 8, 8)
    model.qconfig = OTHER
    prepared = prepare(model)
    assert torch.equal(prepared(x), model(x))
    assert float(prepared.quant.activation_post_process.max_val) == float(x.max())


def test_a_module_that_occurs_twice_is_observed_once():
    linear = nn.Linear(2, 2)
    model = nn.Sequential(nn.Sequential(linear), nn.Sequential(linear))
    model.qconfig = OTHER
    prepared = prepare(model)
    assert prepared[0][0] is prepared[1][0]
    assert len(prepared[0][0]._forward_hooks) == 1


def test_a_known_output_range_takes_a_fixed_observer():
    model = nn.Sequential(QuantStub(), nn.Sigmoid())
    model.qconfig = OTHER
    observer = prepare(model)[1].activation_post_process
    assert isinstance(observer, FixedQParamsObserver)
    assert float(observer.scale) == 1 / 256


def test_without_any_qconfig_prepare_warns():
    with pytest.warns(UserWarning, match="no module has a qconfig"):
        prepare(conv_net())


def test_lists_say_what_is_observed():
    model = conv_net()
    model.qconfig = OTHER
    prepared = prepare(model, allow_list={nn.Linear}, observer_non_leaf_module_list={type(model)})
    found = {}
    get_observer_dict(prepared, found)
    observers = {path for path, module in found.items() if not isinstance(module, nn.Identity)}
    assert observers == {"activation_post_process", "fc.activation_post_process"}


class Doubled(nn.Module):
    """A module of one's own."""

    def forward(self, x):
        return x * 2


class ObservedDoubled(Doubled):
    @classmethod
    def from_float(cls, mod):
        assert type(mod) is Doubled
        return cls()


def test_own_modules_are_replaced_by_their_observed_form():
    model = nn.Sequential(Doubled(), nn.Linear(2, 2))
    model.qconfig = OTHER
    custom = {"float_to_observed_custom_module_class": {Doubled: ObservedDoubled}}
    prepared = prepare(model, prepare_custom_config_dict=custom)
    assert type(prepared[0]) is ObservedDoubled
    assert type(model[0]) is Doubled


class Halved(nn.Module):
    """A module of one's own whose quantized form needs a scale for its output."""

    def forward(self, x):
        return x / 2


class ObservedHalved(Halved):
    @classmethod
    def from_float(cls, mod):
        observed = cls()
        observed.qconfig = mod.qconfig
        return observed


class QuantizedHalved(nn.Module):
    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    @classmethod
    def from_observed(cls, mod):
        return cls(float(mod.activation_post_process.calculate_qparams()[0]))


def test_the_output_of_an_observed_form_is_observed():
    model = nn.Sequential(Halved()).eval()
    model.qconfig = QConfig(MinMaxObserver, MinMaxObserver.with_args(dtype="qint8"))
    custom = {"float_to_observed_custom_module_class": {Halved: ObservedHalved}}
    prepared = prepare(model, prepare_custom_config_dict=custom)
    prepared(torch.tensor([0.0, 510.0]))
    assert isinstance(prepared[0].activation_post_process, MinMaxObserver)
    custom = {"observed_to_quantized_custom_module_class": {ObservedHalved: QuantizedHalved}}
    assert convert(prepared, convert_custom_config_dict=custom)[0].scale == 1.0
    unfinished = convert(prepared, convert_custom_config_dict={})
    assert not unfinished[0]._forward_hooks and not list(unfinished[0].children())


def test_add_observer_works_in_place():
    model = nn.Sequential(nn.Linear(2, 2))
    propagate_qconfig_(model, {"": OTHER})
    add_observer_(model)
    assert isinstance(model[0].activation_post_process, MinMaxObserver)


def test_add_quant_dequant_wraps_what_has_a_qconfig():
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    model[0].qconfig = OTHER
    wrapped = add_quant_dequant(model)
    assert wrapped is model
    assert isinstance(model[0], QuantWrapper) and type(model[1]) is nn.ReLU
    single = nn.Linear(2, 2)
    single.qconfig = OTHER
    assert isinstance(add_quant_dequant(single), QuantWrapper)


def test_what_is_no_model_is_refused():
    with pytest.raises(DTypeError, match=r"prepare: not a model.*NoneType"):
        prepare(None)


def test_preparing_twice_warns_and_keeps_what_was_observed():
    model = conv_net()
    model.qconfig = default_qconfig
    prepared = prepare(model)
    shown = repr(prepared)
    with pytest.warns(UserWarning, match=r"prepared already; these keep .* 'quant' and \d+ more"):
        again = prepare(prepared)
    assert repr(again) == shown
    for name, part in again.named_modules():
        assert len(part._forward_hooks) == len(prepared.get_submodule(name)._forward_hooks)


def test_a_qconfig_of_its_own_that_a_module_cannot_follow_is_reported():
    model = nn.Sequential(QuantStub(), nn.Softplus(), nn.ReLU(), nn.Mish(), nn.GRU(2, 2))
    for index in (0, 1, 2, 4):
        model[index].qconfig = OTHER
    with pytest.warns(UserWarning) as caught:
        prepare(model)
    assert len(caught) == 1
    said = str(caught[0].message)
    assert said.startswith("prepare: '1' (Softplus) stays in float: there is no static form of ")
    assert "'4' (GRU) stays in float: there is no static form of GRU, only a dynamic one" in said
    assert f"Its qconfig: {OTHER}" in said
    assert "ReLU" not in said and "Mish" not in said


def test_a_qconfig_for_everything_is_silent():
    model = nn.Sequential(QuantStub(), nn.Softplus())
    model.qconfig = OTHER
    propagate_qconfig_(model)
    assert hasattr(prepare(model)[0], "activation_post_process")


def test_a_prepared_model_of_nothing_that_can_be_observed():
    model = nn.Sequential(nn.Softplus())
    model.qconfig = OTHER
    with pytest.raises(ArgumentError, match="was not prepared"):
        convert(model)
    message = r"was prepared, but no module of it can be observed.*Received Sequential, Softplus"
    with pytest.raises(ArgumentError, match=message):
        convert(prepare(model))


PER_CHANNEL = QConfig(PerChannelMinMaxObserver, default_qconfig.weight)
FLOAT_WEIGHT = QConfig(default_qconfig.activation, nn.Identity)


@pytest.mark.parametrize(
    ("layer", "qconfig", "message"),
    [
        (nn.Linear(3, 3), float16_static_qconfig, r"'1' \(Linear\) .*weight is left in float"),
        (nn.Linear(3, 3), FLOAT_WEIGHT, r"'1' \(Linear\) .*weight is left in float.*Identity"),
        (nn.Linear(3, 3), PER_CHANNEL, r"'1' \(Linear\) .*one scale for the whole.*PerChannel"),
        (nn.Linear(3, 3), default_dynamic_qconfig, r"'1' \(Linear\) .*quantize_dynamic does that"),
        (
            nn.Sigmoid(),
            float16_static_qconfig,
            r"'1' \(Sigmoid\) .*activation is left in float",
        ),
        (nn.Embedding(3, 4), default_qconfig, r"'1' \(Embedding\) .*every row of a table needs"),
    ],
)
def test_a_quantized_form_that_cannot_follow_the_qconfig_is_named(layer, qconfig, message):
    model = nn.Sequential(QuantStub(), layer).eval()
    model.qconfig, model[1].qconfig = default_qconfig, qconfig
    start = r"^prepare: .* cannot follow its qconfig: .*Its qconfig: QConfig\("
    with pytest.warns(UserWarning, match=start) as caught:
        prepare(model)
    assert re.search(message, str(caught[0].message)) and len(caught) == 1


@pytest.mark.parametrize(
    ("layer", "qconfig"),
    [
        (nn.Linear(3, 3), default_qconfig),
        (nn.Linear(3, 3), default_debug_qconfig),
        (nn.Embedding(3, 4), float_qparams_weight_only_qconfig),
        (nn.ReLU(), default_dynamic_qconfig),
        (nn.Conv1d(3, 3, 1), QConfig(MinMaxObserver.with_args(dtype="qint8"), OTHER.weight)),
    ],
)
def test_a_quantized_form_that_can_is_not(layer, qconfig):
    model = nn.Sequential(QuantStub(), layer).eval()
    model.qconfig, model[1].qconfig = default_qconfig, qconfig
    prepare(model)


def test_many_modules_that_cannot_follow_are_counted():
    model = nn.Sequential(*(nn.Linear(3, 3) for _ in range(11))).eval()
    model.qconfig = float16_static_qconfig
    with pytest.warns(UserWarning, match=r"'7' \(Linear\).*; and 3 more modules likewise$"):
        prepare(model)


@pytest.mark.parametrize("training", [False, True])
def test_an_lstm_is_only_observed_by_prepare_whatever_the_mode(training):
    model = QuantWrapper(nn.LSTM(3, 4)).train(training)
    model.qconfig = get_default_qconfig()
    prepared = prepare(model)
    assert not any(isinstance(part, QuantizationAware) for part in prepared.modules())
    prepared(torch.randn(2, 2, 3))
    assert type(convert(prepared.eval()).module).__module__.startswith("qlab.nn.quantized")


def test_an_lstm_learns_under_prepare_qat():
    model = QuantWrapper(nn.LSTM(3, 4)).train()
    model.qconfig = get_default_qat_qconfig()
    assert any(isinstance(part, QuantizationAware) for part in prepare_qat(model).modules())


def test_recorded_values_of_a_training_graph_can_be_copied():
    model = nn.Sequential(QuantStub(), nn.Linear(3, 3))
    model.qconfig = default_debug_qconfig
    prepared = prepare(model)
    prepared(torch.randn(2, 3, requires_grad=True))
    copied = copy.deepcopy(prepared)[1].activation_post_process.get_tensor_value()
    assert len(copied) == 1 and not copied[0].requires_grad
