"""``qlab::contract``, the operator that compilers see."""

import gc

import pytest
import torch

from qlab import ops, qint8, quint8
from qlab.errors import ArgumentError
from qlab.ops import traced
from tests.qlab.ops.examples import W, X, Y, codes, per_channel

IMAGE, KERNEL = codes(quint8, 2, 4, 9, 9), codes(qint8, 6, 4, 3, 3)
OPTIONS = {"stride": [2, 1], "padding": 1, "relu": True}


def call(y_qparams=Y, **options) -> str:
    return traced.described("conv2d", X, W, y_qparams, {**OPTIONS, **options})


@pytest.mark.parametrize("y_qparams", [Y, None])
@pytest.mark.parametrize("padding_mode", ["zeros", "circular"])
def test_it_is_the_operator_it_describes(y_qparams, padding_mode):
    given = call(y_qparams, padding_mode=padding_mode)
    found = traced.contract(given, IMAGE, KERNEL, W.scale, W.zero_point, None)
    options = {**OPTIONS, "padding_mode": padding_mode}
    assert torch.equal(found, ops.conv2d(IMAGE, X, KERNEL, W, None, y_qparams, **options))


def test_it_is_well_formed():
    """Schema, fake kernel and strides, checked by torch."""
    arguments = (call(), IMAGE, KERNEL, W.scale, W.zero_point, torch.zeros(6))
    torch.library.opcheck(torch.ops.qlab.contract.default, arguments)
    rows = codes(quint8, 3, 8), codes(qint8, 5, 8)
    w_qparams = per_channel(5)
    described = traced.described("linear", X, w_qparams, Y, {"relu": False})
    arguments = (described, *rows, w_qparams.scale, w_qparams.zero_point, None)
    torch.library.opcheck(torch.ops.qlab.contract.default, arguments)


def test_a_changed_scale_is_another_layer():
    scale = W.scale.clone()
    first = traced.contract(call(), IMAGE, KERNEL, scale, W.zero_point, None)
    scale.mul_(0.5)
    second = traced.contract(call(), IMAGE, KERNEL, scale, W.zero_point, None)
    assert not torch.equal(first, second)


def test_nothing_is_kept_of_a_weight_that_is_gone():
    weight = KERNEL.clone()
    traced.contract(call(), IMAGE, weight, W.scale, W.zero_point, None)
    key = call(), id(weight)
    assert key in traced._LAYERS
    del weight
    gc.collect()
    assert key not in traced._LAYERS


@pytest.mark.parametrize("last", [False, True])
def test_a_bag_is_well_formed(last: bool):
    w_qparams = per_channel(5)
    options = {"mode": "sum", "include_last_offset": last}
    described = traced.described("embedding_bag", None, w_qparams, None, options)
    indices, offsets = torch.tensor([0, 4, 1, 1]), torch.tensor([0, 3, 4])
    table = codes(qint8, 5, 8), w_qparams.scale, w_qparams.zero_point
    arguments = (described, indices, *table, offsets, torch.ones(4))
    torch.library.opcheck(traced.embedding_bag, arguments)
    arguments = (described, indices.reshape(2, 2), *table, None, None)
    torch.library.opcheck(traced.embedding_bag, arguments)
    with pytest.raises(ArgumentError, match="embedding_bag: an index lies outside the table"):
        traced.embedding_bag(described, indices + 1, *table, offsets, None)
