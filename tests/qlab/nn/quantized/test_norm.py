"""Norms: what running statistics and missing weights mean."""

import pytest
import torch
from torch import nn

import qlab.nn.quantized as nnq
from qlab.dtypes import quint8
from qlab.qparams import QParams, dequantize, quantize
from qlab.qtensor import QTensor

INPUT = QParams.per_tensor(0.05, 100, quint8)
OUTPUT = QParams.per_tensor(0.02, 128, quint8)
X = torch.randint(0, 256, (2, 4, 6), dtype=torch.uint8)


@pytest.mark.parametrize("track", [False, True])
@pytest.mark.parametrize("affine", [False, True])
def test_instance_norm_uses_the_statistics_that_the_float_module_uses(track: bool, affine: bool):
    module = nn.InstanceNorm1d(4, affine=affine, track_running_stats=track)
    module(torch.randn(64, 4, 6) * 5 + 1)
    module.eval()
    made = nnq.InstanceNorm1d.from_qparams(module, output=OUTPUT)
    expected = quantize(module(dequantize(X, INPUT)).detach(), OUTPUT)
    assert (made(QTensor(X, INPUT)).codes.int() - expected.int()).abs().max() <= 1


def test_layer_norm_without_bias():
    module = nn.LayerNorm(6, bias=False)
    made = nnq.LayerNorm.from_qparams(module, output=OUTPUT)
    assert made.bias is None and torch.equal(made.weight, module.weight)
    back = nnq.LayerNorm.from_config(made.config())
    back.load_state_dict(made.state_dict())
    assert torch.equal(back(QTensor(X, INPUT)).codes, made(QTensor(X, INPUT)).codes)


def test_the_references_constructors():
    weight, bias = torch.ones(4), torch.zeros(4)
    layer_norm = nnq.LayerNorm([6], None, None, 0.02, 128, 1e-6, False)
    assert (layer_norm.eps, layer_norm.normalized_shape) == (1e-6, (6,))
    group_norm = nnq.GroupNorm(2, 4, weight, bias, 0.02, 128)
    assert group_norm.output_qparams.same_as(OUTPUT)
    instance_norm = nnq.InstanceNorm1d(4, weight, bias, 0.02, 128, 1e-6)
    assert instance_norm(QTensor(X, INPUT)).shape == X.shape
    batch_norm = nnq.BatchNorm2d(4, 1e-6)
    batch_norm.scale, batch_norm.zero_point = 0.05, 100
    q = QTensor(X.reshape(2, 4, 6, 1), INPUT)
    assert torch.equal(batch_norm(q).codes, q.codes)


def test_weights_are_copied():
    module = nn.GroupNorm(2, 4)
    made = nnq.GroupNorm.from_qparams(module, output=OUTPUT)
    nn.init.zeros_(module.weight)
    assert torch.equal(made.weight, torch.ones(4))
