"""convert: what is swapped, what stays, and errors that name the module and change nothing."""

import copy
from functools import partial

import pytest
import torch
from torch import nn

import qlab
from qlab.eager import convert, default_eval_fn, prepare, quantize, static_mappings, swap_module
from qlab.errors import ArgumentError, DTypeError, QlabError, UncalibratedError, UnsupportedError
from qlab.nn import quantized as nnq
from qlab.nn.quantized import FloatFunctional
from qlab.nn.stubs import DeQuantStub, QuantStub, QuantWrapper
from qlab.observers import MinMaxObserver, NoopObserver, PlaceholderObserver
from qlab.qconfig import (
    QConfig,
    default_weight_only_qconfig,
    float16_static_qconfig,
    get_default_qconfig,
)
from qlab.registry import ROWS, OutputKind
from tests.qlab.eager.nets import batches, conv_net

QCONFIG = QConfig(MinMaxObserver, MinMaxObserver.with_args(dtype="qint8"))


def prepared_net(data=()):
    model = conv_net()
    model.qconfig = get_default_qconfig()
    prepared = prepare(model)
    for batch in data:
        prepared(batch)
    return prepared


def test_the_mappings_are_the_registrys():
    table = static_mappings()
    assert table[nn.Conv2d] is nnq.Conv2d
    assert table[QuantStub] is nnq.Quantize and table[DeQuantStub] is nnq.DeQuantize
    for row in ROWS:
        for module in row.modules:
            swapped = row.static is not None and row.output.kind is not OutputKind.SHARED
            assert (module in table) == swapped


def test_an_unprepared_model_is_refused():
    model = conv_net()
    model.qconfig = get_default_qconfig()
    with pytest.raises(ArgumentError, match=r"the model was not prepared.*call prepare"):
        convert(model)


def test_without_data_a_model_is_converted_that_waits_for_a_state_dict():
    prepared = prepared_net()
    with pytest.warns(UserWarning, match=r"convert: no calibration data reached 'quant', .*load"):
        blank = convert(prepared)
    x = batches()[0]
    with pytest.raises(UncalibratedError, match=r"not known.*Load a state dict"):
        blank(x)
    prepared(x)  # the prepared model still has its own observers
    converted = convert(prepared)
    blank.load_state_dict(converted.state_dict())
    assert torch.equal(blank(x), converted(x))


class SometimesAdds(nn.Module):
    """A residual block as the tutorials write it: the adder is there where nothing is added."""

    def __init__(self):
        super().__init__()
        self.conv, self.adder = nn.Conv2d(3, 4, 3), FloatFunctional()

    def forward(self, x):
        return self.conv(x)


def test_a_module_that_is_never_called_does_not_stop_the_others():
    model = QuantWrapper(SometimesAdds()).eval()
    model.qconfig = get_default_qconfig()
    prepared = prepare(model)
    prepared(x := torch.randn(2, 3, 8, 8))
    with pytest.warns(UserWarning, match=r"no calibration data reached 'module\.adder'\."):
        converted = convert(prepared)
    assert converted(x).shape == (2, 4, 6, 6)
    q = qlab.quantize_per_tensor(x, 0.1, 128, "quint8")
    with pytest.raises(UncalibratedError, match="QFunctional: the scale of its output"):
        converted.module.adder.add(q, q)


def test_a_refused_module_leaves_the_model_as_it_was():
    prepared = prepared_net()
    observer = prepared.quant.activation_post_process
    prepared.fc.qconfig = float16_static_qconfig
    prepared.fc.activation_post_process = float16_static_qconfig.activation()
    kinds = [type(module) for module in prepared.modules()]
    with pytest.raises(QlabError, match="'fc'"):
        convert(prepared, inplace=True)
    assert [type(module) for module in prepared.modules()] == kinds
    assert prepared.quant.activation_post_process is observer


def test_no_trace_of_preparing_is_left():
    converted = convert(prepared_net(batches()))
    for module in converted.modules():
        assert "qconfig" not in vars(module)
        assert not module._forward_hooks
        assert "activation_post_process" not in module._modules or isinstance(
            module, nnq.QFunctional
        )
    kept = convert(prepared_net(batches()), remove_qconfig=False)
    assert kept.qconfig == get_default_qconfig()


def test_is_reference_is_refused():
    with pytest.raises(ArgumentError, match="is_reference"):
        convert(prepared_net(batches()), is_reference=True)


def test_a_module_in_two_places_stays_one():
    linear = nn.Linear(2, 2)
    model = nn.Sequential(QuantStub(), nn.Sequential(linear), nn.Sequential(linear), DeQuantStub())
    model.qconfig = QCONFIG
    prepared = prepare(model)
    prepared(torch.randn(4, 2))
    converted = convert(prepared)
    assert isinstance(converted[1][0], nnq.Linear)
    assert converted[1][0] is converted[2][0]
    converted(torch.randn(4, 2))


def test_own_hooks_stay():
    seen = []
    model = conv_net()
    model.fc.register_forward_hook(lambda module, args, output: seen.append(type(output).__name__))
    model.fc.register_forward_pre_hook(lambda module, args: seen.append("before"))
    model.qconfig = get_default_qconfig()
    prepared = prepare(model)
    prepared(batches()[0])
    seen.clear()
    convert(prepared)(batches()[0])
    assert seen == ["before", "QTensor"]


