"""Face of `torch.ao.quantization.qconfig`: see `qlab.qconfig`."""

from qlab.qconfig import *  # noqa: F403
