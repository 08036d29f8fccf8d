"""Face of `torch.ao.quantization.quant_type`: see `qlab.graph.custom`."""

from qlab.graph.custom import QuantType

__all__ = ["QuantType"]
