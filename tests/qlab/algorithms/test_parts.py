"""The steps of equalization and bias correction that code calls on its own."""

import pytest
import torch
from torch import nn

import qlab.nn.intrinsic as nni
import qlab.nn.quantized as nnq
from qlab.algorithms import parts
from qlab.errors import ArgumentError, ShapeError, UnknownNameError, UnsupportedError
from qlab.quantization import _correct_bias, _equalize


def test_the_faces_have_them():
    assert _equalize.converged is parts.converged
    assert _correct_bias.get_module is parts.get_module
    assert _correct_bias.parent_child_names("a.b.c") == ("a.b", "c")
    assert _correct_bias.parent_child_names("fc") == ("", "fc")


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_the_range_of_each_channel(axis):
    x = torch.randn(3, 4, 5)
    rows = x.movedim(axis, 0).flatten(1)
    want = torch.stack([row.max() - row.min() for row in rows])
    assert torch.equal(parts.channel_range(x, axis), want)


def test_extrema_over_several_axes():
    x = torch.randn(3, 4, 5)
    assert torch.equal(parts.max_over_ndim(x, [2, 0]), x.amax((0, 2)))
    assert parts.min_over_ndim(x, [0, 2], keepdim=True).shape == (1, 4, 1)
    assert parts.min_over_ndim(x, []) is x
    with pytest.raises(ShapeError, match="channel_range: the tensor has no axis 3"):
        parts.channel_range(x, 3)


@pytest.mark.parametrize("fused", [False, True])
def test_parameters_of_a_layer_fused_or_not(fused):
    plain = nn.Conv2d(2, 3, 1)
    layer = nni.ConvReLU2d(plain, nn.ReLU()) if fused else plain
    assert parts.get_module_weight(layer) is plain.weight and parts.has_bias(layer)
    parts.set_module_weight(layer, torch.ones(3, 2, 1, 1))
    parts.set_module_bias(layer, torch.ones(3))
    assert plain.weight.sum() == 6 and parts.get_module_bias(layer).sum() == 3
    assert isinstance(plain.weight, nn.Parameter) and isinstance(plain.bias, nn.Parameter)
    assert not parts.has_bias(nn.Linear(2, 2, bias=False))
    with pytest.raises(UnsupportedError, match=r"linear layers and convolutions.*ReLU"):
        parts.get_module_weight(nn.ReLU())


def test_names_and_pairs_of_layers():
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2)), nn.Linear(2, 2))
    named = parts.process_paired_modules_list_to_name(model, [[model[0], "1.0", model[2]]])
    assert named == [["0", "1.0", "2"]]
    assert parts.expand_groups_in_paired_modules_list(named) == [["0", "1.0"], ["1.0", "2"]]
    assert parts.get_name_by_module(model, model[1][0]) == "1.0"
    assert parts.get_module(model, "1.0") is model[1][0]
    with pytest.raises(UnknownNameError, match="Unknown layer '7'"):
        parts.get_module(model, "7")
    with pytest.raises(ArgumentError, match="not part of the model"):
        parts.get_name_by_module(model, nn.ReLU())
    with pytest.raises(ArgumentError, match=r"two or more layers.*\['a'\]"):
        parts.expand_groups_in_paired_modules_list([["a"]])


def test_parameters_of_float_and_quantized_modules_read_alike():
    layer = nnq.Linear(3, 2)
    assert parts.get_param(layer, "weight").equal(layer.weight())
    plain = nn.Linear(3, 2, bias=False)
    assert parts.get_param(plain, "weight") is plain.weight
    assert parts.get_param(plain, "bias") is None and parts.get_param(nn.ReLU(), "bias") is None


def test_what_moves_less_than_the_threshold_has_converged():
    now, before = ({name: nn.Linear(4, 1) for name in "ab"} for _ in "01")
    for name, layer in now.items():
        before[name].load_state_dict(layer.state_dict())
        before[name].weight.data += 0.25  # a norm of 0.5 each, 1 together
    assert parts.converged(now, before, 1.01) and not parts.converged(now, before, 0.99)
    assert not parts.converged(now, {**before, "b": None}, 9.0)
    with pytest.raises(ArgumentError, match=r"not the same.*Expected a, b.*Received a"):
        parts.converged(now, {"a": before["a"]})
