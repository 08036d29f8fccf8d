"""Dynamically quantized recurrent layers and cells; their numbers are in tests/golden."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import qlab
from qlab.errors import (
    ArgumentError,
    DTypeError,
    ShapeError,
    UncalibratedError,
    UnknownNameError,
    UnsupportedError,
)
from qlab.nn.quantized import dynamic
from qlab.qconfig import default_dynamic_qconfig, float16_dynamic_qconfig

LAYERS, CELLS = ("LSTM", "GRU"), ("LSTMCell", "GRUCell", "RNNCell")


def pair(kind: str, qconfig=default_dynamic_qconfig, **kwargs):
    source = getattr(nn, kind)(5, 7, **kwargs).eval()
    source.qconfig = qconfig
    return source, getattr(dynamic, kind).from_float(source)


def state(result) -> torch.Tensor:
    return result if isinstance(result, torch.Tensor) else torch.cat(tuple(result))


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no_bias"])
@pytest.mark.parametrize("shape", [(6, 2, 5), (6, 5)], ids=["batch", "single"])
def test_float16_layers_follow_the_float_ones(kind, bias, shape):
    source, quantized = pair(
        kind, float16_dynamic_qconfig, bias=bias, num_layers=2, bidirectional=True
    )
    x = torch.randn(shape)
    y, h = quantized(x)
    want, last = source(x)
    assert y.shape == want.shape and state(h).shape == state(last).shape
    torch.testing.assert_close(y, want, rtol=0, atol=2e-3)
    torch.testing.assert_close(state(h), state(last), rtol=0, atol=2e-3)
    again, _ = quantized(x, h)
    torch.testing.assert_close(again, source(x, last)[0], rtol=0, atol=4e-3)


@pytest.mark.parametrize("kind", LAYERS)
def test_packed_sequences_are_the_sequences_alone(kind):
    _, quantized = pair(kind, float16_dynamic_qconfig, num_layers=2, bidirectional=True)
    x, lengths = torch.randn(6, 3, 5), [2, 6, 4]
    y, h = quantized(pack_padded_sequence(x, lengths, enforce_sorted=False))
    y, _ = pad_packed_sequence(y)
    for index, length in enumerate(lengths):
        alone, last = quantized(x[:length, index])
        torch.testing.assert_close(y[:length, index], alone, rtol=0, atol=1e-6)
        last = last if isinstance(last, tuple) else (last,)
        for part, want in zip(h if isinstance(h, tuple) else (h,), last, strict=True):
            torch.testing.assert_close(part[:, index], want, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", LAYERS)
def test_batch_first_only_turns_axes(kind):
    _, quantized = pair(kind)
    x = torch.randn(6, 2, 5)
    turned = copy.deepcopy(quantized)
    turned.batch_first = True
    assert torch.equal(turned(x.transpose(0, 1))[0].transpose(0, 1), quantized(x)[0])


@pytest.mark.parametrize("kind", LAYERS)
def test_dropout_acts_in_training_only(kind):
    _, quantized = pair(kind, num_layers=2, dropout=0.9)
    x = torch.randn(6, 2, 5)
    assert torch.equal(quantized(x)[0], quantized(x)[0])
    quantized.train()
    assert not torch.equal(quantized(x)[0], quantized(x)[0])


@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no_bias"])
def test_float16_cells_follow_the_float_ones(kind, bias):
    source, quantized = pair(kind, float16_dynamic_qconfig, bias=bias)
    for x in (torch.randn(3, 5), torch.randn(5)):
        first = quantized(x)
        torch.testing.assert_close(state(first), state(source(x)), rtol=0, atol=2e-3)
        assert state(quantized(x, first)).shape == state(first).shape


@pytest.mark.parametrize("kind", LAYERS + CELLS)
@pytest.mark.parametrize("qconfig", [default_dynamic_qconfig, float16_dynamic_qconfig])
def test_copies_are_equal(kind, qconfig):
    _, quantized = pair(kind, qconfig)
    loaded = getattr(dynamic, kind)(5, 7)
    loaded.load_state_dict(quantized.state_dict())
    x = torch.randn(4, 5)
    for made in (copy.deepcopy(quantized), pickle.loads(pickle.dumps(quantized)), loaded):
        assert torch.equal(state(made(x)[0]), state(quantized(x)[0]))
        assert made.dtype == quantized.dtype


@pytest.mark.parametrize("kind", LAYERS + CELLS)
@pytest.mark.parametrize("nested", [True, False])
def test_weights_move_between_modules(kind, nested):
    _, quantized = pair(kind)
    weights, biases = quantized.get_weight(), quantized.get_bias()
    assert all(isinstance(weight, qlab.QTensor) for weight in weights.values())
    given = {"weight": weights, "bias": biases} if nested else weights | biases
    target = getattr(dynamic, kind)(5, 7)
    target.set_weight_bias(given)
    x = torch.randn(4, 5)
    assert torch.equal(state(target(x)[0]), state(quantized(x)[0]))
    biases.popitem()
    with pytest.raises(ArgumentError, match=r"weights or biases are missing.*nothing for bias_hh"):
        target.set_weight_bias({"weight": weights, "bias": biases})


@pytest.mark.parametrize("kind", LAYERS + CELLS)
def test_what_cannot_be_converted(kind):
    with pytest.raises(DTypeError, match=f"{kind} cannot be made from this module"):
        getattr(dynamic, kind).from_float(nn.Linear(2, 2))
    with pytest.raises(UncalibratedError, match=f"{kind} has no qconfig"):
        getattr(dynamic, kind).from_float(getattr(nn, kind)(2, 3))


def test_projections_are_refused():
    with pytest.raises(UnsupportedError, match="projections have no quantized form"):
        pair("LSTM", proj_size=3)


@pytest.mark.parametrize("kind", LAYERS + CELLS)
def test_input_is_checked(kind):
    _, quantized = pair(kind)
    with pytest.raises(ShapeError, match=r"the input has the wrong shape.*length 5"):
        quantized(torch.ones(4, 6))
    with pytest.raises(DTypeError, match="takes real numbers"):
        quantized(torch.ones(4, 5, dtype=torch.int64))
    with pytest.raises(DTypeError, match=r"takes real numbers.*QTensor.*dequantize"):
        quantized(qlab.quantize_per_tensor(torch.ones(4, 5), 1.0, 0, qlab.quint8))
    with pytest.raises(ShapeError, match="the initial state does not fit"):
        bad = torch.zeros(9, 9)
        quantized(torch.ones(4, 5), (bad, bad) if "LSTM" in kind else bad)


def test_empty_sequences_and_bad_arguments():
    with pytest.raises(ShapeError, match="the sequence is empty"):
        pair("GRU")[1](torch.ones(0, 2, 5))
    with pytest.raises(ArgumentError, match="dropout from 0 to 1"):
        dynamic.GRU(2, 3, dropout=2.0)
    with pytest.raises(ArgumentError, match="hidden_size must be a positive whole number"):
        dynamic.LSTM(2, 0)
    with pytest.raises(UnknownNameError, match="nonlinearity 'sine'"):
        dynamic.RNNCell(2, 3, nonlinearity="sine")


def test_repr():
    text = repr(dynamic.LSTM(5, 7, num_layers=2, bidirectional=True))
    assert text.startswith("DynamicQuantizedLSTM(\n  5, 7, num_layers=2, bidirectional=True\n")
    cell = dynamic.RNNCell(5, 7, nonlinearity="relu", dtype=torch.float16)
    assert cell.extra_repr() == "5, 7, nonlinearity='relu', dtype=torch.float16"
