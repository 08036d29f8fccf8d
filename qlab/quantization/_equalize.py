"""Face of `torch.ao.quantization._equalize`: see `qlab.algorithms.eager`."""

from qlab.algorithms.eager import cross_layer_equalization, equalize
from qlab.algorithms.parts import (
    channel_range,
    converged,
    expand_groups_in_paired_modules_list,
    get_module_bias,
    get_module_weight,
    get_name_by_module,
    has_bias,
    max_over_ndim,
    min_over_ndim,
    process_paired_modules_list_to_name,
    set_module_bias,
    set_module_weight,
)

__all__ = [
    "channel_range",
    "converged",
    "cross_layer_equalization",
    "equalize",
    "expand_groups_in_paired_modules_list",
    "get_module_bias",
    "get_module_weight",
    "get_name_by_module",
    "has_bias",
    "max_over_ndim",
    "min_over_ndim",
    "process_paired_modules_list_to_name",
    "set_module_bias",
    "set_module_weight",
]
