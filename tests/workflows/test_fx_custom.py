"""Custom modules, standalone modules and quantized borders in the graph workflow."""

import copy

import pytest
import torch
from torch import Tensor, nn

import qlab
import qlab.nn.quantized as nnq
from qlab.errors import ArgumentError, DTypeError, UnknownNameError, UnsupportedError
from qlab.nn.quantized import dynamic as nnqd
from qlab.qtensor import QTensor
from qlab.quantization import (
    QConfigMapping,
    default_dynamic_qconfig,
    default_qconfig,
    get_default_qconfig_mapping,
    quant_type,
)
from qlab.quantization.fx.custom_config import (
    ConvertCustomConfig,
    FuseCustomConfig,
    PrepareCustomConfig,
    StandaloneModuleConfigEntry,
)
from qlab.quantization.quantize_fx import convert_fx, fuse_fx, prepare_fx

MAPPING = get_default_qconfig_mapping("onednn")
X = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))


class Custom(nn.Module):
    """A layer of one's own, which no trace may look into."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) if float(x.detach().sum()) < 1e9 else x


class ObservedCustom(nn.Module):
    def __init__(self, linear: nn.Module) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)

    @classmethod
    def from_float(cls, module: Custom) -> "ObservedCustom":
        made = cls(module.linear)
        made.qconfig = module.qconfig
        return made


class StaticCustom(nn.Module):
    def __init__(self, linear: nn.Module) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, x: Tensor) -> Tensor:
        assert isinstance(x, QTensor)
        return self.linear(x)

    @classmethod
    def from_observed(cls, observed: ObservedCustom) -> "StaticCustom":
        observed.linear.qconfig = observed.qconfig
        observed.linear.activation_post_process = observed.activation_post_process
        return cls(nnq.Linear.from_float(observed.linear))


class DynamicCustom(StaticCustom):
    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)

    @classmethod
    def from_observed(cls, observed: ObservedCustom) -> "DynamicCustom":
        observed.linear.qconfig = observed.qconfig
        return cls(nnqd.Linear.from_float(observed.linear))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.custom, self.last = nn.Linear(4, 4), Custom(), nn.Linear(4, 2)
        self.note = "kept"

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.custom(self.first(x))))


def net() -> Net:
    torch.manual_seed(0)
    return Net().eval()


def plain(model: Net) -> nn.Module:
    """The same network without a custom class."""
    return nn.Sequential(model.first, model.custom.linear, nn.ReLU(), model.last)


STATIC = PrepareCustomConfig().set_float_to_observed_mapping(Custom, ObservedCustom)
TO_STATIC = ConvertCustomConfig().set_observed_to_quantized_mapping(ObservedCustom, StaticCustom)


@pytest.mark.parametrize("as_dict", [False, True])
def test_a_static_custom_module_is_observed_and_computes_on_codes(as_dict: bool):
    model = net()
    prepare_config = STATIC.to_dict() if as_dict else STATIC
    convert_config = TO_STATIC.to_dict() if as_dict else TO_STATIC
    prepared = prepare_fx(model, MAPPING, X, prepare_config)
    assert type(prepared.custom) is ObservedCustom
    step = prepared.meta["plan"].step("custom")
    assert (step.execution, step.reason) == ("custom", "a custom module: codes in, codes out")
    prepared(X)
    converted = convert_fx(prepared, convert_config)
    assert type(converted.custom) is StaticCustom
    assert type(model.custom) is Custom and type(prepared.custom) is ObservedCustom
    other = prepare_fx(plain(model), MAPPING, X)
    other(X)
    y, want = converted(X), model(X)
    assert 10 * torch.log10(want.square().sum() / (y - want).square().sum()) > 25
    step_size = (y.flatten().unique()[1:] - y.flatten().unique()[:-1]).min()
    # The plain network fuses the ReLU and so rounds once less: up to two steps apart.
    assert (convert_fx(other)(X) - y).abs().max() <= 2.01 * step_size


def test_a_dynamic_custom_module_takes_and_gives_real_numbers():
    kind = quant_type.QuantType.DYNAMIC
    mapping = QConfigMapping().set_object_type(Custom, default_dynamic_qconfig)
    prepared = prepare_fx(
        net(), mapping, X,
        PrepareCustomConfig().set_float_to_observed_mapping(Custom, ObservedCustom, kind),
    )  # fmt: skip
    assert prepared.meta["plan"].step("custom").execution == "custom"
    converted = convert_fx(
        prepared,
        ConvertCustomConfig().set_observed_to_quantized_mapping(
            ObservedCustom, DynamicCustom, kind
        ),
    )
    assert type(converted.custom) is DynamicCustom
    torch.testing.assert_close(converted(X), net()(X), rtol=0.05, atol=0.02)


def test_a_custom_module_stays_float_where_it_is_not_asked_for_or_has_no_such_form():
    config = copy.deepcopy(STATIC)
    none = QConfigMapping().set_global(default_qconfig).set_object_type(Custom, None)
    prepared = prepare_fx(net(), none, X, config)
    assert type(prepared.custom) is Custom
    dynamic = QConfigMapping().set_object_type(Custom, default_dynamic_qconfig)
    with pytest.warns(UserWarning, match=r"'custom' \(Custom\) stays in float: a custom module"):
        step = prepare_fx(net(), dynamic, X, config).meta["plan"].step("custom")
    assert step.execution == "float" and step.reason == "a custom module without a dynamic form"


def test_a_custom_module_that_nothing_converts_is_named():
    prepared = prepare_fx(net(), MAPPING, X, STATIC)
    prepared(X)
    with pytest.raises(UnsupportedError, match=r"custom module 'custom' becomes.*Observed"):
        convert_fx(prepared)
    assert type(prepared.custom) is ObservedCustom


def test_a_standalone_module_is_quantized_on_its_own():
    model = nn.Sequential(
        nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4), nn.ReLU()), nn.Linear(4, 2)
    )
    model.eval()
    own = QConfigMapping().set_global(default_qconfig)
    for config in (
        PrepareCustomConfig().set_standalone_module_name("1", own, (X,), None, None),
        {"standalone_module_name": [("1", own, (X,), None, None)]},
    ):
        prepared = prepare_fx(model, QConfigMapping(), X, config)
        assert "plan" in prepared.get_submodule("1").meta
        prepared(X)
        converted = convert_fx(prepared)
        inside = converted.get_submodule("1")
        assert "QuantizedLinearReLU" in repr(inside)
        assert type(converted.get_submodule("0")) is nn.Linear
        alone = prepare_fx(model[1], own, X)
        alone(model[0](X))
        assert torch.equal(inside(model[0](X)), convert_fx(alone)(model[0](X)))


@torch.no_grad()
def test_a_standalone_module_may_take_and_give_quantized_tensors():
    model = nn.Sequential(
        nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4), nn.ReLU()), nn.Linear(4, 2)
    )
    own = PrepareCustomConfig().set_input_quantized_indexes([0]).set_output_quantized_indexes([0])
    config = PrepareCustomConfig().set_standalone_module_name("1", None, (X,), own, None)
    prepared = prepare_fx(model.eval(), QConfigMapping().set_global(default_qconfig), X, config)
    prepared(X)
    converted = convert_fx(prepared)
    inside = converted.get_submodule("1")(qlab.quantize_per_tensor(X, 0.1, 128, qlab.quint8))
    assert isinstance(inside, qlab.QTensor)
    assert float((converted(X) - model(X)).abs().max()) < 0.05 * float(model(X).abs().max())


def test_standalone_modules_by_class_and_what_is_wrong_with_them():
    model = nn.Sequential(nn.Linear(4, 4), Custom()).eval()
    config = PrepareCustomConfig().set_standalone_module_class(Custom, None, (X,), None, None)
    with pytest.raises(Exception, match=r"standalone module '1' \(Custom\).*no single graph"):
        prepare_fx(model, MAPPING, X, config)
    config = PrepareCustomConfig().set_standalone_module_name("nowhere", None, (X,), None, None)
    with pytest.raises(ArgumentError, match=r"standalone module is not there.*'nowhere'"):
        prepare_fx(
            model,
            MAPPING,
            X,
            PrepareCustomConfig.from_dict(
                {**config.to_dict(), "non_traceable_module_class": [Custom]}
            ),
        )
    empty = PrepareCustomConfig().set_standalone_module_name("0", None, (), None, None)
    with pytest.raises(ArgumentError, match=r"standalone module '0'.*needs example inputs"):
        prepare_fx(model[:1], MAPPING, X, empty)


def test_quantized_inputs_and_outputs_are_qtensors():
    model = plain(net()).eval()
    config = PrepareCustomConfig()
    config.set_input_quantized_indexes([0]).set_output_quantized_indexes([0])
    prepared = prepare_fx(model, MAPPING, X, config)
    prepared(X)
    reference = prepare_fx(model, MAPPING, X)
    reference(X)
    want = convert_fx(reference)(X)
    scale, zero_point = prepared.activation_post_process_0.calculate_qparams()
    from qlab import quantize_per_tensor, quint8

    x = quantize_per_tensor(X, float(scale), int(zero_point), quint8)
    y = convert_fx(prepared)(x)
    assert isinstance(y, QTensor)
    assert torch.equal(y.dequantize(), want)


@pytest.mark.parametrize("what", ["input", "output"])
def test_borders_that_do_not_exist_are_refused(what: str):
    config = PrepareCustomConfig()
    getattr(config, f"set_{what}_quantized_indexes")([3])
    prepared = prepare_fx(plain(net()), MAPPING, X, config)
    prepared(X)
    with pytest.raises(ArgumentError, match=f"no {what} of this index"):
        convert_fx(prepared)


def test_an_output_in_float_cannot_be_returned_quantized():
    config = PrepareCustomConfig().set_output_quantized_indexes([0])
    mapping = copy.deepcopy(MAPPING).set_module_name("3", None)
    prepared = prepare_fx(plain(net()), mapping, X, config)
    prepared(X)
    with pytest.raises(ArgumentError, match="output that is not quantized"):
        convert_fx(prepared)


def test_attributes_are_preserved_by_every_step():
    prepared = prepare_fx(
        net(), MAPPING, X, copy.deepcopy(STATIC).set_preserved_attributes(["note"])
    )
    assert prepared.note == "kept"
    prepared(X)
    config = copy.deepcopy(TO_STATIC).set_preserved_attributes(["note"])
    assert convert_fx(prepared, config).note == "kept"
    model = plain(net())
    model.note = "too"
    assert fuse_fx(model, FuseCustomConfig().set_preserved_attributes(["note"])).note == "too"


def test_configurations_survive_their_dict_form():
    config = (
        copy.deepcopy(STATIC)
        .set_non_traceable_module_names(["a"])
        .set_non_traceable_module_classes([Custom])
        .set_input_quantized_indexes([0])
        .set_output_quantized_indexes([1])
        .set_preserved_attributes(["note"])
        .set_standalone_module_class(Net, MAPPING, (X,), copy.deepcopy(STATIC), None)
    )
    assert PrepareCustomConfig.from_dict(config.to_dict()).to_dict() == config.to_dict()
    assert set(config.to_dict()) == {
        "standalone_module_class", "float_to_observed_custom_module_class",
        "non_traceable_module_name", "non_traceable_module_class", "input_quantized_idxs",
        "output_quantized_idxs", "preserved_attributes",
    }  # fmt: skip
    assert ConvertCustomConfig.from_dict(TO_STATIC.to_dict()) == TO_STATIC
    assert FuseCustomConfig().to_dict() == {}
    assert StandaloneModuleConfigEntry().as_tuple() == (None, (), None, None)


def test_customisations_that_make_no_sense_are_refused():
    with pytest.raises(UnknownNameError, match="quantization type 'statik'"):
        PrepareCustomConfig().set_float_to_observed_mapping(Custom, ObservedCustom, "statik")
    with pytest.raises(ArgumentError, match="a method from_float"):
        PrepareCustomConfig().set_float_to_observed_mapping(Custom, nn.Linear)
    with pytest.raises(DTypeError, match="'input_quantized_idxs' cannot be used"):
        PrepareCustomConfig().set_input_quantized_indexes("a")
    with pytest.raises(DTypeError, match="inputs are whole numbers from 0"):
        PrepareCustomConfig().set_input_quantized_indexes([0, "a"])
    with pytest.raises(ArgumentError, match="a method from_observed"):
        ConvertCustomConfig().set_observed_to_quantized_mapping(Custom, nn.Linear)
    with pytest.raises(DTypeError, match=r"prepare_fx: not a customisation.*ConvertCustomConfig"):
        prepare_fx(net(), MAPPING, X, TO_STATIC)
    with pytest.raises(DTypeError, match="classes by quantization type"):
        PrepareCustomConfig.from_dict({"float_to_observed_custom_module_class": {Custom: Custom}})


class ObservedOfDocs(nn.Module):
    """The custom module of the reference's documentation: its layer has the qconfig already."""

    def __init__(self, linear):
        super().__init__()
        self.linear = linear

    def forward(self, x):
        return self.linear(x)

    @classmethod
    def from_float(cls, module):
        observed = cls(module.linear)
        observed.qconfig = module.qconfig
        return observed


class QuantizedOfDocs(ObservedOfDocs):
    @classmethod
    def from_observed(cls, observed):
        observed.linear.activation_post_process = observed.activation_post_process
        return cls(nnq.Linear.from_float(observed.linear))


class FloatOfDocs(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        return self.linear(x)


@torch.no_grad()
def test_the_layers_of_a_custom_module_have_its_qconfig():
    model = nn.Sequential(nn.Linear(4, 4), FloatOfDocs()).eval()
    own = {"float_to_observed_custom_module_class": {"static": {FloatOfDocs: ObservedOfDocs}}}
    made = {
        "observed_to_quantized_custom_module_class": {"static": {ObservedOfDocs: QuantizedOfDocs}}
    }
    prepared = prepare_fx(model, QConfigMapping().set_global(default_qconfig), X, own)
    prepared(X)
    converted = convert_fx(prepared, made)
    assert isinstance(converted.get_submodule("1").linear, nnq.Linear)
    assert float((converted(X) - model(X)).abs().max()) < 0.05 * float(model(X).abs().max())
