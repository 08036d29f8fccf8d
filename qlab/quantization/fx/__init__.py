"""Face of `torch.ao.quantization.fx`: the configuration objects of the graph workflow."""

from qlab.aliases import submodules

__getattr__ = submodules(__name__)
