"""`fuse_modules`: chains of modules, named by the user, become one module each."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn
from torch.nn.utils.parametrize import type_before_parametrizations as type_of

from qlab.errors import (
    ArgumentError,
    DTypeError,
    UnknownNameError,
    check_callable,
    check_dict,
)
from qlab.ops import checks
from qlab.registry import PATTERNS

Fuser = Callable[[list[nn.Module], bool, Mapping[Any, Any] | None], list[nn.Module]]


def fuse_modules(
    model: nn.Module,
    modules_to_fuse: Sequence[str] | Sequence[Sequence[str]],
    inplace: bool = False,
    fuser_func: Fuser | None = None,
    fuse_custom_config_dict: Mapping[str, Any] | None = None,
) -> nn.Module:
    """A model in which chains of modules are one module each; the rest become identities.

    Args:
        model: In evaluation mode; batch norm is folded into the weights before it.
        modules_to_fuse: Paths of one chain, ``["conv", "bn", "relu"]``, or a list of chains.
        inplace: Change the model itself instead of a copy.
        fuser_func: Turns ``(modules, False, additional mapping)`` into as many modules; the
            registry's patterns if not given.
        fuse_custom_config_dict: ``additional_fuser_method_mapping`` is handed to ``fuser_func``.

    Raises:
        UnknownNameError: The model has no module of this path.
        ArgumentError: Modules that no pattern fuses, or training mode. The model stays as it was.
    """
    return _fuse(model, modules_to_fuse, inplace, fuser_func, fuse_custom_config_dict, False)


def fuse_modules_qat(
    model: nn.Module,
    modules_to_fuse: Sequence[str] | Sequence[Sequence[str]],
    inplace: bool = False,
    fuser_func: Fuser | None = None,
    fuse_custom_config_dict: Mapping[str, Any] | None = None,
) -> nn.Module:
    """As `fuse_modules`, for training: batch norm is kept, beside the layer before it.

    Args:
        model: In training mode.
        modules_to_fuse: As in `fuse_modules`.
        inplace: Change the model itself instead of a copy.
        fuser_func: Turns ``(modules, True, additional mapping)`` into as many modules.
        fuse_custom_config_dict: As in `fuse_modules`.

    Raises:
        UnknownNameError: The model has no module of this path.
        ArgumentError: Modules that no pattern fuses, or evaluation mode.
        UnsupportedError: A pattern that exists in evaluation mode only. The model stays as it was.
    """
    return _fuse(model, modules_to_fuse, inplace, fuser_func, fuse_custom_config_dict, True)


def _fuse(
    model: nn.Module,
    chains: Any,
    inplace: bool,
    fuser_func: Fuser | None,
    custom: Mapping[str, Any] | None,
    is_qat: bool,
) -> nn.Module:
    caller = "fuse_modules_qat" if is_qat else "fuse_modules"
    checks.model(caller, model)
    if isinstance(chains, str) or not isinstance(chains, Sequence):
        raise DTypeError(
            f"{caller}: the modules to fuse are not named",
            expected="a list of paths, or a list of such lists",
            received=repr(chains),
        )
    if all(isinstance(item, str) for item in chains):
        chains = [chains]
    for chain in chains:
        if not isinstance(chain, Sequence) or not all(isinstance(p, str) for p in chain):
            raise DTypeError(
                f"{caller}: a chain to fuse is not named",
                expected="a list of paths such as ['conv', 'bn', 'relu']",
                received=repr(chain),
            )
    key = "additional_fuser_method_mapping"
    extra = check_dict(caller, "fuse_custom_config_dict", custom).get(key)
    for method in check_dict(caller, key, extra).values():
        check_callable(caller, f"a method of {key}", method)
    fuser = fuse_known_modules if fuser_func is None else fuser_func
    check_callable(caller, "fuser_func", fuser)
    if not inplace:
        model = copy.deepcopy(model)
    found = [[_module(model, path) for path in chain] for chain in chains]
    _check_apart(caller, chains, found)
    fused = [fuser(modules, is_qat, extra) for modules in found]
    for chain, modules in zip(chains, fused, strict=True):
        _check_fused(caller, chain, modules)
    for chain, modules in zip(chains, fused, strict=True):
        for path, module in zip(chain, modules, strict=True):
            model.set_submodule(path, module)
    return model


def _check_fused(caller: str, chain: Sequence[str], modules: Any) -> None:
    """Raises unless what fuses returned a module for each of a chain."""
    whole = isinstance(modules, list | tuple) and all(isinstance(m, nn.Module) for m in modules)
    if not whole or len(modules) != len(chain):
        raise DTypeError(
            f"{caller}: fuser_func gave something else than the fused modules",
            expected=f"a list of {len(chain)} modules: the fused one, then identities",
            received=repr(modules),
        )


def _check_apart(
    caller: str, chains: Sequence[Sequence[str]], found: Sequence[Sequence[nn.Module]]
) -> None:
    """Raises unless every chain has modules, and no module belongs to two of them."""
    seen: dict[int, tuple[str, Sequence[str]]] = {}
    for chain, modules in zip(chains, found, strict=True):
        if not chain:
            raise ArgumentError(
                f"{caller}: a chain to fuse is empty",
                expected="the paths of at least two modules",
                received=repr(list(chains)),
            )
        for path, module in zip(chain, modules, strict=True):
            if id(module) in seen:
                other, before = seen[id(module)]
                same = "" if other == path else f", which is the module {other!r},"
                raise ArgumentError(
                    f"{caller}: {path!r}{same} is to be fused twice",
                    expected="every module in one chain, once",
                    received=f"{list(before)} and {list(chain)}",
                    fix="Fusing a module again would apply it again, or lose it. "
                    "Give each call of a shared module a module of its own.",
                )
            seen[id(module)] = path, chain


def fuse_known_modules(
    mod_list: Sequence[nn.Module],
    is_qat: bool = False,
    additional_fuser_method_mapping: Mapping[Any, Any] | None = None,
) -> list[nn.Module]:
    """Fuses one chain: the fused module, then an identity for each of the others.

    Forward pre-hooks of the first and forward hooks of the last module move to the fused one.

    Args:
        mod_list: The chain.
        is_qat: Whether to keep batch norm for training.
        additional_fuser_method_mapping: Classes of a chain → ``function(is_qat, *modules)``.

    Raises:
        ArgumentError: No pattern fuses these classes, or the modules' mode does not suit.
    """
    for module in mod_list:
        checks.model("fuse_modules", module)
    types = tuple(type_of(module) for module in mod_list)
    method = (additional_fuser_method_mapping or {}).get(types)
    bare = [_without_hooks(module) for module in mod_list]
    fused = _fuse_by_registry(types, bare, is_qat) if method is None else method(is_qat, *bare)
    for hook in mod_list[0]._forward_pre_hooks.values():
        fused.register_forward_pre_hook(hook)
    for hook in mod_list[-1]._forward_hooks.values():
        fused.register_forward_hook(hook)
    training = mod_list[0].training
    return [fused, *(nn.Identity().train(training) for _ in mod_list[1:])]


def _without_hooks(module: nn.Module) -> nn.Module:
    """The same module, parameters shared, without its forward hooks."""
    twin = copy.copy(module)
    twin._forward_pre_hooks, twin._forward_hooks = OrderedDict(), OrderedDict()
    return twin


def _fuse_by_registry(
    types: tuple[type[nn.Module], ...], chain: Sequence[nn.Module], is_qat: bool
) -> nn.Module:
    pattern = next((pattern for pattern in PATTERNS if pattern.modules == types), None)
    if pattern is None:
        raise ArgumentError(
            "fuse_modules: no pattern fuses these modules",
            expected="one of: " + "; ".join(pattern.title for pattern in PATTERNS),
            received=" + ".join(kind.__name__ for kind in types),
        )
    if chain[0].training != is_qat:
        raise ArgumentError(
            f"fuse_modules: {pattern.title} is fused for "
            + ("training, and the modules are not" if is_qat else "use, and the modules are")
            + " in training mode",
            fix="Call model.train() first." if is_qat else "Call model.eval() first.",
        )
    return pattern.fuse(chain)


def _module(model: nn.Module, path: str) -> nn.Module:
    try:
        return model.get_submodule(path)
    except AttributeError as error:
        known = [name for name, _ in model.named_modules() if name]
        raise UnknownNameError.of("module", path, known) from error
