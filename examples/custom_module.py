"""A module of one's own through prepare_fx and convert_fx: float → observed → quantized."""

import torch
from torch import Tensor, nn

import qlab.nn.quantized as nnq
import sample_models
from examples.digits import accuracy, data
from qlab.quantization import get_default_qconfig_mapping
from qlab.quantization.fx.custom_config import ConvertCustomConfig, PrepareCustomConfig
from qlab.quantization.quantize_fx import convert_fx, prepare_fx


class Head(nn.Module):
    """A classifier whose forward decides on a value, which no trace can follow."""

    def __init__(self, linear: nn.Module) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, x: Tensor) -> Tensor:
        """(N, features) → (N, classes) logits."""
        if not len(x):
            raise ValueError("an empty batch")
        return self.linear(x)


class ObservedHead(Head):
    """What is calibrated."""

    @classmethod
    def from_float(cls, head: Head) -> "ObservedHead":
        """Made by prepare_fx, which sets ``head.qconfig``."""
        observed = cls(head.linear)
        observed.qconfig = head.qconfig
        return observed


class QuantizedHead(Head):
    """What computes on quantized tensors."""

    @classmethod
    def from_observed(cls, observed: ObservedHead) -> "QuantizedHead":
        """Made by convert_fx, which sets ``observed.activation_post_process``."""
        linear = observed.linear
        linear.qconfig = observed.qconfig
        linear.activation_post_process = observed.activation_post_process
        return cls(nnq.Linear.from_float(linear))


calibration, test = data()
model = sample_models.load("conv_bn_relu").model
name = [path for path, module in model.named_modules() if isinstance(module, nn.Linear)][-1]
model.set_submodule(name, Head(model.get_submodule(name)))

prepare_config = PrepareCustomConfig().set_float_to_observed_mapping(Head, ObservedHead)
convert_config = ConvertCustomConfig().set_observed_to_quantized_mapping(
    ObservedHead, QuantizedHead
)
mapping = get_default_qconfig_mapping("onednn")
prepared = prepare_fx(model, mapping, (calibration[:1],), prepare_config)
with torch.no_grad():
    prepared(calibration)
quantized = convert_fx(prepared, convert_config)

print(quantized.get_submodule(name))
print(f"float32  {accuracy(model, test):.1f} %")
print(f"int8     {accuracy(quantized, test):.1f} %")
