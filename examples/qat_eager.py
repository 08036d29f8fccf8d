"""Quantization-aware training in eager mode, with weights of three bits."""

import copy

import torch
from torch import nn

import sample_models
from examples.digits import accuracy, data
from qlab.nn.intrinsic.qat import freeze_bn_stats
from qlab.quantization import (
    QConfig,
    QuantWrapper,
    convert,
    default_fake_quant,
    default_per_channel_weight_fake_quant,
    disable_observer,
    fuse_modules_qat,
    prepare_qat,
)

torch.manual_seed(0)
calibration, test = data()
teacher = sample_models.load("conv_bn_relu").model
model = QuantWrapper(copy.deepcopy(teacher).requires_grad_()).train()
chains = [
    [f"{path}.conv", f"{path}.bn", f"{path}.act"]
    for path, block in model.named_modules()
    if hasattr(block, "bn")
]
fused = fuse_modules_qat(model, chains)
fused.qconfig = QConfig(
    activation=default_fake_quant,
    weight=default_per_channel_weight_fake_quant.with_args(quant_min=-4, quant_max=3),
)
prepared = prepare_qat(fused)
with torch.no_grad():
    prepared(calibration)
untrained = convert(copy.deepcopy(prepared).eval())

optimizer = torch.optim.Adam(prepared.parameters(), 1e-3)
for step in range(60):
    if step == 40:  # scales, zero points and batch norms have settled
        prepared.apply(disable_observer)
        prepared.apply(freeze_bn_stats)
    loss = nn.functional.mse_loss(prepared(calibration), teacher(calibration))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
trained = convert(prepared.eval())

print(f"float32                {accuracy(teacher, test):.1f} %")
print(f"3-bit weights, rounded {accuracy(untrained, test):.1f} %")
print(f"3-bit weights, trained {accuracy(trained, test):.1f} %")
