"""Face of `torch.ao.quantization.qconfig`: see `qlab.qconfig`."""

from qlab.aliases import siblings
from qlab.qconfig import *  # noqa: F403

__getattr__ = siblings(__name__)
