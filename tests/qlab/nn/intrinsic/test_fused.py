"""Fused float modules run their parts in turn, and hold only the parts they name."""

import operator

import pytest
import torch
from torch import nn

import qlab.nn.intrinsic as nni
from qlab.errors import ArgumentError
from qlab.nn.functions import Add

PARTS = {
    nni.ConvReLU1d: (nn.Conv1d(2, 3, 1), nn.ReLU()),
    nni.ConvReLU2d: (nn.Conv2d(2, 3, 1), nn.ReLU()),
    nni.ConvReLU3d: (nn.Conv3d(2, 3, 1), nn.ReLU()),
    nni.LinearReLU: (nn.Linear(4, 3), nn.ReLU()),
    nni.Conv1dReLU6: (nn.Conv1d(2, 3, 1), nn.ReLU6()),
    nni.Conv2dReLU6: (nn.Conv2d(2, 3, 1), nn.ReLU6()),
    nni.Conv3dReLU6: (nn.Conv3d(2, 3, 1), nn.ReLU6()),
    nni.LinearReLU6: (nn.Linear(4, 3), nn.ReLU6()),
    nni.ConvBn1d: (nn.Conv1d(2, 3, 1), nn.BatchNorm1d(3)),
    nni.ConvBn2d: (nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3)),
    nni.ConvBn3d: (nn.Conv3d(2, 3, 1), nn.BatchNorm3d(3)),
    nni.ConvBnReLU1d: (nn.Conv1d(2, 3, 1), nn.BatchNorm1d(3), nn.ReLU()),
    nni.ConvBnReLU2d: (nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), nn.ReLU()),
    nni.ConvBnReLU3d: (nn.Conv3d(2, 3, 1), nn.BatchNorm3d(3), nn.ReLU()),
    nni.LinearBn1d: (nn.Linear(4, 3), nn.BatchNorm1d(3)),
    nni.LinearLeakyReLU: (nn.Linear(4, 3), nn.LeakyReLU(0.3)),
    nni.LinearTanh: (nn.Linear(4, 3), nn.Tanh()),
    nni.LinearGELU: (nn.Linear(4, 3), nn.GELU("tanh")),
    nni.BNReLU2d: (nn.BatchNorm2d(2), nn.ReLU()),
    nni.BNReLU3d: (nn.BatchNorm3d(2), nn.ReLU()),
}


def names(cls: type) -> str:
    return cls.__name__


@pytest.mark.parametrize("cls", PARTS, ids=names)
def test_parts_run_in_turn(cls: type[nni.FusedModule]):
    parts = PARTS[cls]
    x = torch.randn((5, 2, 4, 4, 4)[: 5 if "3d" in names(cls) else 4 if "2d" in names(cls) else 3])
    x = x.flatten(0, -2) if "Linear" in names(cls) else x
    expected = x
    for part in parts:
        expected = part(expected)
    torch.testing.assert_close(cls(*parts)(x), expected)


@pytest.mark.parametrize("cls", PARTS, ids=names)
def test_other_parts_are_refused(cls: type[nni.FusedModule]):
    with pytest.raises(ArgumentError, match=rf"{names(cls)} cannot hold.*ReLU6, Tanh"):
        cls(nn.ReLU6(), nn.Tanh())
    with pytest.raises(ArgumentError, match="no modules"):
        cls()


def test_add_relu_takes_two_tensors():
    a, b = torch.randn(2, 3, 4)
    assert torch.equal(nni.AddReLU(Add(), nn.ReLU())(a, b), torch.relu(a + b))


def test_a_convolution_and_the_sum_it_goes_into():
    conv, x, other = nn.Conv2d(2, 3, 1), torch.randn(2, 2, 4, 4), torch.randn(2, 3, 4, 4)
    total = conv(x) + other
    for add in (torch.add, operator.add, Add()):
        assert torch.equal(nni.ConvAdd2d(conv, add)(x, other), total)
        assert torch.equal(nni.ConvAddReLU2d(conv, add, nn.ReLU())(x, other), total.relu())


def test_a_sum_with_other_parts_is_refused():
    conv = nn.Conv2d(2, 3, 1)
    with pytest.raises(ArgumentError, match=r"ConvAdd2d cannot hold.*Linear"):
        nni.ConvAdd2d(nn.Linear(2, 3), torch.add)
    with pytest.raises(ArgumentError, match=r"add must be a function.*Received 1"):
        nni.ConvAdd2d(conv, 1)
    with pytest.raises(ArgumentError, match=r"ConvAddReLU2d cannot hold.*Received Tanh"):
        nni.ConvAddReLU2d(conv, torch.add, nn.Tanh())


def test_every_public_fused_module_is_tested():
    fused = {getattr(nni, name) for name in nni.__all__} - {nni.FusedModule, nni.AddReLU}
    assert fused == {*PARTS, nni.ConvAdd2d, nni.ConvAddReLU2d}
