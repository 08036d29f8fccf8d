"""Mappings, questions about qconfigs and fusing by hand, under the reference's names."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import qlab
import qlab.nn.intrinsic as nni
import qlab.nn.intrinsic.qat as nniqat
import qlab.nn.quantized as nnq
from qlab.errors import ArgumentError, UnknownNameError, UnsupportedError
from qlab.nn import qat as nnqat
from qlab.nn import quantizable as nnqa
from qlab.nn.quantized import dynamic as nnqd
from qlab.nn.quantized import reference as nnqr
from qlab.quantization import (
    MinMaxObserver,
    ObserverOrFakeQuantize,
    PerChannelMinMaxObserver,
    QConfig,
    QConfigDynamic,
    convert,
    default_dynamic_qconfig,
    default_qconfig,
    default_weight_only_qconfig,
    float16_dynamic_qconfig,
    float_qparams_weight_only_qconfig,
    fuser_method_mappings,
    get_default_custom_config_dict,
    get_default_qat_qconfig_dict,
    get_default_qat_qconfig_mapping,
    get_default_qconfig_dict,
    get_default_qconfig_mapping,
    prepare,
    utils,
)
from qlab.quantization import quantization_mappings as mappings
from qlab.quantization.backend_config import get_native_backend_config
from qlab.quantization.backend_config import utils as backend_utils
from qlab.quantization.quant_type import QuantType


def test_each_mapping_is_a_copy_with_the_registry_s_pairs():
    static = mappings.get_default_static_quant_module_mappings()
    assert static[nn.Conv2d] is nnq.Conv2d and static[nniqat.ConvBnReLU2d].__name__ == "ConvReLU2d"
    assert mappings.get_default_dynamic_quant_module_mappings()[nn.LSTM] is nnqd.LSTM
    assert mappings.get_default_qat_module_mappings()[nni.ConvBn2d] is nniqat.ConvBn2d
    assert mappings.get_embedding_qat_module_mappings() == {
        nn.Embedding: nnqat.Embedding, nn.EmbeddingBag: nnqat.EmbeddingBag,
    }  # fmt: skip
    assert set(mappings.get_embedding_static_quant_module_mappings()) == {
        nn.Embedding, nn.EmbeddingBag,
    }  # fmt: skip
    static.clear()
    assert mappings.get_default_static_quant_module_mappings()
    assert mappings.DEFAULT_STATIC_QUANT_MODULE_MAPPINGS[nn.Linear] is nnq.Linear


def test_a_changed_mapping_steers_convert():
    class Mine(nnq.Linear):
        """A layer of one's own."""

    model = nn.Sequential(nn.Linear(3, 2)).eval()
    model.qconfig = default_qconfig
    prepared = prepare(model)
    prepared(torch.randn(4, 3))
    mapping = mappings.get_default_static_quant_module_mappings()
    mapping[nn.Linear] = Mine
    assert type(convert(prepared, mapping)[0]) is Mine


def test_single_classes_are_found_or_named():
    assert mappings.get_static_quant_module_class(nn.Linear) is nnq.Linear
    assert mappings.get_dynamic_quant_module_class(nn.GRU) is nnqd.GRU
    assert mappings.get_static_quant_module_class(nn.Tanh, {nn.Tanh: nn.ReLU}) is nn.ReLU
    with pytest.raises(UnknownNameError, match="quantized form of the class 'Transformer'"):
        mappings.get_static_quant_module_class(nn.Transformer)
    with pytest.raises(UnknownNameError, match="dynamically quantized form of the class 'Tanh'"):
        mappings.get_dynamic_quant_module_class(nn.Tanh)


def test_sets_of_classes():
    propagated = mappings.get_default_qconfig_propagation_list()
    assert {nn.Conv2d, nn.LSTM, nni.ConvBn2d, nnq.FloatFunctional} <= propagated
    compared = mappings.get_default_compare_output_module_list()
    assert {nn.Linear, nnq.Linear, nnqd.Linear, nnqat.Linear} <= compared
    assert nn.LSTM in mappings.no_observer_set() and nn.Conv2d not in mappings.no_observer_set()


