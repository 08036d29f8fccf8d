"""Reference modules: float modules on the weights that their codes stand for."""

import copy
import io

import pytest
import torch
from torch import nn

import qlab
from qlab.errors import ArgumentError, DTypeError, FormatError, UnsupportedError
from qlab.nn import quantized as nnq
from qlab.nn.quantized import dynamic as nnqd
from qlab.nn.quantized import reference as nnqr

PER_TENSOR = {
    "qscheme": qlab.per_tensor_affine, "dtype": qlab.qint8, "scale": 0.01, "zero_point": 3,
}  # fmt: skip
HALF = {"qscheme": qlab.per_tensor_affine, "dtype": torch.float16}


def per_channel(channels: int, axis: int = 0) -> dict:
    return {
        "qscheme": qlab.per_channel_affine,
        "dtype": qlab.qint8,
        "scale": torch.linspace(0.01, 0.02, channels),
        "zero_point": torch.zeros(channels, dtype=torch.int32),
        "axis": axis,
    }


TABLE = {
    "qscheme": qlab.per_channel_affine_float_qparams,
    "dtype": qlab.quint8,
    "scale": torch.full((9,), 0.03),
    "zero_point": torch.full((9,), 100.25),
    "axis": 0,
}

LAYERS = {
    "Linear": (nn.Linear(3, 4), per_channel(4), (2, 3)),
    "Conv1d": (nn.Conv1d(2, 4, 3, padding=1, padding_mode="reflect"), per_channel(4), (1, 2, 6)),
    "Conv2d": (nn.Conv2d(2, 4, 3, stride=2, bias=False), PER_TENSOR, (1, 2, 6, 6)),
    "Conv3d": (nn.Conv3d(2, 4, 2, groups=2), per_channel(4), (1, 2, 4, 4, 4)),
    "ConvTranspose1d": (nn.ConvTranspose1d(2, 4, 3), per_channel(4, 1), (1, 2, 5)),
    "ConvTranspose2d": (nn.ConvTranspose2d(2, 4, 3), PER_TENSOR, (1, 2, 5, 5)),
    "ConvTranspose3d": (nn.ConvTranspose3d(2, 4, 2), PER_TENSOR, (1, 2, 3, 3, 3)),
    "Embedding": (nn.Embedding(9, 4), TABLE, None),
    "EmbeddingBag": (nn.EmbeddingBag(9, 4, mode="sum"), TABLE, None),
}
RECURRENT = {
    "LSTM": (nn.LSTM(3, 4, 2, bidirectional=True, batch_first=True), (5, 2, 3)),
    "GRU": (nn.GRU(3, 4, dropout=0.1, num_layers=2), (5, 2, 3)),
    "LSTMCell": (nn.LSTMCell(3, 4), (2, 3)),
    "GRUCell": (nn.GRUCell(3, 4, bias=False), (2, 3)),
    "RNNCell": (nn.RNNCell(3, 4, nonlinearity="relu"), (2, 3)),
}


def made(name: str) -> nnqr.ReferenceQuantizedModule:
    return getattr(nnqr, name).from_float(*LAYERS[name][:2])


def recurrent(name: str, how: dict = PER_TENSOR) -> nn.Module:
    layer = RECURRENT[name][0].eval()
    weights = [n for n, _ in layer.named_parameters() if n.startswith("weight")]
    return getattr(nnqr, name).from_float(layer, dict.fromkeys(weights, how))


def inputs(shape: tuple[int, ...] | None) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    if shape is None:
        return torch.randint(0, 9, (2, 3), generator=generator)
    return torch.randn(shape, generator=generator)


def first(result):
    return first(result[0]) if isinstance(result, tuple) else result


@pytest.mark.parametrize("name", LAYERS)
def test_it_is_the_float_module_with_a_weight_of_codes(name):
    layer, _, shape = LAYERS[name]
    module, twin, x = made(name), copy.deepcopy(layer), inputs(shape)
    assert isinstance(module, type(layer))
    weight = module.get_quantized_weight()
    with torch.no_grad():
        twin.weight.copy_(weight.dequantize())
        assert torch.equal(module.get_weight(), twin.weight)
        assert torch.equal(module(x), twin(x))
        assert not torch.equal(module(x), layer(x))


@pytest.mark.parametrize("name", LAYERS)
def test_the_integer_module_takes_it(name):
    module = made(name)
    if "Embedding" in name:
        integer, x = getattr(nnq, name).from_reference(module), inputs(None)
        torch.testing.assert_close(integer(x), module(x))
        return
    integer = getattr(nnq, name).from_reference(module, 0.1, 3)
    assert torch.equal(integer.weight().int_repr(), module.get_quantized_weight().int_repr())
    assert (integer.bias() is None) == (module.bias is None)
    assert module.bias is None or torch.equal(integer.bias(), module.bias)


