"""Names of the reference that are private there, and that public code imports all the same."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

import qlab
import qlab.nn.intrinsic as nni
import qlab.nn.quantized as nnq
from qlab.errors import QlabError, UnsupportedError
from qlab.nn.intrinsic import qat as nniqat
from qlab.nn.intrinsic import quantized as nniq
from qlab.nn.intrinsic.modules.fused import _FusedModule
from qlab.nn.intrinsic.qat.modules.conv_fused import _ConvBnNd
from qlab.nn.qat.modules.conv import _ConvNd as AwareConvNd
from qlab.nn.quantized import dynamic as nnqd
from qlab.nn.quantized.modules.conv import _ConvNd, _ConvTransposeNd
from qlab.nn.quantized.modules.embedding_ops import EmbeddingPackedParams
from qlab.nn.quantized.modules.linear import LinearPackedParams
from qlab.nn.quantized.modules.utils import WeightedQuantizedModule, _quantize_weight
from qlab.quantization import QConfigMapping, default_qat_qconfig, default_qconfig, prepare
from qlab.quantization.fake_quantize import (
    _is_float_qparams,
    _is_per_channel,
    _is_per_tensor,
    _is_symmetric_quant,
)
from qlab.quantization.fx.custom_config import PrepareCustomConfig
from qlab.quantization.fx.graph_module import (
    ObservedStandaloneGraphModule,
    _is_observed_module,
    _is_observed_standalone_module,
)
from qlab.quantization.observer import (
    MinMaxObserver,
    PerChannelMinMaxObserver,
    PlaceholderObserver,
    _is_activation_post_process,
)
from qlab.quantization.qconfig import (
    _assert_valid_qconfig,
    default_symmetric_qnnpack_qat_qconfig,
    default_symmetric_qnnpack_qconfig,
)
from qlab.quantization.qconfig_mapping import (
    _GLOBAL_DICT_KEY,
    _MODULE_NAME_DICT_KEY,
    _MODULE_NAME_OBJECT_TYPE_ORDER_DICT_KEY,
    _MODULE_NAME_REGEX_DICT_KEY,
    _OBJECT_TYPE_DICT_KEY,
    _get_symmetric_qnnpack_qat_qconfig_mapping,
    _get_symmetric_qnnpack_qconfig_mapping,
)
from qlab.quantization.quantize import (
    _get_observer_dict,
    _observer_forward_hook,
    _propagate_qconfig_helper,
    _remove_qconfig,
    is_activation_post_process,
)
from qlab.quantization.quantize_fx import convert_fx, prepare_fx
from qlab.quantization.utils import _parent_name


def weight(*shape: int) -> qlab.QTensor:
    return qlab.quantize_per_tensor(torch.randn(shape), 0.1, 0, qlab.qint8)


@pytest.mark.parametrize("kind", [nnq.Linear, nniq.LinearReLU, nnqd.Linear])
def test_packed_params_of_a_linear_layer(kind: Any):
    layer, w, b = kind(3, 2), weight(2, 3), torch.randn(2)
    packed = layer._packed_params
    assert isinstance(packed, LinearPackedParams)
    packed.set_weight_bias(w, b)
    for got in (packed._weight_bias(), packed._packed_params.unpack(), layer._weight_bias()):
        assert got[0].equal(w) and got[1].equal(b)
    assert packed.dtype == qlab.qint8
    again = copy.deepcopy(layer)
    again._packed_params.set_weight_bias(weight(2, 3), None)
    assert layer.bias().equal(b) and again.bias() is None
    assert not any("packed" in key for key in layer.state_dict())


def test_packed_params_of_a_float16_layer():
    packed = nnqd.Linear(3, 2, dtype=torch.float16)._packed_params
    assert packed.dtype is torch.float16 and packed.unpack()[0].dtype == torch.float32


def test_packed_params_of_convolutions():
    packed = nnq.Conv2d(2, 4, 3, stride=2, padding=1, dilation=3, groups=2)._packed_params
    assert packed.unpack()[0].shape == (4, 1, 3, 3)
    assert (packed.stride(), packed.padding(), packed.dilation()) == ([2, 2], [1, 1], [3, 3])
    assert (packed.groups(), packed.transpose(), packed.output_padding()) == (2, False, [0, 0])
    turned = nnq.ConvTranspose1d(2, 4, 3, stride=2, output_padding=1)._packed_params
    assert turned.transpose() and turned.output_padding() == [1]
    with pytest.raises(UnsupportedError, match=r"padding is not a number per axis.*'same'"):
        nnq.Conv1d(2, 2, 3, padding="same")._packed_params.padding()


def test_packed_params_of_embeddings():
    layer = nnq.EmbeddingBag(4, 3)
    packed, table = layer._packed_params, nnq.Embedding(4, 3).weight()
    assert isinstance(packed, EmbeddingPackedParams) and packed._packed_weight is packed
    packed.set_weight(table)
    assert packed._weight().equal(table) and packed.dtype == qlab.quint8
    assert repr(packed).startswith("EmbeddingPackedParams of Quantized")


@pytest.mark.parametrize("kind", [MinMaxObserver, PerChannelMinMaxObserver])
def test_a_weight_is_quantized_as_its_observer_says(kind: Any):
    x, observer = torch.randn(3, 4), kind(dtype=qlab.qint8)
    observer(x)
    found = _quantize_weight(x, observer)
    scale, zero_point = observer.calculate_qparams()
    steps = scale.reshape(-1, 1) * torch.ones(3, 4)
    assert ((found.dequantize() - x).abs() <= steps / 2 * 1.0001).all()
    assert found.int_repr().dtype == torch.int8 and len(zero_point) == len(scale)
    with pytest.raises(UnsupportedError, match="leaves the weight in floating point"):
        _quantize_weight(x, PlaceholderObserver())


def test_base_classes_tell_what_a_module_is():
    assert issubclass(nnq.Conv2d, _ConvNd) and issubclass(nniq.ConvReLU1d, _ConvNd)
    assert issubclass(nnq.ConvTranspose3d, _ConvTransposeNd)
    assert issubclass(nnq.Conv2d, WeightedQuantizedModule)
    made = nniqat.ConvBnReLU2d(2, 3, 1, qconfig=default_qat_qconfig)
    assert isinstance(made, _ConvBnNd) and isinstance(made, AwareConvNd)
    assert not issubclass(nniqat.ConvReLU2d, _ConvBnNd)
    assert issubclass(nni.ConvBn2d, nni._FusedModule)

    class Mine(nni._FusedModule):
        """A pair that qlab does not know."""

    x = torch.randn(2, 3)
    assert Mine(nn.Linear(3, 3), nn.SELU())(x).shape == (2, 3)


def test_questions_about_schemes_and_modules():
    affine, channel = qlab.per_tensor_affine, qlab.per_channel_symmetric
    assert _is_per_tensor(affine) and not _is_per_channel(affine)
    assert _is_symmetric_quant(channel) and not _is_symmetric_quant(affine)
    assert _is_float_qparams(qlab.per_channel_affine_float_qparams)
    assert not _is_float_qparams(channel)
    for ask in (is_activation_post_process, _is_activation_post_process):
        assert ask(MinMaxObserver()) and ask(default_qat_qconfig.weight())
        assert not ask(nn.ReLU()) and not ask(None)
    assert _parent_name("a.b.c") == ("a.b", "c") and _parent_name("fc") == ("", "fc")


def test_a_standalone_module_in_a_prepared_model():
    x = torch.randn(2, 3)
    mapping = QConfigMapping().set_global(default_qconfig)
    custom = PrepareCustomConfig().set_standalone_module_name("0", mapping, (x,), None, None)
    model = nn.Sequential(nn.Sequential(nn.Linear(3, 3)), nn.Linear(3, 3)).eval()
    prepared: Any = prepare_fx(model, mapping, (x,), custom)
    prepared(x)
    inner = getattr(prepared, "0")
    assert isinstance(inner, ObservedStandaloneGraphModule) and _is_observed_module(inner)
    assert _is_observed_standalone_module(copy.deepcopy(prepared).get_submodule("0"))
    assert _is_observed_module(prepared) and not _is_observed_standalone_module(prepared)
    assert not _is_observed_standalone_module(getattr(convert_fx(prepared), "0"))
    assert not _is_observed_module(model)


def test_recurrent_classes_have_their_bases_and_weights_a_name_per_kind():
    from qlab.nn.quantized.dynamic.modules.rnn import RNNBase, RNNCellBase
    from qlab.ns._numeric_suite import NON_LEAF_MODULE_TO_ADD_OBSERVER_ALLOW_LIST as WHOLE
    from qlab.ns.fx.weight_utils import get_linear_mod_weight, get_lstm_mod_weights

    assert issubclass(nnqd.LSTM, RNNBase) and issubclass(nnqd.GRUCell, RNNCellBase)
    assert not issubclass(nnqd.GRUCell, RNNBase)
    assert {nn.LSTM, nnqd.LSTM} <= WHOLE and nn.Linear not in WHOLE
    layer, lstm = nn.Linear(3, 2), nn.LSTM(3, 2)
    assert torch.equal(get_linear_mod_weight(layer), layer.weight)
    assert [w.shape for w in get_lstm_mod_weights(lstm)] == [(8, 3), (8, 2)]


def test_the_symmetric_mappings_of_qnnpack():
    for made, qconfig in (
        (_get_symmetric_qnnpack_qconfig_mapping(), default_symmetric_qnnpack_qconfig),
        (_get_symmetric_qnnpack_qat_qconfig_mapping(), default_symmetric_qnnpack_qat_qconfig),
    ):
        as_dict = made.to_dict()
        assert as_dict[_GLOBAL_DICT_KEY] == qconfig
        fixed = dict(as_dict[_OBJECT_TYPE_DICT_KEY])[nn.Sigmoid].activation()
        assert fixed.calculate_qparams()[0] == 1 / 256
        keys = {_MODULE_NAME_DICT_KEY, _MODULE_NAME_REGEX_DICT_KEY}
        assert set(as_dict) == {
            *keys, _GLOBAL_DICT_KEY, _OBJECT_TYPE_DICT_KEY, _MODULE_NAME_OBJECT_TYPE_ORDER_DICT_KEY
        }  # fmt: skip


def test_hooks_and_helpers_of_eager_preparation():
    model = nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.Linear(3, 2)))
    _propagate_qconfig_helper(model[1], {"1.0": default_qat_qconfig}, default_qconfig, "1")
    assert model[1].qconfig is default_qconfig and model[1][0].qconfig is default_qat_qconfig
    assert not hasattr(model[0], "qconfig")
    prepared = prepare(model)
    assert _observer_forward_hook in prepared[1][0]._forward_hooks.values()
    found: dict[str, nn.Module] = {}
    _get_observer_dict(prepared, found)
    assert next(iter(found)) == "1.0.activation_post_process"
    _remove_qconfig(prepared)
    assert not prepared[1][0]._forward_hooks
    assert not any(hasattr(part, "qconfig") for part in prepared.modules())
    assert not hasattr(prepared[1][0], "activation_post_process")


def test_a_valid_qconfig_passes_and_another_thing_does_not():
    _assert_valid_qconfig(None, nn.Linear(2, 2))
    _assert_valid_qconfig(default_qconfig, nn.Linear(2, 2))
    with pytest.raises(QlabError, match=r"Linear\) is not one"):
        _assert_valid_qconfig(3, nn.Linear(2, 2))


def test_fused_modules_derive_from_the_private_base():
    assert issubclass(nni.ConvReLU2d, _FusedModule) and issubclass(_FusedModule, nn.Sequential)
