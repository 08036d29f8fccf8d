"""Face of `torch.ao.quantization.backend_config`: see `qlab.registry.backend`."""

from qlab.aliases import submodules
from qlab.registry.backend import *  # noqa: F403

__getattr__ = submodules(__name__)
