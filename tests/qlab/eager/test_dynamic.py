"""`quantize_dynamic`: which modules it changes, and into what."""

import warnings

import pytest
import torch
from torch import nn

import qlab
from qlab.eager import dynamic_mappings, quantize_dynamic
from qlab.errors import DTypeError, UnknownNameError, UnsupportedError
from qlab.nn import quantized as nnq
from qlab.nn.intrinsic.quantized.dynamic import LinearReLU
from qlab.nn.quantized import dynamic as nnqd
from qlab.qconfig import (
    QConfig,
    default_dynamic_qconfig,
    float16_dynamic_qconfig,
    per_channel_dynamic_qconfig,
)
from qlab.registry import ROWS


class Tagger(nn.Module):
    """Words to tags: an embedding, an LSTM, two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 6)
        self.rnn = nn.LSTM(6, 8, batch_first=True)
        self.head = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        return self.head(self.rnn(self.embed(words))[0])


def kinds(model: Tagger) -> list[type[nn.Module]]:
    return [type(model.embed), type(model.rnn), type(model.head[0]), type(model.head[2])]


PLAIN = [nn.Embedding, nn.LSTM, nn.Linear, nn.Linear]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (None, [nn.Embedding, nnqd.LSTM, nnqd.Linear, nnqd.Linear]),
        ({nn.Linear}, [nn.Embedding, nn.LSTM, nnqd.Linear, nnqd.Linear]),
        ({"rnn", "head.2"}, [nn.Embedding, nnqd.LSTM, nn.Linear, nnqd.Linear]),
        ({nn.Sequential: default_dynamic_qconfig}, [*PLAIN[:2], nnqd.Linear, nnqd.Linear]),
        (
            {nn.Linear: per_channel_dynamic_qconfig, "head.0": None},
            [nn.Embedding, nn.LSTM, nn.Linear, nnqd.Linear],
        ),
        ({"": default_dynamic_qconfig}, [nn.Embedding, nnqd.LSTM, nnqd.Linear, nnqd.Linear]),
        ({}, PLAIN),
    ],
    ids=["none", "types", "names", "container", "dict", "whole", "nothing"],
)
@pytest.mark.parametrize("dtype", [qlab.qint8, torch.float16])
def test_what_is_asked_for_is_quantized(spec, expected, dtype):
    model = Tagger()
    quantized = quantize_dynamic(model, spec, dtype=dtype)
    assert kinds(quantized) == expected and kinds(model) == PLAIN
    assert not quantized.training and not hasattr(quantized, "qconfig")
    words = torch.randint(10, (2, 5))
    torch.testing.assert_close(quantized(words), model(words), rtol=0, atol=0.05)


def test_dtype_decides_about_weights():
    for dtype in (torch.float16, qlab.qint8):
        assert quantize_dynamic(Tagger(), dtype=dtype).rnn.dtype == dtype
    per_channel = quantize_dynamic(Tagger(), {nn.Linear: per_channel_dynamic_qconfig})
    assert per_channel.head[0].weight().qparams.granularity == qlab.PerAxis(0)
    by_dict = quantize_dynamic(Tagger(), {nn.Linear: float16_dynamic_qconfig}, dtype=qlab.qint8)
    assert by_dict.head[0].dtype is torch.float16


@pytest.mark.parametrize("spec", [None, {nn.Embedding}, {"embed"}])
def test_embeddings_are_quantized_by_their_own_dtype(spec):
    model = Tagger()
    quantized = quantize_dynamic(model, spec, dtype=qlab.quint8)
    assert kinds(quantized) == [nnq.Embedding, nn.LSTM, nn.Linear, nn.Linear]
    words = torch.randint(10, (2, 5))
    torch.testing.assert_close(quantized(words), model(words), rtol=0, atol=0.05)


def test_embedding_bags_in_four_bits():
    model = nn.Sequential(nn.EmbeddingBag(10, 6, mode="sum"), nn.Linear(6, 2))
    quantized = quantize_dynamic(model, dtype=qlab.quint4x2)
    assert [type(part) for part in quantized] == [nnq.EmbeddingBag, nn.Linear]
    assert quantized[0].weight().qdtype.bits == 4


def test_in_place_and_mapping():
    model = Tagger()
    assert quantize_dynamic(model, inplace=True) is model
    assert type(model.rnn) is nnqd.LSTM
    model = quantize_dynamic(Tagger(), mapping={nn.Linear: nnqd.Linear})
    assert kinds(model) == [nn.Embedding, nn.LSTM, nnqd.Linear, nnqd.Linear]


def test_a_single_layer_is_replaced():
    assert type(quantize_dynamic(nn.GRU(3, 4))) is nnqd.GRU


def test_attention_keeps_the_weight_that_it_reads():
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    quantized = quantize_dynamic(model, {"": default_dynamic_qconfig})
    assert type(quantized.linear1) is nnqd.Linear
    assert not isinstance(quantized.self_attn.out_proj, nnq.QuantizedModule)


def test_every_dynamic_module_is_mapped():
    mapped = dynamic_mappings()
    assert {row.dynamic for row in ROWS if row.dynamic} == set(mapped.values())
    assert {nnqd.LSTM, nnqd.GRUCell, LinearReLU} <= set(mapped.values())


def test_classes_without_a_dynamic_form_are_told():
    model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Linear(2, 2))
    with pytest.warns(UserWarning, match="'0' stays in float: Conv2d has no dynamically quantized"):
        quantize_dynamic(model, {nn.Conv2d, nn.Linear})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        quantize_dynamic(model, {nn.Linear, nn.LSTM})


def test_bad_requests():
    model = Tagger()
    with pytest.raises(DTypeError, match="quantize_dynamic"):
        quantize_dynamic("model")
    with pytest.raises(UnknownNameError, match=r"module 'rn'.*Did you mean 'rnn'"):
        quantize_dynamic(model, {"rn"})
    with pytest.raises(DTypeError, match="Expected a dict, a set"):
        quantize_dynamic(model, [nn.Linear])
    for dtype in (torch.float64, "qint16", "nonsense"):
        with pytest.raises(DTypeError, match="no default qconfig for this dtype"):
            quantize_dynamic(model, dtype=dtype)
    weightless = QConfig(default_dynamic_qconfig.activation, nn.Identity)
    with pytest.raises(UnsupportedError, match=r"'head.0' \(Linear\).*has a quantized weight"):
        quantize_dynamic(model, {nn.Linear: weightless})
    assert kinds(model) == PLAIN


@pytest.mark.parametrize("asked", [{nn.Embedding}, {"embed"}, {"embed": default_dynamic_qconfig}])
def test_a_table_asked_for_with_a_qconfig_of_layers_is_refused(asked):
    model = Tagger()
    shown = repr(model)
    with pytest.raises(UnsupportedError, match=r"'embed' \(Embedding\).*Expected float_qparams"):
        quantize_dynamic(model, asked, inplace=True)
    assert repr(model) == shown
    made = quantize_dynamic(model, {nn.Embedding}, dtype=qlab.quint8)
    changed = [
        type(part) is not type(twin)
        for part, twin in zip(made.children(), model.children(), strict=True)
    ]
    assert changed == [name == "embed" for name, _ in model.named_children()]
