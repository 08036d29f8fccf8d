"""The numeric suite: which layer loses what, on its own and in the network."""

import torch

import sample_models
from examples.digits import accuracy, data
from qlab.ns._numeric_suite_fx import (
    OutputLogger,
    add_loggers,
    add_shadow_loggers,
    extend_logger_results_with_comparison,
    extract_logger_info,
    extract_shadow_logger_info,
)
from qlab.ns.fx.utils import compute_sqnr
from qlab.quantization import get_default_qconfig_mapping
from qlab.quantization.quantize_fx import convert_fx, prepare_fx

calibration, test = data()
model = sample_models.load("residual").model
prepared = prepare_fx(model, get_default_qconfig_mapping("onednn"), (calibration[:1],))
with torch.no_grad():
    prepared(calibration)
quantized = convert_fx(prepared)

float_logged, int8_logged = add_loggers("float", model, "int8", quantized, OutputLogger)
shadowed = add_shadow_loggers("float", model, "int8", quantized, OutputLogger)
with torch.no_grad():
    for network in (float_logged, int8_logged, shadowed):
        network(calibration[:32])
in_network = extract_logger_info(float_logged, int8_logged, OutputLogger, "int8")
alone = extract_shadow_logger_info(shadowed, OutputLogger, "int8")
for results in (in_network, alone):
    extend_logger_results_with_comparison(results, "float", "int8", compute_sqnr, "sqnr")

print("layer                alone  in the network   [dB]")
for layer in in_network:
    decibels = (r[layer]["node_output"]["int8"][0]["sqnr"][0] for r in (alone, in_network))
    print(f"{layer:19}  {next(decibels):5.1f}  {next(decibels):14.1f}")
print(f"float32  {accuracy(model, test):.1f} %")
print(f"int8     {accuracy(quantized, test):.1f} %")
