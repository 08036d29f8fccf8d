"""Face of `torch.ao.quantization.fuse_modules`: see `qlab.eager`."""

from qlab.aliases import siblings
from qlab.eager import fuse_known_modules, fuse_modules, fuse_modules_qat

__getattr__ = siblings(__name__)

__all__ = ["fuse_known_modules", "fuse_modules", "fuse_modules_qat"]
