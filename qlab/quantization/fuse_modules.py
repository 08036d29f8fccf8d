"""Face of `torch.ao.quantization.fuse_modules`: see `qlab.eager`."""

from qlab.eager import fuse_known_modules, fuse_modules, fuse_modules_qat

__all__ = ["fuse_known_modules", "fuse_modules", "fuse_modules_qat"]
