"""A small model in all its forms, for the tests of the numeric suite."""

from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from qlab.graph import convert_fx, prepare_fx
from tests.golden.ns_cases import Net


@dataclass
class Forms:
    """A float model, prepared and calibrated, and converted; and the data."""

    model: nn.Module
    prepared: fx.GraphModule
    converted: fx.GraphModule
    x: Tensor


def forms_of(model: nn.Module, x: Tensor, mapping="int8-minmax") -> Forms:
    prepared = prepare_fx(model.eval(), mapping, (x,))
    with torch.no_grad():
        prepared(x)
    return Forms(model, prepared, convert_fx(prepared), x)


def net_forms() -> Forms:
    net = Net()
    net.bn.running_var.uniform_(0.5, 2.0)
    net.bn.running_mean.uniform_(-0.5, 0.5)
    return forms_of(net, torch.randn(2, 3, 6, 6))
