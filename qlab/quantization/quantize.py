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
from qlab.eager import add_observer_ as _add_observer_  # noqa: F401
from qlab.eager import get_observer_dict as _get_observer_dict  # noqa: F401
from qlab.eager.convert import remove_qconfig_ as _remove_qconfig  # noqa: F401
from qlab.eager.mappings import get_default_custom_config_dict
from qlab.eager.prepare import observe_input as _observer_forward_pre_hook  # noqa: F401
from qlab.eager.prepare import observe_output as _observer_forward_hook  # noqa: F401
from qlab.eager.prepare import propagate_below as _propagate_qconfig_helper  # noqa: F401
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
