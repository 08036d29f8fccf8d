"""Face of `torch.ao.quantization.quantize`: see `qlab.eager`."""

from qlab.aliases import siblings
from qlab.eager import (
    add_observer_,
    add_quant_dequant,
    convert,
    default_eval_fn,
    get_observer_dict,
    prepare,
    prepare_qat,
    propagate_qconfig_,
    quantize,
    quantize_dynamic,
    quantize_qat,
    swap_module,
)
from qlab.eager.mappings import get_default_custom_config_dict
from qlab.eager.questions import is_activation_post_process

__getattr__ = siblings(__name__)

__all__ = [
    "add_observer_",
    "add_quant_dequant",
    "convert",
    "default_eval_fn",
    "get_default_custom_config_dict",
    "get_observer_dict",
    "is_activation_post_process",
    "prepare",
    "prepare_qat",
    "propagate_qconfig_",
    "quantize",
    "quantize_dynamic",
    "quantize_qat",
    "swap_module",
]
