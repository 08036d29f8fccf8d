"""Fake quantization and its gradient against torch 2.13."""

import torch

from qlab.dtypes import integer
from qlab.granularity import PerAxis, PerTensor
from qlab.qparams import QParams, fake_quantize
from tests.golden import load


def test_fake_quantize_and_its_gradient_are_bit_equal() -> None:
    for case in load("fake_quantize"):
        low, high, axis = (case.kwargs[name] for name in ("quant_min", "quant_max", "axis"))
        qparams = QParams(
            case.tensors["scale"],
            case.tensors["zero_point"],
            integer(8, signed=low < 0),
            PerTensor() if axis is None else PerAxis(axis),
            low,
            high,
        )
        x = case.tensors["x"].clone().requires_grad_()
        y = fake_quantize(x, qparams)
        (gradient,) = torch.autograd.grad(y.sum(), x)
        assert torch.equal(y.detach(), case.tensors["y"]), case
        assert torch.equal(gradient, case.tensors["gradient"]), case
