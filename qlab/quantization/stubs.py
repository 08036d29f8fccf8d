"""Face of `torch.ao.quantization.stubs`: see `qlab.nn.stubs`."""

from qlab.nn.stubs import DeQuantStub, QuantStub, QuantWrapper

__all__ = ["DeQuantStub", "QuantStub", "QuantWrapper"]
