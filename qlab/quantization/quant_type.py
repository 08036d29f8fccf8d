"""Face of `torch.ao.quantization.quant_type`: see `qlab.registry.quant_type`."""

from qlab.registry.quant_type import QuantType

__all__ = ["QuantType"]
