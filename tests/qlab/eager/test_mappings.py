"""Mappings, questions about qconfigs and fusing by hand, under the reference's names."""

import pytest
import torch
from torch import nn

import qlab
import qlab.nn.intrinsic as nni
import qlab.nn.intrinsic.qat as nniqat
import qlab.nn.quantized as nnq
from qlab.errors import ArgumentError, UnknownNameError, UnsupportedError
from qlab.nn import qat as nnqat
from qlab.nn.quantized import dynamic as nnqd
from qlab.quantization import (
    MinMaxObserver,
    PerChannelMinMaxObserver,
    QConfig,
    convert,
    default_dynamic_qconfig,
    default_qconfig,
    default_weight_only_qconfig,
    float16_dynamic_qconfig,
    float_qparams_weight_only_qconfig,
    fuser_method_mappings,
    prepare,
    utils,
)
from qlab.quantization import quantization_mappings as mappings
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
