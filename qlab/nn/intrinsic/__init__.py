"""Float modules fused for quantization: convolution or linear with batch norm and ReLU."""

from qlab.aliases import submodules
from qlab.nn.intrinsic.fused import (
    AddReLU,
    BNReLU2d,
    BNReLU3d,
    Conv1dReLU6,
    Conv2dReLU6,
    Conv3dReLU6,
    ConvBn1d,
    ConvBn2d,
    ConvBn3d,
    ConvBnReLU1d,
    ConvBnReLU2d,
    ConvBnReLU3d,
    ConvReLU1d,
    ConvReLU2d,
    ConvReLU3d,
    FusedModule,
    LinearBn1d,
    LinearReLU,
    LinearReLU6,
)

__getattr__ = submodules(__name__)

__all__ = [
    "AddReLU",
    "BNReLU2d",
    "BNReLU3d",
    "Conv1dReLU6",
    "Conv2dReLU6",
    "Conv3dReLU6",
    "ConvBn1d",
    "ConvBn2d",
    "ConvBn3d",
    "ConvBnReLU1d",
    "ConvBnReLU2d",
    "ConvBnReLU3d",
    "ConvReLU1d",
    "ConvReLU2d",
    "ConvReLU3d",
    "FusedModule",
    "LinearBn1d",
    "LinearReLU",
    "LinearReLU6",
]
