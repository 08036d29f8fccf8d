"""Quantization-aware training as a graph, with activations of three bits."""

import copy

import torch
from torch import nn

import sample_models
from examples.digits import accuracy, data
from qlab.quantization import (
    QConfig,
    QConfigMapping,
    default_fake_quant,
    default_per_channel_weight_fake_quant,
)
from qlab.quantization.quantize_fx import convert_fx, prepare_qat_fx

torch.manual_seed(0)
calibration, test = data()
teacher = sample_models.load("residual").model
model = copy.deepcopy(teacher).requires_grad_().train()
qconfig = QConfig(
    activation=default_fake_quant.with_args(quant_max=7, reduce_range=False),
    weight=default_per_channel_weight_fake_quant.with_args(quant_min=-4, quant_max=3),
)
prepared = prepare_qat_fx(model, QConfigMapping().set_global(qconfig), (calibration[:1],))
with torch.no_grad():
    prepared(calibration)
untrained = convert_fx(copy.deepcopy(prepared).eval())

optimizer = torch.optim.Adam(prepared.parameters(), 1e-3)
for _ in range(60):
    loss = nn.functional.mse_loss(prepared(calibration), teacher(calibration))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
trained = convert_fx(prepared.eval())

print(f"float32         {accuracy(teacher, test):.1f} %")
print(f"3 bits, rounded {accuracy(untrained, test):.1f} %")
print(f"3 bits, trained {accuracy(trained, test):.1f} %")
