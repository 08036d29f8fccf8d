"""LSTM and attention, taken apart by prepare and quantized by convert; numbers: tests/golden."""

import copy
import pickle

import pytest
import torch
from torch import nn

import qlab
from qlab.eager import convert, custom_mappings, prepare
from qlab.errors import (
    ArgumentError,
    DTypeError,
    ShapeError,
    UncalibratedError,
    UnsupportedError,
)
from qlab.nn import quantizable as nnqa
from qlab.nn import quantized as nnq
from qlab.nn.quantizable.insides import Insides
from qlab.observers import MinMaxObserver, default_weight_observer
from qlab.qconfig import QConfig

QCONFIG = QConfig(MinMaxObserver, default_weight_observer)


def with_qconfig(module: nn.Module) -> nn.Module:
    module.eval().qconfig = QCONFIG
    return module


@pytest.mark.parametrize("split_gates", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
@torch.no_grad()
def test_the_observed_lstm_computes_as_the_float_one(split_gates, batch_first):
    source = with_qconfig(
        nn.LSTM(5, 7, num_layers=2, bidirectional=True, batch_first=batch_first, dropout=0.5)
    )
    observed = nnqa.LSTM.from_float(source, split_gates=split_gates)
    x = torch.randn(3, 4, 5)
    y, (h, c) = observed(x)
    want, last = source(x)
    for got, expected in ((y, want), (h, last[0]), (c, last[1])):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(observed(x, (h, c))[0], source(x, last)[0], rtol=0, atol=1e-5)
    converted = nnq.LSTM.from_observed(observed)
    q = qlab.quantize_per_tensor(x, 0.05, 128, qlab.quint8)
    y, state = converted(q)
    assert isinstance(y, qlab.QTensor) and not any(
        isinstance(part, nn.Linear) for part in converted.modules()
    )
    torch.testing.assert_close(y.dequantize(), want, rtol=0, atol=0.1)
    assert isinstance(converted(q, state)[0], qlab.QTensor)
    with pytest.raises(DTypeError, match="input and initial state are not of one kind"):
        converted(q, last)


@torch.no_grad()
def test_the_cell_computes_as_the_float_one():
    source, x = with_qconfig(nn.LSTMCell(5, 7)), torch.randn(3, 5)
    made = nnqa.LSTMCell.from_float(source)
    state = made(x)
    for got, want in zip(made(x, state), source(x, source(x)), strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-5)
    with pytest.raises(ArgumentError, match="both biases or none"):
        nnqa.LSTMCell.from_params(source.weight_ih, source.weight_hh, source.bias_ih)


MASKS = {
    "none": {},
    "averaged": {"average_attn_weights": False},
    "attn": {"attn_mask": torch.ones(4, 6).triu(3).bool()},
    "attn_float": {"attn_mask": torch.randn(4, 6)},
    "padding": {"key_padding_mask": torch.tensor([[False] * 4 + [True] * 2] * 3)},
    "unwanted": {"need_weights": False},
}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"batch_first": True},
        {"bias": False},
        {"kdim": 5, "vdim": 7},
        {"add_bias_kv": True, "add_zero_attn": True},
    ],
    ids=["plain", "batch_first", "no_bias", "sizes", "extra"],
)
@torch.no_grad()
def test_attention_computes_as_the_float_one(options, mask):
    source = with_qconfig(nn.MultiheadAttention(8, 2, **options))
    observed = nnqa.MultiheadAttention.from_float(source)
    inputs = [
        torch.randn(4, 3, 8),
        *(torch.randn(6, 3, options.get(d, 8)) for d in ("kdim", "vdim")),
    ]
    if "batch_first" in options:
        inputs = [x.transpose(0, 1) for x in inputs]
    y, weights = observed(*inputs, **MASKS[mask])
    want, want_weights = source(*inputs, **MASKS[mask])
    torch.testing.assert_close(y, want, rtol=0, atol=1e-5)
    if want_weights is None:
        assert weights is None
    else:
        torch.testing.assert_close(weights, want_weights, rtol=0, atol=1e-5)
    converted = nnq.MultiheadAttention.from_observed(observed)
    coded = [qlab.quantize_per_tensor(x, 0.04, 128, qlab.quint8) for x in inputs]
    y, _ = converted(*coded, **MASKS[mask])
    torch.testing.assert_close(y.dequantize(), want, rtol=0, atol=0.15)
    back, _ = converted.dequantize()(*inputs, **MASKS[mask])
    torch.testing.assert_close(back, want, rtol=0, atol=0.1)


