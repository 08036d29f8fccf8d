"""Face of `torch.ao.quantization.quantize_fx`: see `qlab.graph`."""

from qlab.aliases import siblings
from qlab.graph import (
    attach_preserved_attrs_to_model,
    convert_fx,
    convert_to_reference_fx,
    fuse_fx,
    prepare_fx,
    prepare_qat_fx,
)

__getattr__ = siblings(__name__)

__all__ = [
    "attach_preserved_attrs_to_model",
    "convert_fx",
    "convert_to_reference_fx",
    "fuse_fx",
    "prepare_fx",
    "prepare_qat_fx",
]
