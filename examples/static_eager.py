"""Static quantization in eager mode: stubs, fuse, prepare, calibrate, convert."""

import torch

import sample_models
from examples.digits import accuracy, data, kilobytes
from qlab.quantization import QuantWrapper, convert, fuse_modules, get_default_qconfig, prepare

calibration, test = data()
model = QuantWrapper(sample_models.load("conv_bn_relu").model)  # a stub before it, one behind it
chains = [
    [f"{path}.conv", f"{path}.bn", f"{path}.act"]
    for path, block in model.named_modules()
    if hasattr(block, "bn")
]
fused = fuse_modules(model, chains)
fused.qconfig = get_default_qconfig("onednn")
prepared = prepare(fused)
with torch.no_grad():
    prepared(calibration)
quantized = convert(prepared)

print(f"float32  {accuracy(model, test):.1f} %  {kilobytes(model):.0f} kB")
print(f"int8     {accuracy(quantized, test):.1f} %  {kilobytes(quantized):.0f} kB")
