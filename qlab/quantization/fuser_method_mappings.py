"""Face of `torch.ao.quantization.fuser_method_mappings`: see `qlab.eager.fusers`."""

from qlab.aliases import siblings
from qlab.eager.fusers import (
    fuse_conv_bn,
    fuse_conv_bn_relu,
    fuse_convtranspose_bn,
    fuse_linear_bn,
    get_fuser_method,
    get_fuser_method_new,
)

__getattr__ = siblings(__name__)

__all__ = [
    "fuse_conv_bn",
    "fuse_conv_bn_relu",
    "fuse_convtranspose_bn",
    "fuse_linear_bn",
    "get_fuser_method",
    "get_fuser_method_new",
]