def test_own_mapping_and_own_classes():
    class Halved(nn.Module):
        def forward(self, x):
            return x / 2

    class QuantizedHalved(Halved):
        @classmethod
        def from_observed(cls, mod):
            return cls()

    class OwnLinear(nn.Linear):
        @classmethod
        def from_float(cls, mod):
            return cls(mod.in_features, mod.out_features)

    model = nn.Sequential(nn.Linear(2, 2), Halved())
    model.qconfig = QCONFIG
    prepared = prepare(model)
    prepared(torch.randn(3, 2))
    custom = {"observed_to_quantized_custom_module_class": {Halved: QuantizedHalved}}
    converted = convert(prepared, {nn.Linear: OwnLinear}, convert_custom_config_dict=custom)
    assert type(converted[0]) is OwnLinear and type(converted[1]) is QuantizedHalved


def test_swap_module_leaves_what_has_no_qconfig_or_no_counterpart():
    linear, relu = nn.Linear(2, 2), nn.ReLU()
    relu.qconfig = QCONFIG
    assert swap_module(linear, static_mappings()) is linear
    assert swap_module(relu, static_mappings()) is relu


def test_default_eval_fn_feeds_the_data():
    model = conv_net()
    model.qconfig = get_default_qconfig()
    pairs = [(batch, torch.zeros(4)) for batch in batches()]
    converted = quantize(model, default_eval_fn, [pairs])
    assert isinstance(converted.fc, nnq.Linear)


def test_what_is_no_model_is_refused():
    with pytest.raises(DTypeError, match=r"convert: not a model.*NoneType"):
        convert(None)


def test_an_error_names_path_class_reason_and_qconfig():
    model = QuantWrapper(nn.Sequential(nn.Linear(3, 4))).eval()
    model.qconfig = float16_static_qconfig
    with pytest.warns(UserWarning, match=r"'quant' \(QuantStub\) cannot follow its qconfig"):
        prepared = prepare(model)
    prepared(torch.ones(1, 3))
    message = (
        r"convert: 'quant' \(QuantStub\): Quantize gives codes.*Its qconfig: QConfig\(.*float16"
    )
    with pytest.raises(UnsupportedError, match=message):
        convert(prepared)
    assert isinstance(prepared.module[0], nn.Linear)


@pytest.mark.parametrize("weight", [NoopObserver, PlaceholderObserver])
def test_a_weight_left_in_float_is_refused_where_codes_are_asked_for(weight):
    model = nn.Sequential(QuantStub(), nn.Linear(4, 4), DeQuantStub()).eval()
    model.qconfig = QConfig(MinMaxObserver, weight)
    with pytest.warns(UserWarning, match=r"'1' \(Linear\) cannot follow its qconfig"):
        prepared = prepare(model)
    prepared(torch.randn(2, 4))
    shown, state = repr(prepared), copy.deepcopy(prepared.state_dict())
    with pytest.raises(
        UnsupportedError, match=rf"convert: '1' \(Linear\): .*leaves the weight.*{weight.__name__}"
    ):
        convert(prepared, inplace=True)
    assert repr(prepared) == shown
    assert all(value.equal(state[key]) for key, value in prepared.state_dict().items())


def test_a_weight_only_qconfig_on_a_stub_is_no_missing_preparation():
    model = nn.Sequential(QuantStub(), nn.Linear(4, 4), DeQuantStub()).eval()
    model.qconfig = default_weight_only_qconfig
    with pytest.warns(UserWarning, match=r"'0' \(QuantStub\) cannot follow its qconfig"):
        prepared = prepare(model)
    with pytest.raises(
        UnsupportedError, match=r"convert: '0' \(QuantStub\): .*activation in float.*Identity"
    ):
        convert(prepared)


def test_data_that_does_not_count_is_said_not_to():
    model = QuantWrapper(nn.Linear(2, 2))
    model.qconfig = get_default_qconfig("onednn")
    prepared = prepare(model)
    prepared(torch.full((1, 2), torch.nan))
    with pytest.warns(UserWarning, match="NaN and infinities do not count"):
        blank = convert(prepared)
    assert blank.quant.scale.isnan()
    with pytest.raises(UncalibratedError, match="NaN and infinities do not count"):
        prepared.quant.activation_post_process.calculate_qparams()


class Lookup(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.table, self.quant = kind(8, 6), QuantStub()
        self.fc, self.dequant = nn.Linear(6, 3), DeQuantStub()

    def forward(self, indices):
        return self.dequant(self.fc(self.quant(self.table(indices))))


@pytest.mark.parametrize("kind", [nn.Embedding, partial(nn.EmbeddingBag, mode="sum")])
@pytest.mark.parametrize("engine", ["onednn", "qnnpack"])
def test_a_table_that_cannot_follow_its_qconfig_stays_in_float_as_prepare_said(kind, engine):
    model, indices = Lookup(kind).eval(), torch.arange(8).reshape(4, 2)
    model.qconfig = get_default_qconfig(engine)
    with pytest.warns(UserWarning, match=r"'table' .*so it stays in float"):
        prepared = prepare(model)
    prepared(indices)
    converted = convert(prepared)
    assert type(converted.table) is type(model.table)
    assert torch.equal(converted.table.weight, model.table.weight)
    assert not hasattr(converted.table, "qconfig")
    assert not hasattr(converted.table, "activation_post_process")
    assert type(converted.fc) is nnq.Linear
    torch.testing.assert_close(converted(indices), model(indices), atol=0.1, rtol=0)
