"""Static quantization as a graph: prepare_fx, calibrate, convert_fx; nothing to rewrite."""

import torch

import sample_models
from examples.digits import accuracy, data, kilobytes
from qlab.quantization import get_default_qconfig_mapping
from qlab.quantization.quantize_fx import convert_fx, prepare_fx

calibration, test = data()
model = sample_models.load("residual").model
mapping = get_default_qconfig_mapping("onednn")
prepared = prepare_fx(model, mapping, (calibration[:1],))
with torch.no_grad():
    prepared(calibration)
quantized = convert_fx(prepared)

print(prepared.meta["plan"].to_frame()[["type", "execution", "reason"]].to_string())
print(f"float32  {accuracy(model, test):.1f} %  {kilobytes(model):.0f} kB")
print(f"int8     {accuracy(quantized, test):.1f} %  {kilobytes(quantized):.0f} kB")
