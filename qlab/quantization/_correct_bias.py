"""Face of `torch.ao.quantization._correct_bias`: see `qlab.algorithms.eager`."""

from qlab.algorithms.eager import bias_correction

__all__ = ["bias_correction"]