@torch.no_grad()
def test_prepare_and_convert_find_them_by_themselves():
    assert custom_mappings()[0] == {
        nn.LSTM: nnqa.LSTM,
        nn.MultiheadAttention: nnqa.MultiheadAttention,
    }
    model = with_qconfig(nn.Sequential(qlab.nn.stubs.QuantStub(), nn.LSTM(5, 7)))
    prepared = prepare(model)
    x = torch.randn(4, 2, 5)
    prepared(x)
    converted = convert(prepared)
    kinds = [type(m[1]) for m in (model, prepared, converted)]
    assert kinds == [nn.LSTM, nnqa.LSTM, nnq.LSTM]
    y = converted(x)[0].dequantize()
    for twin in (copy.deepcopy(converted), pickle.loads(pickle.dumps(converted))):
        assert torch.equal(twin(x)[0].dequantize(), y)
    twin.load_state_dict(converted.state_dict())
    assert torch.equal(twin(x)[0].dequantize(), y)
    assert repr(converted[1]).startswith("QuantizedLSTM(")
    untouched = prepare(model, prepare_custom_config_dict={})
    assert type(untouched[1]) is nn.LSTM


def test_without_calibration_the_layer_is_named():
    prepared = prepare(with_qconfig(nn.Sequential(nn.LSTM(5, 7))))
    with pytest.warns(UserWarning, match="no calibration data reached '0'"):
        blank = convert(prepared)
    with pytest.raises(UncalibratedError, match="not known"):
        blank(qlab.quantize_per_tensor(torch.randn(3, 2, 5), 0.1, 128, qlab.quint8))


@pytest.mark.parametrize("name", ["LSTM", "MultiheadAttention"])
def test_steps_cannot_be_skipped(name):
    args = (5, 7) if name == "LSTM" else (8, 2)
    source, observed, quantized = (getattr(m, name) for m in (nn, nnqa, nnq))
    with pytest.raises(UncalibratedError, match="has no qconfig"):
        observed.from_float(source(*args))
    with pytest.raises(DTypeError, match="cannot be made from this module"):
        observed.from_float(nn.Linear(2, 2))
    with pytest.raises(DTypeError, match=r"becomes a quantizable one in prepare"):
        quantized.from_observed(source(*args))
    with pytest.raises(UnsupportedError, match="is made from an observed one"):
        quantized.from_float(source(*args))
    with pytest.raises(UnsupportedError, match="is made from a float one"):
        observed.from_observed(source(*args))
    with pytest.raises(UnsupportedError, match="nothing can prepare or convert"):
        Insides().prepare(source(*args))


def test_bad_arguments_and_inputs():
    with pytest.raises(ArgumentError, match="dropout from 0 to 1"):
        nnqa.LSTM(2, 3, dropout=1.5)
    with pytest.raises(UnsupportedError, match="projections have no quantized form"):
        nnqa.LSTM.from_float(with_qconfig(nn.LSTM(4, 6, proj_size=2)))
    lstm = nnqa.LSTM(5, 7)
    with pytest.raises(ShapeError, match="three axes, the last of length 5"):
        lstm(torch.ones(3, 4))
    with pytest.raises(ShapeError, match="the initial state does not fit"):
        lstm(torch.ones(3, 2, 5), (torch.ones(1, 3, 7),) * 2)
    attention, x = nnqa.MultiheadAttention(8, 2), torch.ones(4, 3, 8)
    with pytest.raises(ShapeError, match="query, key and value do not fit"):
        attention(x, x, x[:2])
    with pytest.raises(ShapeError, match="the attn_mask has the wrong shape"):
        attention(x, x, x, attn_mask=torch.ones(3, 3))
    with pytest.raises(ShapeError, match="the key_padding_mask has the wrong shape"):
        attention(x, x, x, key_padding_mask=torch.ones(4, 3))
    with pytest.raises(UnsupportedError, match="is_causal needs the mask"):
        attention(x, x, x, is_causal=True)
