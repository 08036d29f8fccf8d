"""Quantized tables: converted, copied, saved, looked up; what they refuse."""

import copy
import json
import pickle

import pytest
import torch
from torch import nn

import qlab.nn.quantized as nnq
from qlab.dtypes import as_qdtype, qint8, quint4x2, quint8
from qlab.errors import (
    ArgumentError,
    DTypeError,
    ShapeError,
    UncalibratedError,
    UnknownNameError,
    UnsupportedError,
)
from qlab.granularity import PerAxis, PerGroup, PerTensor, per_channel_affine_float_qparams
from qlab.qconfig import (
    default_qconfig,
    float_qparams_weight_only_qconfig,
    float_qparams_weight_only_qconfig_4bit,
)
from qlab.qparams import QParams
from qlab.qtensor import QTensor
from qlab.ranges import TensorSpec
from qlab.registry import row_for_module

ROWS, COLUMNS = 20, 6
INDICES = torch.tensor([[1, 2, 2], [19, 0, 5]])
OFFSETS = torch.tensor([0, 1, 1, 4])
every_class = pytest.mark.parametrize("cls", [nn.Embedding, nn.EmbeddingBag])


def prepared(cls: type[nn.Module], qconfig=float_qparams_weight_only_qconfig, **options):
    module = cls(ROWS, COLUMNS, **options)
    module.weight.data += torch.arange(ROWS).reshape(-1, 1)  # no range contains 0
    module.qconfig = qconfig
    return module


def quantized(cls: type[nn.Module], qconfig=float_qparams_weight_only_qconfig, **options):
    module = prepared(cls, qconfig, **options)
    return row_for_module(cls).static.from_float(module), module


@every_class
@pytest.mark.parametrize(
    ("qconfig", "dtype"),
    [
        (float_qparams_weight_only_qconfig, quint8),
        (float_qparams_weight_only_qconfig_4bit, quint4x2),
    ],
)
def test_conversion_from_float(cls, qconfig, dtype):
    made, module = quantized(cls, qconfig)
    assert made.dtype is dtype and made.weight().qscheme() is per_channel_affine_float_qparams
    step = made.weight_qparams.scale.max()
    assert (made.weight().dequantize() - module.weight).abs().max() <= 0.51 * step
    error = (made(INDICES) - module(INDICES)).abs().max()
    assert error <= (0.51 if dtype is quint8 else 0.6) * step + 1e-5


@every_class
@pytest.mark.parametrize("dtype", ["quint8", "quint4", "qint8", "qint4", "float8_e4m3fn"])
@pytest.mark.parametrize("granularity", [PerAxis(0), PerTensor(), PerAxis(1), PerGroup(3, 1)])
def test_any_type_and_granularity(cls, dtype, granularity):
    module = cls(ROWS, COLUMNS)
    spec = TensorSpec(as_qdtype(dtype), symmetric=True, granularity=granularity)
    static = row_for_module(cls).static
    made = static.from_qparams(module, weight=spec.qparams_of(module.weight.detach()))
    module.weight.data = made.weight().dequantize()
    torch.testing.assert_close(made(INDICES), module(INDICES))


@pytest.mark.parametrize("mode", ["sum", "mean"])
@pytest.mark.parametrize("last", [False, True])
def test_bags_are_summed_as_in_float(mode, last):
    made, module = quantized(nn.EmbeddingBag, mode=mode, include_last_offset=last)
    module.weight.data = made.weight().dequantize()
    offsets = torch.cat((OFFSETS, torch.tensor([6]))) if last else OFFSETS
    flat = INDICES.reshape(-1)
    torch.testing.assert_close(made(flat, offsets), module(flat, offsets))
    torch.testing.assert_close(made(flat.int(), offsets.int()), module(flat, offsets))
    torch.testing.assert_close(made(INDICES), module(INDICES))
    if mode == "sum":
        shares = torch.randn(6)
        expected = module(flat, offsets, shares)
        torch.testing.assert_close(made(flat, offsets, shares), expected)


@every_class
@pytest.mark.parametrize("way", ["deepcopy", "pickle", "config", "meta", "state"])
def test_copies_are_equal_and_separate(cls, way):
    made, _ = quantized(cls, float_qparams_weight_only_qconfig_4bit)
    expected, static = made(INDICES), type(made)
    config = json.loads(json.dumps(made.bind_inputs(None).config()))
    if way == "deepcopy":
        twin = copy.deepcopy(made)
    elif way == "pickle":
        twin = pickle.loads(pickle.dumps(made))
    elif way == "state":
        twin = static(ROWS, COLUMNS, dtype=quint4x2)
        if cls is nn.EmbeddingBag:
            twin.mode = made.mode
        twin.load_state_dict(made.state_dict())
    else:
        with torch.device("meta" if way == "meta" else "cpu"):
            twin = static.from_config(config)
        twin.load_state_dict(copy.deepcopy(made.state_dict()), assign=True)
    assert torch.equal(twin(INDICES), expected)
    assert twin.weight_qparams.float_zero_point and repr(twin) == repr(made)
    for tensor in twin.state_dict().values():
        tensor.zero_()
    assert torch.equal(made(INDICES), expected)


@every_class
def test_every_device_gives_the_same_numbers(cls, device: torch.device):
    made, _ = quantized(cls)
    expected = made(INDICES)
    assert torch.equal(made.to(device).half()(INDICES.to(device)).cpu(), expected)


