"""Face of `torch.ao.quantization.observer`: see `qlab.observers`."""

from qlab.aliases import siblings
from qlab.observers import *  # noqa: F403

__getattr__ = siblings(__name__)
