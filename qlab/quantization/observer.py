"""Face of `torch.ao.quantization.observer`: see `qlab.observers`."""

from qlab.observers import *  # noqa: F403
