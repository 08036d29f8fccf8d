"""Float modules fused for quantization: convolution or linear with batch norm and ReLU."""

from qlab.aliases import submodules
from qlab.nn.intrinsic.fused import (
    AddReLU,
    BNReLU2d,
    BNReLU3d,
    Conv1dReLU6,
    Conv2dReLU6,
    Conv3dReLU6,
    ConvAdd2d,
    ConvAddReLU2d,
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
    LinearGELU,
    LinearLeakyReLU,
    LinearReLU,
    LinearReLU6,
    LinearTanh,
)
from qlab.nn.intrinsic.fused import _FusedModule as _FusedModule

__getattr__ = submodules(__name__)

__all__ = [
    "AddReLU",
    "BNReLU2d",
    "BNReLU3d",
    "Conv1dReLU6",
    "Conv2dReLU6",
    "Conv3dReLU6",
    "ConvAdd2d",
    "ConvAddReLU2d",
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
    "LinearGELU",
    "LinearLeakyReLU",
    "LinearReLU",
    "LinearReLU6",
    "LinearTanh",
]
