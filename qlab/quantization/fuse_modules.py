"""Face of `torch.ao.quantization.fuse_modules`: see `qlab.eager`."""

from qlab.eager import fuse_known_modules, fuse_modules

__all__ = ["fuse_known_modules", "fuse_modules"]
