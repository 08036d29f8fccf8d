"""Face of `torch.ao.quantization.stubs`: see `qlab.nn.stubs`."""

from qlab.aliases import siblings
from qlab.nn.stubs import DeQuantStub, QuantStub, QuantWrapper

__getattr__ = siblings(__name__)

__all__ = ["DeQuantStub", "QuantStub", "QuantWrapper"]
