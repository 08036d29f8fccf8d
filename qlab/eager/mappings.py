"""Which class takes the place of which, under the reference's names; all from the registry."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from qlab import registry
from qlab.eager.dynamic import dynamic_mappings, embedding_mappings
from qlab.eager.prepare import custom_mappings, static_mappings
from qlab.errors import UnknownNameError, check_dict, check_type
from qlab.fake_quantize import (
    default_fixed_qparams_range_0to1_fake_quant,
    default_fixed_qparams_range_neg1to1_fake_quant,
)
from qlab.nn.quantized import FloatFunctional, functional
from qlab.nn.stubs import DeQuantStub
from qlab.registry.rows import SIGNED_UNIT_INTERVAL, UNIT_INTERVAL

ModuleClass = type[nn.Module]
ModuleClasses = dict[ModuleClass, ModuleClass]


def get_default_static_quant_module_mappings() -> ModuleClasses:
    """Float, fused and quantization-aware classes → the class that `convert` makes of each."""
    return static_mappings()


def get_default_dynamic_quant_module_mappings() -> ModuleClasses:
    """Classes → the class that `quantize_dynamic` makes of each."""
    return {**dynamic_mappings(), **embedding_mappings()}


def get_default_qat_module_mappings() -> ModuleClasses:
    """Float and fused classes → the class that `prepare_qat` makes of each."""
    return dict(registry.qat_modules())


def get_default_static_quant_reference_module_mappings() -> ModuleClasses:
    """Float classes with a weight → the class of `qlab.nn.quantized.reference` for each."""
    return {
        row.reference.float_type: row.reference
        for row in registry.ROWS
        if row.reference is not None
    }


def get_default_float_to_quantized_operator_mappings() -> dict[
    Callable[..., Any], Callable[..., Any]
]:
    """Functions on real numbers → the function of that name on quantized tensors."""
    return {
        function: getattr(functional, row.name)
        for row in registry.ROWS
        for function in row.functions
        if row.name in functional.__all__
    }


def get_quantized_operator(float_op: Callable[..., Any]) -> Callable[..., Any]:
    """The function on quantized tensors that does what one on real numbers does.

    Args:
        float_op: Such as ``torch.nn.functional.elu``.

    Raises:
        UnknownNameError: There is none; lists those that there are.
    """
    known = get_default_float_to_quantized_operator_mappings()
    if float_op not in known:
        names = sorted({function.__name__ for function in known})
        raise UnknownNameError.of(
            "quantized form of the function", getattr(float_op, "__name__", repr(float_op)), names
        )
    return known[float_op]


def get_default_custom_config_dict() -> dict[str, ModuleClasses]:
    """What `prepare` and `convert` take apart if nothing else is asked for."""
    to_observed, to_quantized = custom_mappings()
    return {
        "float_to_observed_custom_module_class": to_observed,
        "observed_to_quantized_custom_module_class": to_quantized,
    }


def get_embedding_static_quant_module_mappings() -> ModuleClasses:
    """The part of the static mapping that is about embeddings."""
    return embedding_mappings()


def get_embedding_qat_module_mappings() -> ModuleClasses:
    """The part of the mapping for training that is about embeddings."""
    return {kind: registry.qat_modules()[kind] for kind in embedding_mappings()}


def get_static_quant_module_class(
    float_module_class: ModuleClass,
    additional_static_quant_mapping: Mapping[ModuleClass, Any] | None = None,
    is_reference: bool = False,
) -> Any:
    """The class that `convert` makes of one.

    Args:
        float_module_class: A float, fused or quantization-aware class.
        additional_static_quant_mapping: Pairs that go before the registry's.
        is_reference: Ask for the module that computes on real numbers with a quantized weight.

    Raises:
        UnknownNameError: There is none.
    """
    known = get_default_static_quant_reference_module_mappings() if is_reference else None
    more = check_dict("get_static_quant_module_class", "mapping", additional_static_quant_mapping)
    known = {**(known or static_mappings()), **more}
    what = "reference form" if is_reference else "quantized form"
    return _found(what, float_module_class, known)


def get_dynamic_quant_module_class(
    float_module_class: ModuleClass,
    additional_dynamic_quant_mapping: Mapping[ModuleClass, Any] | None = None,
) -> Any:
    """The class that `quantize_dynamic` makes of one.

    Args:
        float_module_class: A float or fused class.
        additional_dynamic_quant_mapping: Pairs that go before the registry's.

    Raises:
        UnknownNameError: There is none.
    """
    known = get_default_dynamic_quant_module_mappings()
    more = check_dict("get_dynamic_quant_module_class", "mapping", additional_dynamic_quant_mapping)
    known.update(more)
    return _found("dynamically quantized form", float_module_class, known)


def _found(what: str, kind: ModuleClass, known: Mapping[ModuleClass, Any]) -> Any:
    check_type(f"the {what}", "a class", kind, type, "a module class")
    if kind not in known:
        names = sorted({module.__name__ for module in known})
        raise UnknownNameError.of(f"{what} of the class", kind.__name__, names)
    return known[kind]


def get_default_qconfig_propagation_list() -> set[ModuleClass]:
    """Classes that a qconfig means something to: all that some workflow replaces."""
    return {
        *static_mappings(),
        *dynamic_mappings(),
        *registry.qat_modules(),
        *custom_mappings()[0],
    }


def get_default_module_to_act_post_process() -> dict[ModuleClass, Any]:
    """What rounds, in training, the output of modules whose mathematics fixes its range."""
    by_rule = {
        UNIT_INTERVAL: default_fixed_qparams_range_0to1_fake_quant,
        SIGNED_UNIT_INTERVAL: default_fixed_qparams_range_neg1to1_fake_quant,
    }
    fixed = [row for row in registry.ROWS if row.output in by_rule]
    return {kind: by_rule[row.output] for row in fixed for kind in row.modules}


def get_default_compare_output_module_list() -> set[ModuleClass]:
    """Classes whose outputs a float and a quantized model can be compared at."""
    replaced = {**static_mappings(), **registry.qat_modules(), **dynamic_mappings()}
    return {*replaced, *replaced.values()}


def no_observer_set() -> set[ModuleClass]:
    """Classes that carry a qconfig and are not observed themselves."""
    return {DeQuantStub, FloatFunctional, *dynamic_mappings(), *embedding_mappings()}
