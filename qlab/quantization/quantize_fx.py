"""Face of `torch.ao.quantization.quantize_fx`: see `qlab.graph`."""

from qlab.graph import convert_fx, convert_to_reference_fx, fuse_fx, prepare_fx, prepare_qat_fx

__all__ = ["convert_fx", "convert_to_reference_fx", "fuse_fx", "prepare_fx", "prepare_qat_fx"]