@pytest.mark.parametrize("name", [*LAYERS, *RECURRENT])
def test_its_state_is_loaded_by_a_new_one_without_pickle(name):
    module = made(name) if name in LAYERS else recurrent(name)
    layer, *_, shape = LAYERS.get(name) or RECURRENT[name]
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    arguments = type(module)._arguments_of(layer)
    fresh = type(module)(**arguments).eval()
    fresh.load_state_dict(torch.load(file, weights_only=True))
    x = inputs(shape)
    with torch.no_grad():
        assert torch.equal(first(fresh(x)), first(module.eval()(x)))
        assert torch.equal(first(copy.deepcopy(module)(x)), first(module(x)))


@pytest.mark.parametrize("name", RECURRENT)
def test_recurrent_modules_round_every_weight(name):
    layer, shape = RECURRENT[name]
    module, twin, x = recurrent(name), copy.deepcopy(layer).eval(), inputs(shape)
    with torch.no_grad():
        for weight in module.forms:
            rounded = nnqr.get_quantized_weight(module, weight).dequantize()
            twin.get_parameter(weight).copy_(rounded)
        assert torch.equal(first(module(x)), first(twin(x)))


@pytest.mark.parametrize("name", RECURRENT)
@pytest.mark.parametrize("how", [PER_TENSOR, HALF], ids=["qint8", "float16"])
def test_the_dynamic_module_takes_it(name, how):
    if how is PER_TENSOR:
        how = {**how, "zero_point": 0}
    module, x = recurrent(name, how), inputs(RECURRENT[name][1])
    dynamic = getattr(nnqd, name).from_reference(module)
    with torch.no_grad():
        tolerance = 1e-5 if how is HALF else 0.03
        torch.testing.assert_close(first(dynamic(x)), first(module(x)), rtol=0, atol=tolerance)


def test_the_dynamic_linear_layer_takes_it_in_integers_and_float16():
    layer, x = nn.Linear(3, 4), inputs((2, 3))
    for how, tolerance in ((per_channel(4), 0.02), (HALF, 1e-6)):
        module = nnqr.Linear.from_float(layer, how)
        dynamic = nnqd.Linear.from_reference(module)
        torch.testing.assert_close(dynamic(x), module(x), rtol=0, atol=tolerance)


def test_cells_and_layers_give_their_weights_by_the_names_of_the_reference():
    cell, layer = recurrent("GRUCell"), recurrent("GRU")
    assert torch.equal(cell.get_weight_ih(), cell.get_quantized_weight_ih().dequantize())
    assert torch.equal(cell.get_weight_hh(), cell.get_quantized_weight_hh().dequantize())
    named = layer.get_quantized_weight_bias_dict()
    assert list(named["weight"]) == ["weight_ih_l0", "weight_hh_l0", "weight_ih_l1", "weight_hh_l1"]
    assert len(layer.get_flat_weights()) == 8
    assert torch.equal(layer.get_flat_weights()[0], named["weight"]["weight_ih_l0"].dequantize())


def test_without_a_scheme_the_weight_stays_float():
    layer = nn.Linear(3, 4)
    module = nnqr.Linear.from_float(layer, {"qscheme": None, "dtype": torch.float32})
    assert torch.equal(module.get_weight(), layer.weight)


def test_its_name_says_what_it_is():
    assert repr(made("Conv2d")).startswith("QuantizedConv2d(Reference)(2, 4")


def test_other_classes_and_other_parameters_are_refused():
    with pytest.raises(DTypeError, match="Linear cannot be made from this module"):
        nnqr.Linear.from_float(nn.ReLU(), PER_TENSOR)
    with pytest.raises(ArgumentError, match="Not the parameters of a weight"):
        nnqr.Linear.from_float(nn.Linear(3, 4), {"scale": 1.0})
    with pytest.raises(UnsupportedError, match="decomposed form"):
        nnqr.Linear.from_float(nn.Linear(3, 4), {**PER_TENSOR, "is_decomposed": True})
    with pytest.raises(ArgumentError, match="scale must be positive"):
        nnqr.Linear.from_float(nn.Linear(3, 4), {**PER_TENSOR, "scale": -1.0})
    with pytest.raises(ArgumentError, match="parameters of other weights"):
        nnqr.GRUCell.from_float(nn.GRUCell(3, 4), {"weight": PER_TENSOR})
    with pytest.raises(DTypeError, match="cannot be made from this reference module"):
        nnqd.GRUCell.from_reference(nn.GRUCell(3, 4))
    with pytest.raises(DTypeError, match="cannot be made from this reference module"):
        nnqd.Linear.from_reference(nn.Linear(3, 4))


def test_a_state_about_other_weights_is_refused():
    module, state = made("Linear"), made("Linear").state_dict()
    state["_extra_state"] = {"other": {}}
    with pytest.raises(FormatError, match="about other weights"):
        module.load_state_dict(state)
    state["_extra_state"] = {"weight": {"qscheme": "per_tensor_affine"}}
    with pytest.raises(FormatError, match="Not the form of a weight"):
        module.load_state_dict(state)
