"""Face of `torch.ao.quantization._equalize`: see `qlab.algorithms.eager`."""

from qlab.algorithms.eager import cross_layer_equalization, equalize

__all__ = ["cross_layer_equalization", "equalize"]
