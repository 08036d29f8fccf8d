"""Stubs are the identity, and carry a qconfig."""

import torch
from torch import nn

from qlab.nn.stubs import DeQuantStub, QuantStub, QuantWrapper


def test_stubs_pass_everything_through():
    x = torch.randn(3)
    for stub in (QuantStub(), DeQuantStub()):
        assert stub(x) is x and "qconfig" not in vars(stub)
    assert QuantStub("a qconfig").qconfig == "a qconfig"


def test_wrapper():
    module = nn.Linear(3, 2).eval()
    module.qconfig = "a qconfig"
    wrapped = QuantWrapper(module)
    x = torch.randn(5, 3)
    assert torch.equal(wrapped(x), module(x))
    assert not wrapped.training
    assert wrapped.quant.qconfig == wrapped.dequant.qconfig == "a qconfig"
    assert [name for name, _ in wrapped.named_children()] == ["quant", "dequant", "module"]