def test_an_integer_zero_point_takes_the_place_of_a_float_one():
    module = nnq.Embedding(ROWS, COLUMNS)
    spec = TensorSpec(qint8, symmetric=True)
    source = nnq.Embedding.from_qparams(
        nn.Embedding(ROWS, COLUMNS), weight=spec.qparams_of(torch.randn(ROWS, COLUMNS))
    )
    module.load_state_dict(source.state_dict())
    assert not module.weight_qparams.float_zero_point and module.dtype is qint8
    assert torch.equal(module(INDICES), source(INDICES))


def test_tables_can_be_given_and_replaced():
    made, _ = quantized(nn.Embedding)
    given = nnq.Embedding(ROWS, COLUMNS, _weight=made.weight())
    assert torch.equal(given(INDICES), made(INDICES))
    with pytest.raises(DTypeError, match=r"weight is not quantized.*quantize_per_channel"):
        given.set_weight(torch.zeros(ROWS, COLUMNS))
    with pytest.raises(ShapeError, match=r"weight has the wrong shape.*\(20, 6\).*\(21, 6\)"):
        given.set_weight(nnq.Embedding(ROWS + 1, COLUMNS).weight())


def test_representation():
    assert repr(nnq.Embedding(20, 6)) == (
        "QuantizedEmbedding(num_embeddings=20, embedding_dim=6, dtype=qlab.quint8,"
        " qscheme=qlab.per_channel_affine_float_qparams)"
    )
    assert repr(nnq.EmbeddingBag(2, 3)).startswith("QuantizedEmbeddingBag(num_embeddings=2")
    assert nnq.Embedding(2, 3).execution_reason == "the rows it looks up become real numbers"


@every_class
def test_unsuitable_qconfigs_are_refused(cls):
    static = row_for_module(cls).static
    with pytest.raises(UnsupportedError, match=r"row of a table needs a scale.*weight_only"):
        static.from_float(prepared(cls, default_qconfig))
    with pytest.raises(UncalibratedError, match="has no qconfig"):
        static.from_float(cls(ROWS, COLUMNS))


@every_class
def test_options_without_an_integer_form_are_refused(cls):
    static = row_for_module(cls).static
    with pytest.raises(UnsupportedError, match=r"max_norm=None.*max_norm=2.0"):
        static(ROWS, COLUMNS, max_norm=2.0)
    with pytest.raises(UnsupportedError, match=r"max_norm=None.*max_norm=2.0"):
        static.from_float(prepared(cls, max_norm=2.0))


def test_modes_of_bags():
    with pytest.raises(UnsupportedError, match=r"'sum' or 'mean'.*'max'"):
        nnq.EmbeddingBag.from_float(prepared(nn.EmbeddingBag, mode="max"))
    with pytest.raises(UnsupportedError, match=r"padding_idx=None.*padding_idx=3"):
        nnq.EmbeddingBag.from_float(prepared(nn.EmbeddingBag, padding_idx=3))
    with pytest.raises(UnknownNameError, match=r"EmbeddingBag mode 'least'.*sum, mean"):
        nnq.EmbeddingBag(ROWS, COLUMNS, mode="least")


def test_indices_that_make_no_sense():
    table, bags = nnq.Embedding(ROWS, COLUMNS), nnq.EmbeddingBag(ROWS, COLUMNS)
    flat = INDICES.reshape(-1)
    with pytest.raises(ArgumentError, match=r"index lies outside.*0 to 19.*Received 20"):
        table(torch.tensor([3, 20]))
    with pytest.raises(ArgumentError, match=r"index lies outside.*Received -1"):
        bags(torch.tensor([[3, -1]]))
    with pytest.raises(DTypeError, match=r"indices are not integers.*torch.float32"):
        table(torch.zeros(3))
    with pytest.raises(DTypeError, match=r"expected indices.*without Quantize"):
        table(QTensor(torch.zeros(3, dtype=torch.uint8), QParams.per_tensor(1.0, 0, quint8)))
    with pytest.raises(ShapeError, match=r"flat indices take offsets.*no offsets"):
        bags(flat)
    with pytest.raises(ShapeError, match=r"flat indices take offsets.*and offsets"):
        bags(INDICES, OFFSETS)
    for offsets in ([0, 4, 2], [1, 2], [0, 7]):
        with pytest.raises(ArgumentError, match=r"offsets do not divide.*the first 0.*Received"):
            bags(flat, torch.tensor(offsets))
    with pytest.raises(ArgumentError, match=r"the last 6.*\[0, 5\]"):
        nnq.EmbeddingBag(ROWS, COLUMNS, include_last_offset=True)(flat, torch.tensor([0, 5]))
    with pytest.raises(DTypeError, match="offsets are not integers"):
        bags(flat, OFFSETS.float())
    with pytest.raises(ShapeError, match=r"per_sample_weights has the wrong shape.*\(6,\).*\(5,\)"):
        bags(flat, OFFSETS, torch.zeros(5))
    with pytest.raises(ArgumentError, match=r"only sums take per_sample_weights.*'mean'"):
        nnq.EmbeddingBag(ROWS, COLUMNS, mode="mean")(flat, OFFSETS, torch.zeros(6))
    with pytest.raises(UnsupportedError, match="compressed_indices_mapping=None"):
        bags(flat, OFFSETS, None, torch.zeros(1))
    assert (
        bags(torch.empty(0, dtype=torch.int64), torch.zeros(2).long()).tolist() == [[0.0] * 6] * 2
    )
