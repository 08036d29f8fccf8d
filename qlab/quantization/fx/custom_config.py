"""Face of `torch.ao.quantization.fx.custom_config`: see `qlab.graph.custom`."""

from qlab.aliases import siblings
from qlab.graph.custom import (
    ConvertCustomConfig,
    FuseCustomConfig,
    PrepareCustomConfig,
    StandaloneModuleConfigEntry,
)

__getattr__ = siblings(__name__)

__all__ = [
    "ConvertCustomConfig",
    "FuseCustomConfig",
    "PrepareCustomConfig",
    "StandaloneModuleConfigEntry",
]
