"""Face of `torch.ao.quantization.qconfig_mapping`: see `qlab.qconfig`."""

from qlab.aliases import siblings
from qlab.qconfig import (
    QConfigMapping,
    get_default_qat_qconfig_mapping,
    get_default_qconfig_mapping,
)

__getattr__ = siblings(__name__)

__all__ = [
    "QConfigMapping",
    "get_default_qat_qconfig_mapping",
    "get_default_qconfig_mapping",
]
