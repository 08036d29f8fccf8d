"""The quantize–dequantize form of a converted graph."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import qlab
from qlab.errors import ArgumentError, QlabError, UnsupportedError
from qlab.nn import intrinsic as nni
from qlab.nn.quantized import reference as nnqr
from qlab.quantization import QConfigMapping, default_dynamic_qconfig, default_qconfig
from qlab.quantization import get_default_qat_qconfig_mapping as training_mapping
from qlab.quantization.fx.custom_config import PrepareCustomConfig
from qlab.quantization.quantize_fx import (
    convert_fx,
    convert_to_reference_fx,
    prepare_fx,
    prepare_qat_fx,
)


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.linear = nn.Linear(32, 5)
        self.shift = nn.Parameter(torch.randn(1, 4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm(self.conv(x))) + self.shift
        first, second = F.max_pool2d(y, 2).chunk(2, 1)
        return self.linear(torch.flatten(torch.cat([second, first], 1), 1))


def inputs() -> Tensor:
    return torch.randn(2, 3, 4, 8, generator=torch.Generator().manual_seed(0))


def prepared(qconfig=default_qconfig, custom=None):
    torch.manual_seed(0)
    model = Network().eval()
    made = prepare_fx(model, QConfigMapping().set_global(qconfig), (inputs(),), custom)
    made(inputs())
    return made


def test_it_gives_what_the_integer_model_gives():
    model = prepared()
    integer, reference = convert_fx(model), convert_to_reference_fx(model)
    x = inputs() * 1.5
    step = integer.get_submodule("linear").scale
    assert ((integer(x) - reference(x)).abs() / step).max() < 1.01
    torch.testing.assert_close(copy.deepcopy(reference)(x), reference(x))


def test_weights_are_in_reference_modules_and_what_flows_is_quantized_by_calls():
    reference = convert_to_reference_fx(prepared())
    fused = reference.get_submodule("conv")
    assert isinstance(fused, nni.ConvReLU2d)
    assert isinstance(fused[0], nnqr.Conv2d)
    assert isinstance(reference.get_submodule("linear"), nnqr.Linear)
    targets = [node.target for node in reference.graph.nodes]
    # input, conv, the shift, the sum, pooling, two pieces, cat, flatten, linear
    assert targets.count(qlab.quantize_per_tensor) == 10
    assert "dequantize" in targets
    assert "linear_scale_0" in reference.state_dict()


def test_a_dynamic_layer_has_its_input_quantized_as_it_comes():
    model = prepared(default_dynamic_qconfig)
    reference, integer = convert_to_reference_fx(model), convert_fx(model)
    targets = [node.target for node in reference.graph.nodes]
    assert targets.count(qlab.quantize_per_tensor_dynamic) == 1
    torch.testing.assert_close(reference(inputs()), integer(inputs()))


def test_a_trained_model_is_converted_too():
    torch.manual_seed(0)
    made = prepare_qat_fx(Network().train(), training_mapping("x86"), (inputs(),))
    made(inputs())
    made.eval()
    integer, reference = convert_fx(made), convert_to_reference_fx(made)
    step = integer.get_submodule("linear").scale
    assert ((integer(inputs()) - reference(inputs())).abs() / step).max() < 1.01


def test_quantized_outputs_and_kept_attributes():
    custom = PrepareCustomConfig().set_output_quantized_indexes([0])
    model = prepared(custom=custom)
    model.note = "kept"
    given = convert_to_reference_fx(model, {"preserved_attributes": ["note"]})
    assert given.note == "kept"
    assert isinstance(given(inputs()), qlab.QTensor)


def test_a_standalone_module_takes_the_same_form():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Sequential(nn.Linear(3, 4), nn.ReLU()), nn.Linear(4, 2)).eval()
    custom = PrepareCustomConfig()
    x = torch.randn(5, 3)
    custom.set_standalone_module_name("0", None, (x,), None, None)
    made = prepare_fx(model, QConfigMapping().set_global(default_qconfig), (x,), custom)
    made(x)
    reference = convert_to_reference_fx(made)
    assert isinstance(reference.get_submodule("0").get_submodule("0")[0], nnqr.Linear)
    torch.testing.assert_close(reference(x), convert_fx(made)(x))


def test_what_was_not_prepared_is_refused_by_name():
    with pytest.raises(ArgumentError, match="convert_to_reference_fx: the model was not prepared"):
        convert_to_reference_fx(nn.Linear(3, 4))
    model = prepared()
    with pytest.raises(ArgumentError, match="convert_to_reference_fx: the model is converted"):
        convert_to_reference_fx(convert_to_reference_fx(model))


def test_one_scale_per_group_has_no_reference_form():
    spec = qlab.TensorSpec(qlab.qint8, symmetric=True, granularity=qlab.PerGroup(8))
    qconfig = qlab.qconfig_of(qlab.TensorSpec(qlab.quint8), spec)
    torch.manual_seed(0)
    x = torch.randn(4, 16)
    made = prepare_fx(nn.Sequential(nn.Linear(16, 4)), QConfigMapping().set_global(qconfig), (x,))
    made(x)
    with pytest.raises(UnsupportedError, match=r"'0' .Linear.*one scale per tensor or per channel"):
        convert_to_reference_fx(made)


@pytest.mark.parametrize("eager", [False, True])
def test_codes_beyond_the_observers_range_are_used(eager):
    """The range of codes of an observer fixes the scale only, as in torch's own conversion."""
    torch.manual_seed(0)
    x = torch.randn(50, 3)
    if eager:
        model = qlab.quantization.QuantWrapper(nn.Linear(3, 4)).eval()
        model.qconfig = default_qconfig
        model = qlab.quantization.prepare(model)
        model(x)
        made = qlab.quantization.convert(model)
        assert made.quant(x * 3).int_repr().max() == 255
        layer = made.module
    else:
        mapping = QConfigMapping().set_global(default_qconfig)
        model = prepare_fx(nn.Sequential(nn.Linear(3, 4)), mapping, (x,))
        model(x)
        made = convert_fx(model)
        layer = made.get_submodule("0")
    codes = made(x * 3) / layer.scale + layer.zero_point
    assert codes.max() > 128


def test_without_data_the_reference_form_is_warned_of_and_waits_for_a_state_dict():
    model, x = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval(), torch.randn(5, 3)
    prepared = prepare_fx(model, "int8", x)
    with pytest.warns(UserWarning, match="convert_to_reference_fx: no calibration data reached"):
        blank = convert_to_reference_fx(prepared)
    with pytest.raises(QlabError, match="nan"):
        blank(x)
    prepared(x)
    made = convert_to_reference_fx(prepared)
    blank.load_state_dict(made.state_dict())
    assert torch.equal(blank(x), made(x))
