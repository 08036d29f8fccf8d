"""`convert`: calibrated modules give way to their quantized counterparts."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn
from torch.nn.utils.parametrize import type_before_parametrizations as type_of

from qlab.eager.prepare import (
    custom_mappings,
    get_observer_dict,
    observe_input,
    observe_output,
    static_mappings,
)
from qlab.eager.suited import is_unsuited_table
from qlab.errors import ArgumentError, QlabError, check_dict, check_maker
from qlab.nn.quantized.observed import forget_calibration, placeholders, warn_uncalibrated
from qlab.nn.quantized.whole import loads_as_a_whole
from qlab.ops import checks

ModuleMapping = Mapping[type[nn.Module], Any]


def convert(
    module: nn.Module,
    mapping: ModuleMapping | None = None,
    inplace: bool = False,
    remove_qconfig: bool = True,
    is_reference: bool = False,
    convert_custom_config_dict: Mapping[str, Any] | None = None,
    use_precomputed_fake_quant: bool = False,
) -> nn.Module:
    """The quantized model of a calibrated one that `prepare` made.

    Args:
        module: What `prepare` returned, after calibration.
        mapping: Float class → quantized class; the registry's if not given.
        inplace: Change the model itself instead of a copy.
        remove_qconfig: Take the ``qconfig`` attributes and observers off what stays in float.
        is_reference: Not supported; False.
        convert_custom_config_dict: ``observed_to_quantized_custom_module_class`` maps classes to
            those whose ``from_observed`` makes the quantized module. Without a dict, those of
            `qlab.nn.quantizable` become those of `qlab.nn.quantized`.
        use_precomputed_fake_quant: Use weight observers as they stand.

    An embedding whose qconfig gives its rows no real zero points, of which `prepare` warned, stays
    in float. A module that no data reached has no scale: a warning names it, and using it raises
    `UncalibratedError` until a state dict of a calibrated model is loaded.

    Raises:
        ArgumentError: The model was not prepared.
        QlabError: A module cannot be converted; names it. The model stays as it was.
    """
    checks.model("convert", module)
    check_dict("convert", "mapping", mapping)
    given = check_dict("convert", "convert_custom_config_dict", convert_custom_config_dict)
    key = "observed_to_quantized_custom_module_class"
    check_dict("convert", f"the entry {key!r}", given.get(key))
    if is_reference:
        raise ArgumentError("convert: is_reference=True is not supported", fix="Leave it out.")
    if mapping is None and not _is_prepared(module):
        if next(module.children(), None) and all(hasattr(m, "qconfig") for m in module.modules()):
            kinds = dict.fromkeys(type_of(m).__name__ for m in module.modules())
            raise ArgumentError(
                "convert: the model was prepared, but no module of it can be observed",
                expected="a qconfig, and a module that has a quantized form",
                received=", ".join(kinds),
                fix="Leave the model in float, or wrap layers that have a quantized form.",
            )
        raise ArgumentError(
            "convert: the model was not prepared: no module of it has an observer",
            fix="Set model.qconfig, call prepare, run calibration data through its result, "
            "then convert.",
        )
    if not inplace:
        module = copy.deepcopy(module)
    mapping = static_mappings() if mapping is None else mapping
    custom: ModuleMapping = custom_mappings()[1]
    if convert_custom_config_dict is not None:
        custom = given.get(key) or {}
    swap_children("convert", module, (mapping, custom), use_precomputed_fake_quant)
    if remove_qconfig:
        remove_qconfig_(module)
    return loads_as_a_whole(module)


def swap_children(
    caller: str,
    module: nn.Module,
    mappings: tuple[ModuleMapping, ModuleMapping],
    use_precomputed_fake_quant: bool = False,
) -> None:
    """Replaces every module below one that has a counterpart and a qconfig, in place.

    Nothing is replaced unless everything can be; a module that occurs twice stays one.

    Args:
        caller: Named in errors.
        module: The model.
        mappings: Those of `swap_module`.
        use_precomputed_fake_quant: Likewise.

    Raises:
        QlabError: A module cannot be converted; names it.
    """
    swapped: dict[int, nn.Module] = {}
    blank: list[str] = []
    for path, child in _swappable(module, *mappings):
        if id(child) in swapped:
            continue
        try:
            with placeholders(child) as unseen:
                new = swap_module(child, *mappings, use_precomputed_fake_quant)
        except QlabError as error:
            asked: Any = child.qconfig
            message = f"{caller}: {path!r} ({type(child).__name__}): {error} Its qconfig: {asked}"
            raise type(error)(message) from error
        swapped[id(child)] = new
        if unseen:
            forget_calibration(new)
            blank.append(path)
    for path, child in list(module.named_modules(remove_duplicate=False)):
        if id(child) in swapped and path:
            module.set_submodule(path, swapped[id(child)])
    if blank:
        warn_uncalibrated(caller, blank)


def swap_module(
    mod: nn.Module,
    mapping: ModuleMapping,
    custom_module_class_mapping: ModuleMapping | None = None,
    use_precomputed_fake_quant: bool = False,
) -> nn.Module:
    """The quantized counterpart of a module that has a qconfig; else the module itself.

    Args:
        mod: A prepared module.
        mapping: Float class → quantized class with ``from_float``.
        custom_module_class_mapping: Observed class → quantized class with ``from_observed``.
        use_precomputed_fake_quant: Use weight observers as they stand.

    Returns:
        With the module's own forward hooks and pre-hooks, which now see quantized tensors.
    """
    checks.model("swap_module", mod)
    mapping = check_dict("swap_module", "mapping", mapping)
    custom, kind = custom_module_class_mapping or {}, type_of(mod)
    if getattr(mod, "qconfig", None) is None:
        return mod
    if kind in custom:
        check_maker(custom[kind], "from_observed")
        new = custom[kind].from_observed(mod)
    elif kind in mapping:
        check_maker(mapping[kind], "from_float")
        options = {"use_precomputed_fake_quant": True} if use_precomputed_fake_quant else {}
        new = mapping[kind].from_float(mod, **options)
    else:
        return mod
    for hook in mod._forward_pre_hooks.values():
        if hook is not observe_input:
            new.register_forward_pre_hook(hook)
    for hook in mod._forward_hooks.values():
        if hook is not observe_output:
            new.register_forward_hook(hook)
    return new


def _swappable(
    module: nn.Module, mapping: ModuleMapping, custom: ModuleMapping, path: str = ""
) -> Iterator[tuple[str, nn.Module]]:
    """The modules below one that have a counterpart; not what lies inside those."""
    for name, child in module.named_children():
        inner = f"{path}.{name}" if path else name
        known = type_of(child) in custom or type_of(child) in mapping
        if known and getattr(child, "qconfig", None) is not None:
            if type_of(child) in custom or not is_unsuited_table(child, mapping[type_of(child)]):
                yield inner, child
        else:
            yield from _swappable(child, mapping, custom, inner)


def _is_prepared(module: nn.Module) -> bool:
    observers: dict[str, nn.Module] = {}
    get_observer_dict(module, observers)
    if any(not isinstance(observer, nn.Identity) for observer in observers.values()):
        return True
    hooks = (hook for part in module.modules() for hook in part._forward_hooks.values())
    return any(hook is observe_output for hook in hooks)  # of qconfigs with float activations


def remove_qconfig_(module: nn.Module) -> None:
    """Takes the ``qconfig`` attributes, observers and their hooks off a model, in place."""
    for part in list(module.modules()):
        vars(part).pop("qconfig", None)
        for hooks in (part._forward_hooks, part._forward_pre_hooks):
            for identifier, hook in list(hooks.items()):
                if hook is observe_output or hook is observe_input:
                    del hooks[identifier]
                    del part.activation_post_process
