"""Equalization and bias correction of modules that a person names."""

import copy

import pytest
import torch
from torch import nn

import qlab
from qlab.errors import ArgumentError, ShapeError, UnknownNameError, UnsupportedError
from qlab.quantization._correct_bias import bias_correction
from qlab.quantization._equalize import cross_layer_equalization, equalize


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.quant, self.dequant = qlab.quantization.QuantStub(), qlab.quantization.DeQuantStub()
        self.conv, self.relu = nn.Conv2d(2, 6, 3), nn.ReLU()
        self.dw, self.flat = nn.Conv2d(6, 6, 3, 1, 1, groups=6), nn.Flatten()
        self.pw, self.fc = nn.Conv2d(6, 4, 3), nn.Linear(64, 3)

    def forward(self, x):
        x = self.dw(self.relu(self.conv(self.quant(x))))
        return self.dequant(self.fc(self.flat(self.pw(self.relu(x)))))


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    made = Net().eval().requires_grad_(False)
    made.conv.weight[2] *= 40
    made.pw.weight[:, 4] *= 30
    return made


def images(seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(32, 2, 8, 8, generator=generator)


CHAIN = ["conv", "dw", "pw"]


def ranges(rows: torch.Tensor) -> torch.Tensor:
    return rows.amax(1) - rows.amin(1)


def test_a_pair_of_layers_has_equal_ranges_and_the_same_function():
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).requires_grad_(False)
    model[0].weight[1] *= 50
    x = torch.randn(20, 4)
    before = model(x)
    cross_layer_equalization(model[0], model[2])
    torch.testing.assert_close(model(x), before, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ranges(model[0].weight), ranges(model[2].weight.T))


def test_axes_can_be_named():
    torch.manual_seed(2)
    default, named = (nn.Linear(4, 5), nn.Linear(5, 3)), (nn.Linear(4, 5), nn.Linear(5, 3))
    for one, other in zip(default, named, strict=True):
        other.load_state_dict(one.state_dict())
    cross_layer_equalization(*default)
    cross_layer_equalization(*named, output_axis=0, input_axis=-1)
    for one, other in zip(default, named, strict=True):
        assert torch.equal(one.weight, other.weight) and torch.equal(one.bias, other.bias)


@torch.no_grad()
def test_the_axis_of_a_depthwise_convolution_is_either():
    torch.manual_seed(3)
    first, dw = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 3, groups=6)
    first.weight[2] *= 30
    x = torch.randn(2, 3, 5, 5)
    before = dw(first(x).relu())
    cross_layer_equalization(first, dw, input_axis=0)
    torch.testing.assert_close(dw(first(x).relu()), before, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ranges(first.weight.flatten(1)), ranges(dw.weight.flatten(1)))


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ((0, 0), "does not read what the first writes"),
        ((1, 0), "bias is not of these channels"),
        ((7, 1), "no axis 7"),
        ((0, -3), "no axis -3"),
    ],
)
def test_axes_that_do_not_fit_change_nothing(axes: tuple[int, int], message: str):
    model = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 3))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ShapeError, match=message):
        cross_layer_equalization(model[0], model[1], *axes)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_chain_is_equalized_until_nothing_moves(net):
    x, before = images(), net(images())
    made = equalize(net, [CHAIN])
    assert made is net
    torch.testing.assert_close(net(x), before, rtol=1e-4, atol=1e-4)
    writing, reading = (ranges(layer.weight.flatten(1)) for layer in (net.conv, net.dw))
    torch.testing.assert_close(writing, reading, rtol=1e-3, atol=1e-4)
    last = ranges(net.pw.weight.transpose(0, 1).flatten(1))
    torch.testing.assert_close(reading, last, rtol=1e-3, atol=1e-4)
    weight = net.conv.weight.clone()
    equalize(net, [CHAIN])
    torch.testing.assert_close(net.conv.weight, weight, rtol=1e-3, atol=1e-4)


def test_modules_and_names_say_the_same_and_a_copy_leaves_the_model(net):
    kept = copy.deepcopy(net.state_dict())
    by_name = equalize(net, [["conv", "pw"]], inplace=False)
    by_module = equalize(net, [[net.conv, net.pw]], inplace=False)
    assert all(torch.equal(t, kept[name]) for name, t in net.state_dict().items())
    others = by_module.state_dict()
    assert all(torch.equal(t, others[name]) for name, t in by_name.state_dict().items())
    assert not torch.equal(by_name.conv.weight, net.conv.weight)


