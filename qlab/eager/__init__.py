"""Eager workflow: observers hang on the modules themselves, stubs mark where codes begin and end.

`fuse_modules` → `prepare` → calibrate → `convert`, as in the reference. The user names what to
fuse, writes `QuantStub` and `DeQuantStub` into the model, and sets ``module.qconfig``. These
attributes, and ``activation_post_process`` on prepared modules, are read and written here and in
``from_float``, for code that was written against the reference.
"""

from torch import nn

from qlab.eager.convert import convert, swap_module
from qlab.eager.dynamic import dynamic_mappings, quantize_dynamic
from qlab.eager.fuse import fuse_known_modules, fuse_modules, fuse_modules_qat
from qlab.eager.prepare import (
    add_observer_,
    add_quant_dequant,
    custom_mappings,
    get_observer_dict,
    prepare,
    propagate_qconfig_,
    static_mappings,
)
from qlab.eager.qat import prepare_qat, quantize_qat
from qlab.eager.quantize import default_eval_fn, quantize
from qlab.nn.quantizable.insides import INSIDES, TRAINED


def _prepare_insides(module: nn.Module) -> nn.Module:
    """In prepare it is observed, in prepare_qat it learns to live with rounding.

    A custom module that is made by hand, or in a graph, goes by its mode.
    """
    trained = TRAINED.get() is not False and module.training
    return (prepare_qat if trained else prepare)(module, inplace=True)


INSIDES.prepare = _prepare_insides
INSIDES.convert = convert

__all__ = [
    "add_observer_",
    "add_quant_dequant",
    "convert",
    "custom_mappings",
    "default_eval_fn",
    "dynamic_mappings",
    "fuse_known_modules",
    "fuse_modules",
    "fuse_modules_qat",
    "get_observer_dict",
    "prepare",
    "prepare_qat",
    "propagate_qconfig_",
    "quantize",
    "quantize_dynamic",
    "quantize_qat",
    "static_mappings",
    "swap_module",
]
