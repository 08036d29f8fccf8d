"""Face of `torch.ao.quantization.qconfig_mapping`: see `qlab.qconfig`."""

from qlab.qconfig import (
    QConfigMapping,
    get_default_qat_qconfig_mapping,
    get_default_qconfig_mapping,
)

__all__ = [
    "QConfigMapping",
    "get_default_qat_qconfig_mapping",
    "get_default_qconfig_mapping",
]