def test_a_channel_without_range_stays(net):
    net.pw.weight[:, 3] = 0
    before = net.conv.weight[3].clone()
    equalize(net, [["conv", "pw"]])
    assert torch.equal(net.conv.weight[3], before) and net.conv.weight.isfinite().all()


def test_what_cannot_be_equalized_is_refused(net):
    with pytest.raises(ShapeError, match="does not read what the first writes"):
        equalize(net, [["conv", "fc"]])
    with pytest.raises(UnsupportedError, match="linear layers and convolutions"):
        equalize(net, [["conv", "relu"]])
    with pytest.raises(UnknownNameError, match="konv"):
        equalize(net, [["konv", "pw"]])
    with pytest.raises(ArgumentError, match="not part of the model"):
        equalize(net, [[nn.Linear(2, 2), "pw"]])
    with pytest.raises(ArgumentError, match="two or more layers"):
        equalize(net, [["conv"]])
    with pytest.raises(ArgumentError, match="found no end"):
        equalize(net, [["conv", "pw"]], threshold=-1.0)


def quantized_of(net: Net) -> nn.Module:
    prepared = copy.deepcopy(net)
    prepared.qconfig = qlab.quantization.default_qconfig
    qlab.quantization.prepare(prepared, inplace=True)
    prepared(images())
    return qlab.quantization.convert(prepared)


def own_error(net: Net, quantized: nn.Module, name: str) -> torch.Tensor:
    """The mean error that a quantized layer adds to what it reads, (C,)."""
    layer, found = net.get_submodule(name), []

    def look(_, inputs, output):
        found.append(output.dequantize() - layer(inputs[0].dequantize()))

    handle = quantized.get_submodule(name).register_forward_hook(look)
    quantized(images())
    handle.remove()
    return torch.cat(found).transpose(0, 1).flatten(1).mean(1)


def test_biases_take_the_mean_error_of_each_layer_back(net):
    quantized, names = quantized_of(net), ("conv", "dw", "pw", "fc")
    biases = {name: quantized.get_submodule(name).bias().clone() for name in names}
    expected = own_error(net, quantized, "conv")
    batches = [(part, None) for part in images().split(10)]  # the last is smaller
    bias_correction(net, quantized, batches)
    moved = quantized.conv.bias() - biases["conv"]
    torch.testing.assert_close(moved, -expected, rtol=1e-3, atol=1e-6)
    for name in names:
        assert not torch.equal(quantized.get_submodule(name).bias(), biases[name])
        assert own_error(net, quantized, name).abs().max() < quantized.get_submodule(name).scale
    assert (
        own_error(net, quantized, "pw").norm()
        < 0.3 * own_error(net, quantized_of(net), "pw").norm()
    )
    assert not any(module._forward_hooks for module in quantized.modules())


def test_layers_in_float_can_be_corrected_too(net):
    coarse = copy.deepcopy(net)
    coarse.pw.weight.copy_((coarse.pw.weight * 2).round() / 2)
    bias_correction(net, coarse, [(images(), None)], [nn.Conv2d])
    assert own_error(net, coarse, "pw").abs().max() < 1e-5
    assert torch.equal(coarse.fc.bias, net.fc.bias)


def test_only_so_many_batches_and_types_are_used(net):
    seen = []

    def batches():
        for part in images().split(8):
            seen.append(len(part))
            yield part, None

    class Batches:
        def __iter__(self):
            return batches()

    quantized = quantized_of(net)
    bias = quantized.conv.bias().clone()
    targets = {qlab.nn.quantized.Linear}
    bias_correction(net, quantized, Batches(), targets, neval_batches=2)
    assert torch.equal(quantized.conv.bias(), bias)
    assert len(seen) == 3  # the third is fetched and not run


def test_data_and_names_are_asked_for(net):
    quantized = quantized_of(net)
    with pytest.raises(ArgumentError, match="needs data"):
        bias_correction(net, quantized, [])
    with pytest.raises(UnknownNameError, match="conv"):
        bias_correction(nn.Sequential(), quantized, [(images(), None)])