@pytest.mark.parametrize(
    ("qconfig", "activation", "weight", "kind"),
    [
        (default_qconfig, qlab.quint8, qlab.qint8, QuantType.STATIC),
        (default_dynamic_qconfig, qlab.quint8, qlab.qint8, QuantType.DYNAMIC),
        (float16_dynamic_qconfig, torch.float16, torch.float16, QuantType.DYNAMIC),
        (default_weight_only_qconfig, torch.float32, qlab.qint8, QuantType.WEIGHT_ONLY),
        (float_qparams_weight_only_qconfig, torch.float32, qlab.quint8, QuantType.WEIGHT_ONLY),
    ],
)
def test_questions_about_a_qconfig(qconfig, activation, weight, kind):
    dynamic = kind is QuantType.DYNAMIC
    assert utils.get_qconfig_dtypes(qconfig)[:2] == (activation, weight)
    assert utils.activation_is_statically_quantized(qconfig) == (kind is QuantType.STATIC)
    assert utils.weight_is_quantized(qconfig) == isinstance(weight, qlab.QDType)
    if qconfig is not float16_dynamic_qconfig:
        assert utils.get_quant_type(qconfig) == kind
        assert utils.op_is_int8_dynamically_quantized(qconfig) == dynamic
        assert utils.get_qconfig_dtypes(qconfig)[2] == dynamic


def test_a_qconfig_that_quantizes_nothing_has_no_type():
    with pytest.raises(UnsupportedError, match="quantizes nothing"):
        utils.get_quant_type(QConfig(nn.Identity, nn.Identity))


def test_ranges_and_codes():
    assert utils.calculate_qmin_qmax(None, None, False, qlab.quint8, True) == (0, 127)
    assert utils.calculate_qmin_qmax(-7, 7, True, qlab.qint8, False) == (-7, 7)
    assert utils.check_min_max_valid(torch.tensor(-1.0), torch.tensor(2.0))
    assert not utils.check_min_max_valid(torch.tensor(float("inf")), torch.tensor(float("-inf")))
    assert not utils.check_min_max_valid(torch.tensor([]), torch.tensor([]))
    with pytest.raises(ArgumentError, match="smallest value above its largest"):
        utils.check_min_max_valid(torch.tensor(2.0), torch.tensor(1.0))
    with pytest.raises(ArgumentError, match="enclose the code of 0"):
        utils.validate_qmin_qmax(3, 7)
    scale, zero_point = utils.determine_qparams(
        torch.tensor(-1.0), torch.tensor(3.0), 0, 255, qlab.quint8, torch.tensor(1e-8), False
    )
    assert float(scale) == pytest.approx(4 / 255) and int(zero_point) == 64
    assert utils.is_per_channel(qlab.per_channel_affine)
    assert utils.is_per_tensor(qlab.per_tensor_symmetric)
    assert utils.to_underlying_dtype(qlab.qint8) is torch.int8


def test_observers_as_dicts_and_paths():
    observer = MinMaxObserver()
    observer(torch.tensor([0.0, 255.0]))
    found = utils.get_qparam_dict(observer)
    assert float(found["scale"]) == 1.0 and "axis" not in found
    channels = PerChannelMinMaxObserver(ch_axis=1)
    channels(torch.ones(2, 3))
    assert utils.get_qparam_dict(channels)["axis"] == 1
    model = nn.Sequential(nn.Sequential(nn.ReLU()))
    assert utils.getattr_from_fqn(model, "0.0") is model[0][0]
    assert utils.has_no_children_ignoring_parametrizations(
        nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))
    )
    assert utils.get_combined_dict({1: 2, 3: 4}, {1: 5}) == {1: 5, 3: 4}
    with pytest.raises(UnsupportedError, match="takes the place of a ReLU"):
        utils.get_swapped_custom_module_class(nn.ReLU(), {}, default_qconfig)


def test_fusing_by_hand():
    conv, bn, relu = nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), nn.ReLU()
    x = torch.randn(2, 2, 4, 4)
    for module in (conv, bn, relu):
        module.eval()
    fused = fuser_method_mappings.fuse_conv_bn_relu(False, conv, bn, relu)
    assert type(fused) is nni.ConvReLU2d
    torch.testing.assert_close(fused(x), relu(bn(conv(x))))
    assert type(fuser_method_mappings.fuse_conv_bn(True, conv.train(), bn.train())) is nni.ConvBn2d
    linear = fuser_method_mappings.fuse_linear_bn(True, nn.Linear(2, 2), nn.BatchNorm1d(2))
    assert type(linear) is nni.LinearBn1d
    method = fuser_method_mappings.get_fuser_method((nn.Conv2d, nn.ReLU))
    assert type(method(True, conv, relu.train())) is nni.ConvReLU2d
    mine = fuser_method_mappings.get_fuser_method((nn.ReLU,), {(nn.ReLU,): lambda qat, m: m})
    assert mine(False, relu) is relu
    with pytest.raises(ArgumentError, match="no pattern fuses"):
        fuser_method_mappings.get_fuser_method((nn.ReLU, nn.ReLU))(False, relu, relu)


