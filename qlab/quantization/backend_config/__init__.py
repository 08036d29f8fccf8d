"""Face of `torch.ao.quantization.backend_config`: see `qlab.registry.backend`."""

from qlab.registry.backend import *  # noqa: F403
