"""Which class takes the place of which, under the reference's names; all from the registry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from qlab import registry
from qlab.eager.dynamic import dynamic_mappings, embedding_mappings
from qlab.eager.prepare import custom_mappings, static_mappings
from qlab.errors import UnknownNameError
from qlab.nn.quantized import FloatFunctional
from qlab.nn.stubs import DeQuantStub

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
        is_reference: Not supported; False.

    Raises:
        UnknownNameError: There is none.
    """
    if is_reference:
        raise UnknownNameError.of("reference module for", float_module_class.__name__, [])
    return _found(
        "quantized form",
        float_module_class,
        {**static_mappings(), **(additional_static_quant_mapping or {})},
    )


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
    known.update(additional_dynamic_quant_mapping or {})
    return _found("dynamically quantized form", float_module_class, known)


def _found(what: str, kind: ModuleClass, known: Mapping[ModuleClass, Any]) -> Any:
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


def get_default_compare_output_module_list() -> set[ModuleClass]:
    """Classes whose outputs a float and a quantized model can be compared at."""
    replaced = {**static_mappings(), **registry.qat_modules(), **dynamic_mappings()}
    return {*replaced, *replaced.values()}


def no_observer_set() -> set[ModuleClass]:
    """Classes that carry a qconfig and are not observed themselves."""
    return {DeQuantStub, FloatFunctional, *dynamic_mappings(), *embedding_mappings()}