def test_reference_modules_come_from_the_registry():
    found = mappings.get_default_static_quant_reference_module_mappings()
    assert found[nn.Conv2d] is nnqr.Conv2d and found[nn.GRUCell] is nnqr.GRUCell
    assert mappings.get_static_quant_module_class(nn.Linear, is_reference=True) is nnqr.Linear
    with pytest.raises(UnknownNameError, match="reference form of the class"):
        mappings.get_static_quant_module_class(nn.ReLU, is_reference=True)


def test_functions_lead_to_those_on_quantized_tensors():
    found = mappings.get_default_float_to_quantized_operator_mappings()
    assert found[F.elu] is mappings.get_quantized_operator(F.elu) is nnq.functional.elu
    assert found[torch.conv2d] is nnq.functional.conv2d
    with pytest.raises(UnknownNameError, match="quantized form of the function 'softplus'"):
        mappings.get_quantized_operator(F.softplus)


def test_the_default_of_custom_modules_is_what_prepare_and_convert_do():
    found = get_default_custom_config_dict()
    assert found["float_to_observed_custom_module_class"][nn.LSTM] is nnqa.LSTM
    assert found["observed_to_quantized_custom_module_class"][nnqa.LSTM] is nnq.LSTM


def test_what_each_submodule_is_called_with():
    class Inner(nn.Module):
        def forward(self, x, key1=3, key2=4):
            return x * key1 + key2

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.inner, self.idle = nn.Linear(3, 3), Inner(), nn.ReLU()

        def forward(self, x):
            return self.inner(self.linear(x), key2=6)

    x, model = torch.ones(1, 3), Outer()
    found = utils.get_fqn_to_example_inputs(model, (x,))
    assert set(found) == {"", "linear", "inner"}
    assert found["linear"][0] is x
    assert found["inner"][1:] == (3, 6)
    assert not model.linear._forward_pre_hooks


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_a_transposed_convolution_takes_its_batch_norm_in(rank, groups):
    torch.manual_seed(0)
    layer = getattr(nn, f"ConvTranspose{rank}d")(4, 6, 3, groups=groups).eval()
    norm = getattr(nn, f"BatchNorm{rank}d")(6).eval()
    norm.running_mean.uniform_(-1, 1), norm.running_var.uniform_(0.5, 2)
    x = torch.randn(2, 4, *[5] * rank)
    fused = fuser_method_mappings.fuse_convtranspose_bn(False, layer, norm)
    torch.testing.assert_close(fused(x), norm(layer(x)), rtol=1e-4, atol=1e-5)
    with pytest.raises(UnsupportedError, match="no form for training"):
        fuser_method_mappings.fuse_convtranspose_bn(True, layer, norm)
    with pytest.raises(ArgumentError, match="in training mode"):
        fuser_method_mappings.fuse_convtranspose_bn(False, layer.train(), norm)


def test_a_backend_s_fuser_is_found_by_its_chain():
    known = backend_utils.get_fuser_method_mapping(get_native_backend_config())
    chain = (nn.Linear, nn.ReLU)
    method = fuser_method_mappings.get_fuser_method_new(chain, known)
    parts = [nn.Linear(3, 4).eval(), nn.ReLU().eval()]
    assert isinstance(method(False, *parts), nni.LinearReLU)
    with pytest.raises(UnknownNameError, match="chain to fuse"):
        fuser_method_mappings.get_fuser_method_new((nn.ReLU, nn.Linear), known)


def test_old_forms_of_qconfigs():
    assert QConfigDynamic(weight=MinMaxObserver) == QConfig(nn.Identity, MinMaxObserver)
    assert isinstance(QConfigDynamic(), QConfig)
    with pytest.raises(ArgumentError, match="weight is an observer that already exists"):
        QConfigDynamic(weight=MinMaxObserver())
    for old, new in (
        (get_default_qconfig_dict, get_default_qconfig_mapping),
        (get_default_qat_qconfig_dict, get_default_qat_qconfig_mapping),
    ):
        assert old("qnnpack") == new("qnnpack").to_dict()


def test_outputs_of_a_fixed_range_have_a_fake_quantizer_of_it():
    made = {
        kind: factory() for kind, factory in mappings.DEFAULT_MODULE_TO_ACT_POST_PROCESS.items()
    }
    assert set(made) == {nn.Sigmoid, nn.Hardsigmoid, nn.Softmax, nn.Tanh}
    assert all(isinstance(one, ObserverOrFakeQuantize) for one in made.values())
    scales = {kind: float(one.scale) for kind, one in made.items()}
    assert scales[nn.Tanh] == 2 / 256 and scales[nn.Sigmoid] == scales[nn.Softmax] == 1 / 256
